"""One layer by its hyperparameters: what a line of a list, or a cell of a grid, describes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from operator import index
from typing import Any

from latency_tables.errors import PieceError
from latency_tables.opspec import (
    ACTIVATIONS,
    Activation,
    Add,
    Conv,
    GlobalPool,
    Linear,
    Op,
    OpSpec,
    OpSpecError,
    Pool,
)

#: (height, width).
Pair = tuple[int, int]

KINDS = ("conv", "linear", "max_pool", "average_pool", "global_pool")
POOLS = KINDS[2:]
#: Padding that keeps the size of a map at stride 1: half of what the kernel spans.
SAME: Pair = (-1, -1)
#: No layer that anyone runs is larger; one that is would exhaust the memory before it is measured.
MOST = 1 << 20
MOST_VALUES = 1 << 31


_PAIRS = ("kernel", "stride", "padding", "dilation")
_SINGLE = ("in_channels", "out_channels", "groups", "height", "width")
#: What says nothing of a kind of layer, and the value that such fields have.
_UNUSED = {
    "linear": (*_PAIRS, "groups", "height", "width"),
    "global_pool": ("stride", "dilation", "groups"),
    "max_pool": ("dilation", "groups"),
    "average_pool": ("dilation", "groups"),
}
_PLAIN = dict.fromkeys(_PAIRS, (1, 1)) | {"padding": (0, 0)} | dict.fromkeys(_SINGLE, 1)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer on an input of (``in_channels``, ``height``, ``width``), whatever the batch.

    ``kernel``, ``stride``, ``padding`` and ``dilation`` are (height, width); one number is taken
    for both. A linear layer has
    features for channels, and a map of 1x1. A pooling has as many output channels as input ones.
    With ``residual`` the input is added to the output, before ``activation`` ("" for none). Equal
    layers are equal. Raises PieceError for what is no layer.
    """

    kind: str = "conv"
    in_channels: int
    out_channels: int = 0
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = SAME
    dilation: Pair = (1, 1)
    groups: int = 1
    height: int = 1
    width: int = 0
    activation: str = ""
    bias: bool = True
    residual: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PieceError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        self._settle_types()
        self._fill_in()
        self._check_numbers()
        if self.activation and self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise PieceError(f"activation {self.activation!r} is not one of {known}, or empty")
        _ = self.spec

    def _settle_types(self) -> None:
        """A number for a pair, a list and numpy's integers are what they mean."""
        for name in (*_PAIRS, *_SINGLE):
            value = getattr(self, name)
            try:
                if name in _PAIRS:
                    rows, columns = value if isinstance(value, tuple | list) else (value, value)
                    value = (index(rows), index(columns))
                else:
                    value = index(value)
            except (TypeError, ValueError):
                what = "a whole number or two of them" if name in _PAIRS else "a whole number"
                raise PieceError(f"{name} must be {what}, got {value!r}") from None
            object.__setattr__(self, name, value)

    def _fill_in(self) -> None:
        """Set what follows from the rest where it was not given."""
        implied: dict[str, Any] = {}
        if not self.width:
            implied["width"] = self.height
        if self.kind in POOLS:
            implied["bias"] = False
            if not self.out_channels:
                implied["out_channels"] = self.in_channels
        if self.kind == "global_pool":
            implied["kernel"] = (self.height, self.width or self.height)
            implied["padding"] = (0, 0)
        elif self.padding == SAME:
            rows, columns = (
                d * (k - 1) // 2 for k, d in zip(self.kernel, self.dilation, strict=True)
            )
            implied["padding"] = (rows, columns)
        for name, value in implied.items():
            object.__setattr__(self, name, value)

    def _check_numbers(self) -> None:
        pairs = {name: getattr(self, name) for name in _PAIRS}
        single = {name: (getattr(self, name),) for name in _SINGLE}
        for name, numbers in (pairs | single).items():
            least = 0 if name == "padding" else 1
            if not all(least <= number <= MOST for number in numbers):
                raise PieceError(
                    f"{name} must be {least} to {MOST}, got {_text(getattr(self, name))}"
                )
        for name in _UNUSED.get(self.kind, ()):
            if getattr(self, name) != _PLAIN[name]:
                what = f"{name} {_text(getattr(self, name))}"
                raise PieceError(f"{what} means nothing for a layer of kind {self.kind}")
        if self.kind in POOLS and self.out_channels != self.in_channels:
            raise PieceError(
                f"a pooling of {self.in_channels} channels cannot have {self.out_channels} outputs"
            )
        weights = self.in_channels // self.groups * self.out_channels * math.prod(self.kernel)
        values = self.in_channels * self.height * self.width
        if max(values, 0 if self.kind in POOLS else weights) > MOST_VALUES:
            raise PieceError(f"its input or its weights hold more than {MOST_VALUES} numbers")

    @cached_property
    def spec(self) -> OpSpec:
        """The operators that are measured. Raises PieceError where their shapes do not fit."""
        ops: list[Op] = [self._first()]
        if self.residual:
            ops.append(Add(inputs=(len(ops), 0)))
        if self.activation:
            ops.append(Activation(inputs=(len(ops),), function=self.activation))
        shape = (self.in_channels, self.height, self.width)
        try:
            return OpSpec(input_shape=shape[:1] if self.kind == "linear" else shape, ops=tuple(ops))
        except OpSpecError as error:
            what = "a residual needs an output of the input's shape: " if self.residual else ""
            raise PieceError(f"{what}{error}") from None

    def _first(self) -> Op:
        if self.kind == "linear":
            return Linear(inputs=(0,), out_features=self.out_channels, bias=self.bias)
        if self.kind == "global_pool":
            return GlobalPool(inputs=(0,))
        pads = (*self.padding, *self.padding)
        if self.kind in POOLS:
            function = self.kind.partition("_")[0]
            return Pool(
                inputs=(0,), function=function, kernel=self.kernel, stride=self.stride, pads=pads
            )
        try:
            return Conv(
                inputs=(0,),
                out_channels=self.out_channels,
                kernel=self.kernel,
                stride=self.stride,
                pads=pads,
                dilation=self.dilation,
                groups=self.groups,
                bias=self.bias,
            )
        except OpSpecError:
            raise PieceError(
                f"{self.out_channels} output channels do not divide into {self.groups} groups"
            ) from None

    @property
    def out_height(self) -> int:
        """1 for a linear layer."""
        return 1 if self.kind == "linear" else self.spec.output_shape[1]

    @property
    def out_width(self) -> int:
        return 1 if self.kind == "linear" else self.spec.output_shape[2]

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved by itself."""
        return self.kind == "conv" and 1 < self.groups == self.in_channels

    @property
    def family(self) -> str:
        """Layers of one family are computed alike: "depthwise 3x3", "conv 1x1", "linear"."""
        if self.kind in ("linear", "global_pool"):
            return self.kind
        kind = "depthwise" if self.is_depthwise else "grouped" if self.groups > 1 else self.kind
        return f"{kind} {self.kernel[0]}x{self.kernel[1]}"

    @cached_property
    def name(self) -> str:
        """What is unusual about it, in one line: "conv 3x3 96->96 at 28x28, stride 2, relu6"."""
        size = "" if self.kind == "linear" else f" at {self.height}x{self.width}"
        through = f"{self.in_channels}->{self.out_channels}"
        channels = self.in_channels if self.kind in POOLS else through
        parts = [f"{self.family} {channels}{size}"]
        same = tuple(d * (k - 1) // 2 for k, d in zip(self.kernel, self.dilation, strict=True))
        if self.stride != (1, 1):
            parts.append(f"stride {_text(self.stride)}")
        if self.padding != same and self.kind != "global_pool":
            parts.append(f"padding {_text(self.padding)}")
        if self.dilation != (1, 1):
            parts.append(f"dilation {_text(self.dilation)}")
        if self.groups > 1 and not self.is_depthwise:
            parts.append(f"{self.groups} groups")
        if not self.bias and self.kind not in POOLS:
            parts.append("no bias")
        if self.residual:
            parts.append("residual")
        return ", ".join([*parts, *filter(None, [self.activation])])

    def to_texts(self) -> dict[str, str]:
        """Each field as a cell of a CSV; ``latency_tables.layers.texts`` reads them."""
        return {field.name: _text(getattr(self, field.name)) for field in fields(self)}


def _text(value: object) -> str:
    """A pair as "3", or "3x5" where its numbers differ."""
    if isinstance(value, tuple):
        return f"{value[0]}" if value[0] == value[1] else f"{value[0]}x{value[1]}"
    return str(value).lower() if isinstance(value, bool) else str(value)


#: The columns of a layer in a CSV.
LAYER_COLUMNS = tuple(field.name for field in fields(Layer))
