"""once-for-all's lookup tables: YAML, from a key to ``count``, ``mean`` and ``std`` in ms.

Its code reads ``mean`` alone. What is written there is the statistic of the table's conditions.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from latency_tables.errors import TableFormatError
from latency_tables.formats.exporting import Export, TimedSpec, by_key
from latency_tables.formats.ofa_keys import KERNELS, ofa_keys
from latency_tables.formats.published_layers import (
    NO_LAYER,
    SAME_LAYER,
    PublishedLayer,
    PublishedLayers,
    collected,
    milliseconds,
    shown,
)
from latency_tables.layers.layer import Layer

NAME = "ofa"
_KEY = re.compile(r"(\w+)-input:(\d+(?:x\d+)*)-output:(\d+(?:x\d+)*)(-.*)?", re.ASCII)


def write_ofa(timed: Iterable[TimedSpec | str]) -> Export:
    """The YAML of these latencies. Raises TableFormatError where none of them has a key."""
    import yaml

    found, left_out = by_key(timed, ofa_keys, NAME)
    return Export(
        content=yaml.safe_dump({key: _entry(one) for key, one in sorted(found.items())}),
        rows=len({one.spec.digest for one in found.values()}),
        left_out=left_out,
    )


def _entry(one: TimedSpec) -> dict[str, float]:
    """As far as known."""
    entry: dict[str, float] = {"mean": one.latency_ms}
    if one.samples:
        entry["count"] = one.samples
    if one.stdev_ms is not None:
        entry["std"] = one.stdev_ms
    return entry


def read_ofa(data: Mapping[str, Any], where: str) -> PublishedLayers:
    found: dict[Layer, PublishedLayer] = {}
    left_out: Counter[str] = Counter()
    for key, entry in data.items():
        if not isinstance(entry, dict) or "mean" not in entry:
            raise TableFormatError(
                f"{where}: {key!r} must hold mean (and std) in ms, got {shown(entry)}"
            )
        layer = _ofa_layer(key, where)
        if layer is None or layer in found:
            left_out[NO_LAYER if layer is None else SAME_LAYER] += 1
            continue
        stdev = entry.get("std")
        if stdev is None and "var" in entry:
            stdev = math.sqrt(milliseconds(entry["var"], f"{where}: var of {key!r}", least=0))
        found[layer] = PublishedLayer(
            layer=layer,
            latency_ms=milliseconds(entry["mean"], f"{where}: mean of {key!r}"),
            stdev_ms=None
            if stdev is None
            else milliseconds(stdev, f"{where}: std of {key!r}", least=0),
        )
    return collected(found.values(), left_out, where)


def _ofa_layer(key: str, where: str) -> Layer | None:
    """The layer of a key, None for what is no single layer."""
    parts = _KEY.fullmatch(key)
    if parts is None:
        raise TableFormatError(
            f"{where}: {key!r} is not a key of once-for-all, as in "
            "Conv-input:224x224x3-output:112x112x32"
        )
    kind, before, after = parts[1], _numbers(parts[2]), _numbers(parts[3])
    if kind == "Logits" and len(before) == 3 and before[:2] == (1, 1) and len(after) == 1:
        return Layer(kind="linear", in_channels=before[2], out_channels=after[0])
    if kind == "AvgPool2D" and len(before) == 3 and after == (1, 1, before[2]):
        return Layer(kind="global_pool", in_channels=before[2], height=before[0], width=before[1])
    if kind in KERNELS and len(before) == len(after) == 3 and not parts[4]:
        stride = _stride(before[:2], after[:2])
        if stride:
            kernel = KERNELS[kind]
            return Layer(
                in_channels=before[2],
                out_channels=after[2],
                kernel=(kernel, kernel),
                stride=(stride, stride),
                height=before[0],
                width=before[1],
            )
    return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("x") if number)


def _stride(before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """The smallest stride that makes these sizes of those, 0 where none does."""
    for stride in range(1, max(before) + 1):
        if tuple((size - 1) // stride + 1 for size in before) == after:
            return stride
    return 0
