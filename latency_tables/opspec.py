"""One measurable piece of a network as plain data.

An ``OpSpec`` is a small graph in single-assignment form: tensor 0 is the input, tensor k the output
of operator k - 1, and the last tensor is the result. Shapes leave the batch out, weights are not
part of it, batch norm is folded into the convolution before it. Two equal specs have equal digests,
so they are measured once, in whatever network they stand. A whole network is an ``OpSpec`` too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

#: Part of every digest.
SPEC_VERSION = 1

#: (C, H, W) of a feature map, or (F,) after flattening.
Shape = tuple[int, ...]

ACTIVATIONS = ("relu", "relu6", "silu", "sigmoid", "hard_swish", "hard_sigmoid", "gelu", "tanh")


class OpSpecError(ValueError):
    """A piece that makes no sense: shapes that do not fit, unknown operators, bad references."""


def _feature_map(shape: Shape, what: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise OpSpecError(f"{what} needs a (C, H, W) input, got {shape}")
    return shape[0], shape[1], shape[2]


def _window(size: int, kernel: int, stride: int, pads: int, dilation: int, ceil: bool) -> int:
    span = size + pads - dilation * (kernel - 1) - 1
    if span < 0:
        raise OpSpecError(f"kernel {kernel} is larger than the padded input {size + pads}")
    return (math.ceil(span / stride) if ceil else span // stride) + 1


def _affine(weight: Shape, bias: bool) -> tuple[Shape, ...]:
    """The arrays of a product with this weight: it, and a number an output channel."""
    return (weight, weight[:1]) if bias else (weight,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """An operator; ``inputs`` are tensor numbers (0 is the input of the piece)."""

    kind: ClassVar[str] = ""
    inputs: tuple[int, ...]

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape this operator gives for inputs of these shapes; by default the first's."""
        return shapes[0]

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Multiply-accumulate operations for one image."""
        return 0

    def array_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """The shapes of what it stores (weights, biases, maps) for an input of this shape."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Op):
    """Convolution (cross-correlation); ``pads`` is top, left, bottom, right.

    Those of a network have a bias, as batch norms are folded into them.
    """

    kind: ClassVar[str] = "conv"
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        numbers = (self.out_channels, *self.kernel, *self.stride, *self.dilation, self.groups)
        if min(numbers) < 1 or min(self.pads) < 0 or self.out_channels % self.groups:
            raise OpSpecError(f"not a convolution: {self}")

    @property
    def is_pointwise(self) -> bool:
        return self.kernel == (1, 1) and not any(self.pads)

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        c, h, w = _feature_map(shapes[0], "a convolution")
        if c % self.groups:
            raise OpSpecError(f"{c} input channels do not divide into {self.groups} groups")
        top, left, bottom, right = self.pads
        return (
            self.out_channels,
            _window(h, self.kernel[0], self.stride[0], top + bottom, self.dilation[0], False),
            _window(w, self.kernel[1], self.stride[1], left + right, self.dilation[1], False),
        )

    def weight_shape(self, in_channels: int) -> tuple[int, int, int, int]:
        """(O, I / groups, H, W) of the kernel."""
        return (self.out_channels, in_channels // self.groups, *self.kernel)

    def macs(self, shapes: Sequence[Shape]) -> int:
        _, h, w = self.output_shape(shapes)
        return math.prod(self.weight_shape(shapes[0][0])) * h * w

    def array_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return _affine(self.weight_shape(shape[0]), self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasMap(Op):
    """Addition of a constant of the whole (C, H, W) shape: the exact padding of a merged block."""

    kind: ClassVar[str] = "bias_map"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return _feature_map(shapes[0], "a bias map")

    def array_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return (shape,)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm(Op):
    """A norm that no convolution comes before; scale and shift a channel."""

    kind: ClassVar[str] = "batch_norm"

    def array_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return shape[:1], shape[:1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Op):
    kind: ClassVar[str] = "activation"
    function: str

    def __post_init__(self) -> None:
        if self.function not in ACTIVATIONS:
            raise OpSpecError(f"unknown activation {self.function!r}; known: {ACTIVATIONS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Op):
    """Residual addition of two tensors of one shape."""

    kind: ClassVar[str] = "add"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            raise OpSpecError(f"an addition needs two equal shapes, got {list(shapes)}")
        return shapes[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mul(Op):
    """Product of two tensors; one may be (C, 1, 1), as in squeeze-excite."""

    kind: ClassVar[str] = "mul"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        if len(shapes) != 2 or len(shapes[0]) != len(shapes[1]):
            raise OpSpecError(f"a product needs two shapes of one rank, got {list(shapes)}")
        if any(a != b and 1 not in (a, b) for a, b in zip(*shapes, strict=True)):
            raise OpSpecError(f"shapes {list(shapes)} do not broadcast")
        return tuple(max(a, b) for a, b in zip(*shapes, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Op):
    """Concatenation along the channels."""

    kind: ClassVar[str] = "concat"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        if len({shape[1:] for shape in shapes}) != 1:
            raise OpSpecError(f"cannot concatenate {list(shapes)} along the channels")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Op):
    """Max or average pooling over a window; ``pads`` is top, left, bottom, right."""

    kind: ClassVar[str] = "pool"
    function: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil: bool = False
    count_pads: bool = False

    def __post_init__(self) -> None:
        if self.function not in ("max", "average"):
            raise OpSpecError(f"unknown pooling {self.function!r}; known: max, average")

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        c, h, w = _feature_map(shapes[0], "pooling")
        top, left, bottom, right = self.pads
        return (
            c,
            _window(h, self.kernel[0], self.stride[0], top + bottom, 1, self.ceil),
            _window(w, self.kernel[1], self.stride[1], left + right, 1, self.ceil),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalPool(Op):
    """Average over all positions, (C, H, W) to (C, 1, 1)."""

    kind: ClassVar[str] = "global_pool"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return (_feature_map(shapes[0], "global pooling")[0], 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten(Op):
    """All but the batch into one axis."""

    kind: ClassVar[str] = "flatten"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return (math.prod(shapes[0]),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Op):
    """A matrix product with the last axis: (..., F) to (..., ``out_features``)."""

    kind: ClassVar[str] = "linear"
    out_features: int
    bias: bool = True

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:-1], self.out_features)

    def macs(self, shapes: Sequence[Shape]) -> int:
        return math.prod(shapes[0]) * self.out_features

    def array_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return _affine((self.out_features, shape[-1]), self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque(Op):
    """An operator that dshrink has no words for: measured and written as it is, never merged.

    ``graph`` are its ONNX nodes of ``opset`` as text (``onnx_fragment``), ``arrays`` the shapes of
    its weights. ``reason`` says why there are none. ``counted`` are its multiply-accumulates, None
    where nobody counts them.
    """

    kind: ClassVar[str] = "opaque"
    operator: str
    shape: Shape
    counted: int | None = None
    arrays: tuple[Shape, ...] = ()
    graph: str = ""
    opset: int = 0
    reason: str = ""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return self.shape

    def macs(self, shapes: Sequence[Shape]) -> int:
        return self.counted or 0

    def array_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return self.arrays


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """Operators in order, and the input shape without batch; validated when made."""

    input_shape: Shape
    ops: tuple[Op, ...]

    def __post_init__(self) -> None:
        if not self.ops:
            raise OpSpecError("a piece needs at least one operator")
        if not self.input_shape or min(self.input_shape) < 1:
            raise OpSpecError(f"input shape {self.input_shape} is not positive")
        for number, op in enumerate(self.ops):
            if not op.inputs or not all(0 <= tensor <= number for tensor in op.inputs):
                raise OpSpecError(f"operator {number} ({op.kind}) reads tensors {op.inputs}")
        _ = self.shapes

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of every tensor, the input first."""
        shapes: list[Shape] = [self.input_shape]
        for op in self.ops:
            shapes.append(op.output_shape([shapes[tensor] for tensor in op.inputs]))
        return tuple(shapes)

    @property
    def output_shape(self) -> Shape:
        return self.shapes[-1]

    @cached_property
    def array_shapes(self) -> tuple[tuple[Shape, ...], ...]:
        """The shapes of what each operator stores: weights, biases, maps."""
        return tuple(op.array_shapes(self.shapes[op.inputs[0]]) for op in self.ops)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulate operations of convolutions and matrix products for one image."""
        return sum(op.macs([self.shapes[t] for t in op.inputs]) for op in self.ops)

    @cached_property
    def uncounted(self) -> tuple[int, ...]:
        """The operators, by number, whose multiply-accumulates nobody counts."""
        opaque = ((n, op) for n, op in enumerate(self.ops) if isinstance(op, Opaque))
        return tuple(n for n, op in opaque if op.counted is None)

    @cached_property
    def parameters(self) -> int:
        """Stored numbers."""
        return sum(math.prod(shape) for shapes in self.array_shapes for shape in shapes)

    @cached_property
    def peak_activations(self) -> int:
        """Most numbers alive while one convolution runs: its input, output and a waiting residual.

        DepthShrinker, Sec. 5.2: "the maximal sum of the input/output/residual activation maps when
        executing each convolution in a block".
        """
        last_use = {tensor: number for number, op in enumerate(self.ops) for tensor in op.inputs}
        last_use[len(self.ops)] = len(self.ops)
        peak = 0
        for number, op in enumerate(self.ops):
            if not isinstance(op, Conv | Linear):
                continue
            held = {t for t in range(number + 1) if last_use.get(t, -1) > number}
            live = held | set(op.inputs) | {number + 1}
            peak = max(peak, sum(math.prod(self.shapes[t]) for t in live))
        return peak

    @cached_property
    def digest(self) -> str:
        """16 hex digits that equal pieces share, on every machine."""
        said = {
            "spec_version": SPEC_VERSION,
            "input_shape": self.input_shape,
            "ops": [_said(op) for op in self.ops],
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _said(op: Op) -> dict[str, Any]:
    """What a digest is made of: a bias goes without saying, as in the digests of old tables."""
    fields = {name: value for name, value in asdict(op).items() if (name, value) != ("bias", True)}
    return {"kind": op.kind, **fields}


def join(specs: Sequence[OpSpec]) -> OpSpec:
    """These specs one after the other: each takes the result of the one before it.

    Raises OpSpecError where a shape does not fit.
    """
    ops: list[Op] = []
    for before, spec in pairwise(specs):
        if before.output_shape != spec.input_shape:
            raise OpSpecError(
                f"a piece that gives {before.output_shape} cannot come before one that takes "
                f"{spec.input_shape}"
            )
    for spec in specs:
        offset = len(ops)
        ops += (replace(op, inputs=tuple(t + offset for t in op.inputs)) for op in spec.ops)
    if not specs:
        raise OpSpecError("nothing to join")
    return OpSpec(input_shape=specs[0].input_shape, ops=tuple(ops))
