"""HALP's lookup table: one mapping from BATCH_CIN_COUT_SIZE_KERNEL_STRIDE_GROUPS to a latency.

``CostCalculator`` (NVlabs/HALP, prune/cost.py) unpickles it. A pickle runs what it holds, so the
same mapping is written as JSON unless a pickle is asked for, and a pickle is never read. The unit
stands nowhere in its code; latencies are rounded to a thousandth of it, and its own measurements
are in ms, as these are. They are of the whole batch.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable

from latency_tables.errors import NoKeyError
from latency_tables.formats.exporting import Export, TimedSpec, by_key
from latency_tables.opspec import Conv, OpSpec

NAME = "halp"
NO_KEY = "its keys name single convolutions"
NOT_SQUARE = (
    "its keys name convolutions whose map, kernel and stride are square, with padding kernel // 2"
)
#: Python 3.6, which HALP runs on, reads it, as does everything older.
_PROTOCOL = 2


def halp_key(spec: OpSpec, batch: int) -> str:
    """The key of a convolution, with or without an activation. Raises NoKeyError."""
    first = spec.ops[0]
    kinds = [op.kind for op in spec.ops]
    if not isinstance(first, Conv) or kinds not in (["conv"], ["conv", "activation"]):
        raise NoKeyError(NO_KEY)
    channels, height, width = spec.input_shape
    (kernel, across), (stride, other) = first.kernel, first.stride
    square = height == width and kernel == across and stride == other
    if not square or first.dilation != (1, 1) or first.pads != (kernel // 2,) * 4:
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
