"""The operators that move elements and compute none: shapes, axes, slices, pads.

What ONNX takes as tensors of integers are lists in the generated code, as a PyTorch user writes
them; where a runtime would have to compute them, the node is refused.
"""

import operator
from typing import Any, Dict, List, Optional

from .wiring import Operator, Wire, Wiring

#: ONNX's modes of padding -> torch's.
_PAD_MODES = {
    "constant": "constant",
    "reflect": "reflect",
    "edge": "replicate",
    "wrap": "circular",
}


def _axes(wiring: Wiring, op: Operator, names: List[str]) -> Optional[List[int]]:
    """Axes from the attribute or, from newer opsets on, the second input."""
    axes: Optional[List[int]] = op.take("axes")
    return wiring.integers(op, names, 1) if axes is None else list(axes)


def _identity(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    return wiring.value(names[0])


def _transpose(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    order = op.take("perm") or list(reversed(range(len(wiring.shape(op, names[0])))))
    return wiring.call(op, wiring.torch.permute, wiring.tensor(names[0]), list(order))


def _reshape(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    sizes = wiring.integers(op, names, 1) or []
    if 0 in sizes and not op.take("allowzero", 0):
        given = wiring.shape(op, names[0])
        sizes = [size or given[at] for at, size in enumerate(sizes)]
    op.take("allowzero")
    return wiring.call(op, wiring.torch.reshape, wiring.tensor(names[0]), sizes)


def _flatten(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    axis, x = op.take("axis", 1), wiring.tensor(names[0])
    if axis == 1:
        return wiring.call(op, wiring.torch.flatten, x, 1)
    target = list(wiring.shape(op, op.outputs[0]))
    return wiring.call(op, wiring.torch.reshape, x, target)


def _squeeze(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    shape, axes = wiring.shape(op, names[0]), _axes(wiring, op, names)
    if axes is None:
        axes = [at for at, size in enumerate(shape) if size == 1]
    x = wiring.tensor(names[0])
    for axis in sorted((wiring.axis(op, names[0], axis) for axis in axes), reverse=True):
        x = wiring.call(op, wiring.torch.squeeze, x, axis)
    return x


def _unsqueeze(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    axes = _axes(wiring, op, names) or []
    x = wiring.tensor(names[0])
    rank = len(wiring.shape(op, names[0])) + len(axes) if min(axes) < 0 else 0
    for axis in sorted(axis if axis >= 0 else axis + rank for axis in axes):
        x = wiring.call(op, wiring.torch.unsqueeze, x, axis)
    return x


def _expand(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    """ONNX's Expand keeps a size where 1 is asked for, and torch's does not."""
    given, asked = list(wiring.shape(op, names[0])), wiring.integers(op, names, 1) or []
    rank = max(len(given), len(asked))
    given = [1] * (rank - len(given)) + given
    asked = [1] * (rank - len(asked)) + asked
    sizes = [given[at] if size == 1 else size for at, size in enumerate(asked)]
    return wiring.method(op, "expand", wiring.tensor(names[0]), sizes)


def _tile(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    return wiring.method(op, "repeat", wiring.tensor(names[0]), wiring.integers(op, names, 1))


def _concat(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    axis = op.take("axis")
    return wiring.call(op, wiring.torch.cat, [wiring.value(name) for name in names], axis)


def _split(wiring: Wiring, op: Operator, names: List[str]) -> List[Any]:
    axis = op.take("axis", 0)
    count = op.take("num_outputs", len(op.outputs))
    sizes = op.take("split") or wiring.integers(op, names, 1)
    if sizes is None:
        size = wiring.shape(op, names[0])[axis]
        sizes = -(-size // count)  # the last part may be smaller
    parts = wiring.call(op, wiring.torch.split, wiring.tensor(names[0]), sizes, axis)
    return [wiring.call(op, operator.getitem, parts, at) for at in range(len(op.outputs))]


def _slice(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    starts, ends = wiring.integers(op, names, 1), wiring.integers(op, names, 2)
    assert starts is not None and ends is not None  # the checker has seen to that
    axes = wiring.integers(op, names, 3) or list(range(len(starts)))
    steps = wiring.integers(op, names, 4) or [1] * len(starts)
    if min(steps) < 1:
        raise op.refused(f"has the steps {steps}")
    places = [wiring.axis(op, names[0], axis) for axis in axes]
    index = [slice(None)] * (max(places) + 1)
    for at, place in enumerate(places):
        index[place] = slice(starts[at], ends[at], steps[at])
    return wiring.call(op, operator.getitem, wiring.tensor(names[0]), tuple(index))


def _gather(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    axis = wiring.axis(op, names[0], op.take("axis", 0))
    indices = wiring.constant(op, names[1])
    x = wiring.tensor(names[0])
    if indices.ndim == 0:
        return wiring.call(op, wiring.torch.select, x, axis, int(indices))
    index = (slice(None),) * axis + (wiring.value(names[1]),)
    return wiring.call(op, operator.getitem, x, index)


def _pad(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    mode = op.text("mode", "constant")
    if mode not in _PAD_MODES:
        raise op.refused(f"has the mode {mode}")
    rank = len(wiring.shape(op, names[0]))
    pads = wiring.integers(op, names, 1) or []
    axes = wiring.integers(op, names, 3) or list(range(rank))
    sides = [(0, 0)] * rank
    for at, axis in enumerate(axes):
        sides[axis] = pads[at], pads[at + len(axes)]
    while len(sides) > 1 and sides[0] == (0, 0):  # torch pads the last axes
        del sides[0]
    flat = [side for pair in reversed(sides) for side in pair]
    x = wiring.tensor(names[0])
    fill = wiring.value(names[2]) if len(names) > 2 and mode == "constant" else None
    return wiring.call(op, wiring.functional.pad, x, flat, _PAD_MODES[mode], fill or 0.0)


def _depth_to_space(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    mode = op.text("mode", "DCR")
    if mode != "CRD":
        raise op.refused(f"has the mode {mode}")
    x, size = wiring.tensor(names[0]), op.take("blocksize")
    return wiring.call(op, wiring.functional.pixel_shuffle, x, size)


def _triangle(wiring: Wiring, op: Operator, names: List[str]) -> Any:
    diagonal = (wiring.integers(op, names, 1) or [0])[0]
    function = wiring.torch.triu if op.take("upper", 1) else wiring.torch.tril
    return wiring.call(op, function, wiring.tensor(names[0]), diagonal)


WIRES: Dict[str, Wire] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
