"""Whose weights a state dict is that does not fit: a network of the other library, or another size.

timm and torchvision make many of the same networks under other names of layers, and one family in
many widths. Networks whose names are close are made without memory for their weights, and their
names and shapes compared.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from dshrink.network.references import untagged
from dshrink.network.tracing import import_timm, import_torchvision_models

#: So many networks of each library are tried.
_TRIED = 6
#: Other classes and other inputs change so many shapes: those of the last layer and of the first.
_ENDS = 3


def network_of(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], name: str
) -> str | None:
    """The network that these are weights of, as a MODEL, where one with a close name is.

    ``own`` is the state dict that they do not fit, that of the network ``name``.
    """
    shapes = _shapes(state)
    if _same_but_ends(shapes, _shapes(own)):
        return None  # the network itself, with other classes or inputs
    for model, make in _close(name):
        try:
            with torch.device("meta"):
                theirs = _shapes(make().state_dict())
        except Exception:  # not all can be made without memory
            continue
        if _same_but_ends(shapes, theirs):
            return model
    return None


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def _same_but_ends(
    one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether the names are equal, and the shapes but for the ends'."""
    if one.keys() != other.keys():
        return False
    return sum(one[name] != other[name] for name in one) <= _ENDS


def _close(name: str) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    timm, torchvision = import_timm(), import_torchvision_models()
    wanted = _plain(untagged(name.partition(" ")[0].rpartition(":")[2]))
    for model in _closest(wanted, torchvision.list_models(module=torchvision)):
        yield f"torchvision:{model}", partial(torchvision.get_model, model, weights=None)
    for model in _closest(wanted, timm.list_models()):
        yield model, partial(timm.create_model, model)


def _closest(wanted: str, known: list[str]) -> list[str]:
    plain: dict[str, Any] = {}
    for name in known:
        plain.setdefault(_plain(name), name)
    found = difflib.get_close_matches(wanted, list(plain), n=_TRIED, cutoff=0.6)
    return [plain[one] for one in found]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
