"""Reading files of weights as people have them, without running what they hold.

A pickle can hold any code, so it is read with torch's list of harmless classes and the few that
training scripts leave beside the weights (a Namespace of options, numpy's numbers, paths). For
anything else the error names the class and says how to strip it where the file is trusted.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import shlex
import types
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dshrink.errors import NetworkError
from dshrink.network.references import NAMED_WEIGHTS

#: Where training scripts put the weights, the commonest first.
WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "net", "network", "module", "model_state"),
    *("weights", "params"),
)
#: Where they put the moving average of the weights.
EMA_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict"),
    *("ema_model", "params_ema"),
)
#: So deep wrappers lie in each other.
_DEEPEST = 3
_SAVE = "torch.save(model.state_dict(), 'weights.pth')"


def _harmless() -> list[Any]:
    """What may lie beside the weights: values without code."""
    numpy_types = [type(np.dtype(kind)) for kind in (*np.typecodes["AllInteger"], *"?efdg")]
    core: Any = np._core.multiarray  # type: ignore[attr-defined]
    return [
        *(argparse.Namespace, types.SimpleNamespace),
        *(pathlib.PosixPath, pathlib.PurePosixPath),
        *(np.dtype, np.ndarray, core.scalar, core._reconstruct, *dict.fromkeys(numpy_types)),
        # What numpy before 2 wrote.
        *((core.scalar, "numpy.core.multiarray.scalar"),),
        *((core._reconstruct, "numpy.core.multiarray._reconstruct"),),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundState:
    """Tensors by the names of the file; ``wrapper`` says under which key they lay ("" for none).

    ``average`` is the key of a moving average that lies beside them and was not asked for.
    """

    tensors: Mapping[str, torch.Tensor]
    wrapper: str = ""
    average: str = ""


def read_state(path: Path, *, ema: bool = False) -> FoundState:
    """The state dict in a file, or the moving average of the weights in it.

    Raises NetworkError, one line that says what the file is instead.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise NetworkError(
            f"{path}: {what}; --weights takes {', '.join(NAMED_WEIGHTS)} or a file of weights"
        )
    if problem := _no_weights(path):
        raise NetworkError(f"{path}: {problem}")
    document = _safetensors(path) if _is_safetensors(path) else _unpickled(path)
    found = _state_in(document, ema=ema)
    other = _state_in(document, ema=not ema)
    if found is not None:
        return found if ema or other is None else replace(found, average=other.wrapper)
    if ema and other is not None:
        raise NetworkError(f"{path}: holds no moving average of weights: leave --ema out")
    if other is not None:
        raise NetworkError(
            f"{path}: holds only the moving average of the weights ({other.wrapper}): give --ema "
            "to take it (--weights-ema where --ema is of the training)"
        )
    keys = ", ".join(map(str, list(document)[:8])) if isinstance(document, Mapping) else ""
    what = f"keys {keys}" if keys else f"a {type(document).__name__}"
    raise NetworkError(f"{path}: no state dict in it ({what}); save one by {_SAVE}")


