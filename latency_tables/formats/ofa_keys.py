"""The keys by which once-for-all's code finds the latency of operators.

``LatencyTable.query`` (mit-han-lab/once-for-all, ofa/nas/efficiency_predictor) builds a key of the
layer's type and of its shapes, each H, W, C. Keys of layers tell neither kernel nor stride: the
type stands for the kernel (``Conv`` is 3x3, ``Conv_1`` and, on one pixel, ``Conv_2`` are 1x1), the
shapes give the stride. An inverted bottleneck is ``expanded_conv``: tables of ProxylessNAS write
its expansion as a ratio, those of MobileNetV3 as channels, with ``se`` (squeeze-excite) and ``hs``
(hard-swish) behind. A bottleneck that both can say has both keys.
"""

from __future__ import annotations

import re

from latency_tables.errors import NoKeyError
from latency_tables.opspec import Activation, Conv, Op, OpSpec, Shape

NO_KEY = (
    "its keys name dense 3x3 and 1x1 convolutions, linear layers, global pooling and inverted "
    "bottlenecks, with padding kernel // 2"
)
ACTIVATIONS = "its keys name inverted bottlenecks with ReLU, ReLU6 or hard-swish only"
SQUEEZE = "its keys name squeeze-excite with ReLU, hard sigmoid and a quarter of the channels only"

#: The kernels that types of convolutions stand for.
KERNELS = {"Conv": 3, "Conv_1": 1, "Conv_2": 1}
#: Operators as letters, so that a pattern says which they are and in which order.
_LETTERS = {
    **{"conv": "c", "activation": "a", "global_pool": "g", "mul": "m", "add": "+"},
    **{"flatten": "f", "linear": "l"},
}
_BOTTLENECK = re.compile(r"(?P<expansion>ca)?ca(?P<squeeze>gcacam)?c(?P<skip>\+)?")
#: once-for-all rounds the channels inside of squeeze-excite to these (``make_divisible``).
_DIVISOR = 8


def ofa_keys(spec: OpSpec) -> tuple[str, ...]:
    """The keys of these operators. Raises NoKeyError, which says why there is none."""
    kinds = "".join(_LETTERS.get(op.kind, "?") for op in spec.ops)
    if kinds == "g":
        return (_key("AvgPool2D", spec.input_shape, spec.output_shape),)
    if kinds in ("l", "fl", "gfl") and (kinds == "gfl" or spec.input_shape[1:] in ((), (1, 1))):
        return (_key("Logits", spec.input_shape, spec.output_shape),)
    if kinds in ("c", "ca"):
        return (_key(_convolution(spec), spec.input_shape, spec.output_shape),)
    if parts := _BOTTLENECK.fullmatch(kinds):
        return _bottleneck(spec, parts)
    raise NoKeyError(NO_KEY)


def _key(kind: str, before: Shape, after: Shape) -> str:
    """Features count as channels of one pixel before a layer, and stand alone behind it."""
    (channels, *size), (last, *out) = before, after
    shapes = (*(size or (1, 1)), channels), (*out, last)
    return "{}-input:{}-output:{}".format(kind, *("x".join(map(str, shape)) for shape in shapes))


def _convolution(spec: OpSpec) -> str:
    kernel = _kernel(spec.ops[0], 1)
    on_a_pixel = spec.input_shape[1:] == (1, 1)
    kind = {3: "Conv", 1: "Conv_2" if on_a_pixel else "Conv_1"}.get(kernel)
    if kind is None:
        raise NoKeyError(NO_KEY)
    return kind


def _kernel(op: Op, groups: int) -> int:
    """The size of a square kernel of so many groups that pads by half of it."""
    if isinstance(op, Conv) and op.groups == groups and op.dilation == (1, 1):
        (kernel, width), (stride, across) = op.kernel, op.stride
        square = kernel == width and stride == across and kernel % 2 == 1
        if square and op.pads == (kernel // 2,) * 4:
            return kernel
    raise NoKeyError(NO_KEY)


def _bottleneck(spec: OpSpec, parts: re.Match[str]) -> tuple[str, ...]:
    number = len(parts["expansion"] or "")
    depthwise = spec.ops[number]
    assert isinstance(depthwise, Conv)
    mid, (stride, _) = depthwise.out_channels, depthwise.stride
    kernel = _kernel(depthwise, mid)
    _check_wiring(spec, parts)
    _check_pointwise(spec, spec.ops[parts.end("squeeze") if parts["squeeze"] else number + 2])
    if number:
        _check_pointwise(spec, spec.ops[0])
    outside = [*spec.ops[:number], spec.ops[number + 1]]
    functions = {op.function for op in outside if isinstance(op, Activation)}
    if functions not in ({"relu"}, {"relu6"}, {"hard_swish"}):
        raise NoKeyError(ACTIVATIONS)
    if parts["squeeze"]:
        _check_squeeze(spec.ops[parts.start("squeeze") : parts.end("squeeze")], mid)
    swish, squeeze = int(functions == {"hard_swish"}), int(parts["squeeze"] is not None)
    start = _key("expanded_conv", spec.input_shape, spec.output_shape)
    rest = f"kernel:{kernel}-stride:{stride}-idskip:{int(parts['skip'] is not None)}"
    keys = [f"{start}-expand:{mid}-{rest}-se:{squeeze}-hs:{swish}"]
    if not (squeeze or swish or mid % spec.input_shape[0]):
        keys.append(f"{start}-expand:{mid // spec.input_shape[0]}-{rest}")
    return tuple(keys)


def _check_wiring(spec: OpSpec, parts: re.Match[str]) -> None:
    """Each operator reads the one before it; a product also what was squeezed, a sum the input."""
    for number, op in enumerate(spec.ops):
        read = {number}
        if op.kind == "mul":
            read.add(parts.start("squeeze"))
        elif op.kind == "add":
            read.add(0)
        if set(op.inputs) != read:
            raise NoKeyError(NO_KEY)


def _check_pointwise(spec: OpSpec, op: Op) -> None:
    if _kernel(op, 1) != 1 or not isinstance(op, Conv) or op.stride != (1, 1):
        raise NoKeyError(NO_KEY)


def _check_squeeze(ops: tuple[Op, ...], mid: int) -> None:
    _, reduce, inner, _, gate, _ = ops
    quarter = mid // 4
    rounded = max(_DIVISOR, (quarter + _DIVISOR // 2) // _DIVISOR * _DIVISOR)
    rounded += _DIVISOR * (rounded < 0.9 * quarter)
    functions = [op.function for op in (inner, gate) if isinstance(op, Activation)]
    channels = reduce.out_channels if isinstance(reduce, Conv) else 0
    if functions != ["relu", "hard_sigmoid"] or channels != rounded:
        raise NoKeyError(SQUEEZE)
