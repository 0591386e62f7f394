"""HALP's lookup table: one mapping from BATCH_CIN_COUT_SIZE_KERNEL_STRIDE_GROUPS to a latency.

``CostCalculator`` (NVlabs/HALP, prune/cost.py) unpickles it. A pickle runs what it holds, so the
same mapping is written as JSON unless a pickle is asked for, and a pickle is never read. The unit
stands nowhere in its code; latencies are rounded to a thousandth of it, and its own measurements
are in ms, as these are. They are of the whole batch.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from latency_tables.errors import NoKeyError, PieceError, TableFormatError
from latency_tables.formats.exporting import Export, TimedSpec, by_key
from latency_tables.formats.published_layers import (
    PublishedLayer,
    PublishedLayers,
    collected,
    milliseconds,
)
from latency_tables.layers.layer import Layer
from latency_tables.opspec import Conv, OpSpec

NAME = "halp"
NO_KEY = "its keys name single convolutions"
NOT_SQUARE = (
    "its keys name convolutions whose map, kernel and stride are square, padded to their size"
)
#: Python 3.6, which HALP runs on, reads it, as does everything older.
_PROTOCOL = 2
_KEY = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)", re.ASCII)


def halp_key(spec: OpSpec, batch: int) -> str:
    """The key of a convolution, with or without an activation. Raises NoKeyError."""
    first = spec.ops[0]
    kinds = [op.kind for op in spec.ops]
    if not isinstance(first, Conv) or kinds not in (["conv"], ["conv", "activation"]):
        raise NoKeyError(NO_KEY)
    channels, height, width = spec.input_shape
    (kernel, across), (stride, other) = first.kernel, first.stride
    square = height == width and kernel == across and stride == other
    if not square or first.dilation != (1, 1) or first.pads != ((kernel - 1) // 2,) * 4:
        raise NoKeyError(NOT_SQUARE)
    numbers = (batch, channels, first.out_channels, height, kernel, stride, first.groups)
    return "_".join(map(str, numbers))


def write_halp(timed: Iterable[TimedSpec | str], batch: int, *, as_pickle: bool = False) -> Export:
    """The mapping of these latencies. Raises TableFormatError where none of them has a key."""
    found, left_out = by_key(timed, lambda spec: (halp_key(spec, batch),), NAME)
    data = {key: one.latency_ms for key, one in found.items()}
    return Export(
        content=pickle.dumps(data, _PROTOCOL) if as_pickle else json.dumps(data, indent=1) + "\n",
        rows=len(data),
        left_out=left_out,
    )


def read_halp(data: Mapping[str, Any], where: str, batch: int | None) -> PublishedLayers:
    """The layers of such a mapping, of those for ``batch`` images if it has several.

    Raises TableFormatError, which names ``where`` and the key.
    """
    numbers = {key: _numbers(key, where) for key in data}
    batches = sorted({each[0] for each in numbers.values()})
    chosen = batches[0] if batch is None else batch
    if chosen not in batches or (batch is None and len(batches) > 1):
        raise TableFormatError(
            f"{where}: its keys are of batch size {', '.join(map(str, batches))}: choose one of "
            "them with --batch"
        )
    found: dict[Layer, PublishedLayer] = {}
    left_out: Counter[str] = Counter()
    for key, (of_batch, *rest) in numbers.items():
        if of_batch != chosen:
            left_out[f"of another batch size than {chosen}"] += 1
            continue
        try:
            layer = _layer(*rest)
        except PieceError as error:
            raise TableFormatError(f"{where}: {key!r}: {error}") from None
        latency_ms = milliseconds(data[key], f"{where}: {key!r}")
        found[layer] = PublishedLayer(layer=layer, latency_ms=latency_ms)
    return collected(found.values(), left_out, where, chosen)


def _numbers(key: str, where: str) -> tuple[int, ...]:
    parts = _KEY.fullmatch(key)
    if parts is None:
        raise TableFormatError(
            f"{where}: {key!r} is not a key of HALP, BATCH_CIN_COUT_SIZE_KERNEL_STRIDE_GROUPS, as "
            "in 256_3_64_224_7_2_1"
        )
    return tuple(map(int, parts.groups()))


def _layer(cin: int, cout: int, size: int, kernel: int, stride: int, groups: int) -> Layer:
    return Layer(
        in_channels=cin,
        out_channels=cout,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        groups=groups,
        height=size,
    )