def _no_weights(path: Path) -> str:
    """What a file is that cannot hold weights, by its first bytes; empty where it may."""
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip().lower()
    if not head:
        return "is empty: copy it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights: get them by `git lfs pull`"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not weights: download the file itself"
    if path.suffix.lower() == ".onnx":
        return "is an ONNX file, a whole network: give it as MODEL"
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "is cut off (its end is missing): copy it again"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "is compressed: unpack it first"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        inside = {name.partition("/")[2] for name in names}
        if "constants.pkl" in inside:
            save = "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            return f"is a TorchScript archive, a whole network; save its weights by {save}"
        if "data.pkl" not in inside:
            return f"is a zip archive without a state dict; save one by {_SAVE}"
    return ""


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its header where it has another name (transformers' ``.bin``)."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix.lower() == ".safetensors" or (len(head) == 9 and head[8:] == b"{")


def _safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise NetworkError(
            f"{path}: not a readable file of safetensors ({reason[:100]}): it is damaged or cut "
            "off, or no such file at all; copy it again"
        ) from error


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise NetworkError(f"{path}: {_refusal(path, str(error))}") from error
    except Exception as error:  # a damaged file may raise anything
        raise NetworkError(
            f"{path}: not a readable state dict ({type(error).__name__}): it is damaged, cut off "
            f"or no file of torch; save one by {_SAVE}"
        ) from error


def _refusal(path: Path, said: str) -> str:
    """Why a pickle is not read: it names a class, or it is none of torch's."""
    names = _classes_in(path) or re.findall(r"GLOBAL ([\w.]+)", said)
    if not names:
        return f"not a readable state dict (no pickle of torch's, or damaged); save one by {_SAVE}"
    if any(name.startswith("torch.nn.modules.") for name in names):
        kinds = [name for name in names if not name.startswith(("torch.", "collections."))]
        whole = kinds[0] if kinds else names[0]
        return (
            f"not a readable state dict: holds a whole network, pickled with its code "
            f"({whole}); where that code is, save its weights by {_SAVE}"
        )
    load = f"import torch; d = torch.load({str(path)!r}, weights_only=False)"
    strip = f"{load}; torch.save(d.get('state_dict', d.get('model', d)), 'weights.pth')"
    return (
        f"not a readable state dict: holds a {names[0]} beside the weights, and reading that would "
        f"run code; where you trust the file, strip it: python -c {shlex.quote(strip)}"
    )


def _classes_in(path: Path) -> list[str]:
    """The classes that a pickle of torch's names and that are not known to be harmless."""
    try:
        with torch.serialization.safe_globals(_harmless()):
            return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # an older format has no such list
        return []


def _state_in(document: Any, *, ema: bool, depth: int = 0) -> FoundState | None:
    """The state dict in what was read, through its wrappers; None where there is none."""
    if not isinstance(document, Mapping) or depth > _DEEPEST:
        return None
    if not ema and (tensors := _tensors(document)):
        return FoundState(tensors=tensors)
    for key in EMA_WRAPPERS if ema else WRAPPERS:
        if isinstance(inner := document.get(key), Mapping) and (
            found := _state_in(inner, ema=False, depth=depth + 1)
        ):
            wrapper = f"{key}.{found.wrapper}" if found.wrapper else key
            return FoundState(tensors=found.tensors, wrapper=wrapper)
    return None


def _tensors(document: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """A state dict's tensors; empty for what is none: a checkpoint holds other things as well."""
    found = {k: v for k, v in document.items() if isinstance(k, str) and _is_tensor(v)}
    others = [key for key, value in document.items() if not _is_tensor(value)]
    # Modules may put values of their own beside their tensors (``_extra_state``).
    if not found or any(not str(key).endswith("_extra_state") for key in others):
        return {}
    return found


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def plain_tensors(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor by its name, of numbers in float32 where they are of another precision.

    Raises NetworkError for quantised ones, whose numbers are only approximate, and for what else
    is no dense number.
    """
    for name, value in state.items():
        tensor = value.detach()
        if tensor.is_quantized:
            raise NetworkError(
                f"{name} is quantised ({tensor.dtype}): give the weights from before quantisation"
            )
        if problem := _unusable(tensor):
            raise NetworkError(f"{name} is {problem}: save the weights as dense floats")
        yield name, tensor.float() if tensor.is_floating_point() else tensor


def _unusable(tensor: torch.Tensor) -> str:
    """What a tensor is that no weight of a network is here, or nothing."""
    kinds = {
        "without data (on the meta device)": tensor.is_meta,
        "sparse": tensor.layout != torch.strided,
        "complex": tensor.is_complex(),
        "of 8-bit integers": tensor.dtype in (torch.int8, torch.uint8),
    }
    return next((kind for kind, found in kinds.items() if found), "")
