"""Exact merging of convolutions, on tensors only.

``ConvWeights`` are an affine map of feature maps; composing, adding and folding such maps gives
such maps again. Results hold wherever no padding is read in between; ``padding`` covers the rest.
Weights on the meta device are allowed: they give shapes, groups and reasons without arithmetic.

Shape suffixes: O out channels, M middle channels, I in channels, G groups, H/W kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from dshrink.errors import MergeError, NotMergeable
from dshrink.merge.window import NO_PADS, Pair, Sides, Window


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvWeights:
    """A convolution (cross-correlation) with bias: weight (O, I/G, H, W), bias (O,).

    ``pads`` is top, left, bottom, right; negative pads crop the input.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    stride: Pair = (1, 1)
    pads: Sides = NO_PADS
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        if self.weight.ndim != 4 or self.bias.shape != self.weight.shape[:1]:
            raise MergeError(
                f"weight {tuple(self.weight.shape)} and bias {tuple(self.bias.shape)} "
                "must be (O, I/groups, H, W) and (O,)"
            )
        if self.weight.dtype != self.bias.dtype:
            raise MergeError(f"weight is {self.weight.dtype}, bias is {self.bias.dtype}")
        if self.groups < 1 or self.out_channels % self.groups:
            raise MergeError(
                f"{self.out_channels} output channels do not divide into {self.groups} groups"
            )

    @classmethod
    def from_weights(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: Pair = (1, 1),
        pads: Sides = NO_PADS,
        dilation: Pair = (1, 1),
        groups: int = 1,
    ) -> ConvWeights:
        """A float64 copy of a layer's weights, outside of any gradient; no bias is a zero bias."""
        weight = weight.detach().double()
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().double()
        return cls(
            weight=weight, bias=bias, stride=stride, pads=pads, dilation=dilation, groups=groups
        )

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def kernel(self) -> Pair:
        """(H, W) of the kernel as stored, dilation not written out."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def window(self) -> Window:
        """What an output position reads, dilation written out."""
        (h, w), (dy, dx) = self.kernel, self.dilation
        return Window(
            kernel=((h - 1) * dy + 1, (w - 1) * dx + 1), stride=self.stride, pads=self.pads
        )

    def to(self, dtype: torch.dtype) -> ConvWeights:
        """The same convolution in another precision."""
        return replace(self, weight=self.weight.to(dtype), bias=self.bias.to(dtype))

    def run(self, x: Tensor) -> Tensor:
        """The convolution of a batch (N, I, H, W)."""
        return F.conv2d(
            pad(x, self.pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


def pad(x: Tensor, pads: Sides) -> Tensor:
    """Zeros around the last two axes; negative pads crop."""
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom)) if any(pads) else x


def identity(channels: int, device: torch.device | None = None) -> ConvWeights:
    """The depthwise 1x1 convolution that changes nothing."""
    weight = torch.ones(channels, 1, 1, 1, dtype=torch.float64, device=device)
    return ConvWeights.from_weights(weight, groups=channels)


def from_average_pool(
    channels: int,
    size: Pair,
    *,
    kernel: Pair,
    stride: Pair,
    pads: Sides = NO_PADS,
    ceil: bool = False,
    count_pads: bool = True,
    device: torch.device | None = None,
) -> ConvWeights:
    """Average pooling of inputs of ``size`` (H, W) as a depthwise convolution.

    Raises NotMergeable where windows at the border divide by fewer elements than those inside.
    """
    window = Window(kernel=kernel, stride=stride, pads=pads)
    if any(window.border(size)) and not count_pads:
        raise NotMergeable(
            f"average pooling {kernel} leaves its pads {pads} out of the mean, "
            "so its weights differ at the border"
        )
    out = window.output_size(size)
    for n, y, (k, s, begin, end) in zip(size, out, window.axes, strict=True):
        # ceil_mode adds a window where positions are left over, unless it starts in the end pad.
        if ceil and (n + begin + end - k) % s and y * s < n + begin:
            raise NotMergeable(
                f"average pooling {kernel} with ceil_mode reaches beyond the end of {size}, "
                "so its weights differ there"
            )
    value = 1.0 / math.prod(kernel)
    weight = torch.full((channels, 1, *kernel), value, dtype=torch.float64, device=device)
    return ConvWeights.from_weights(weight, stride=stride, pads=pads, groups=channels)


def write_out_dilation(conv: ConvWeights) -> ConvWeights:
    """The same convolution with a larger kernel that holds the gaps as zeros."""
    if conv.dilation == (1, 1):
        return conv
    weight = conv.weight.new_zeros(*conv.weight.shape[:2], *conv.window.kernel)
    weight[:, :, :: conv.dilation[0], :: conv.dilation[1]] = conv.weight
    return replace(conv, weight=weight, dilation=(1, 1))


def with_groups(conv: ConvWeights, groups: int) -> ConvWeights:
    """The same convolution with fewer groups (a divisor of its own): blocks filled with zeros."""
    if conv.groups == groups:
        return conv
    if conv.groups % groups:
        raise MergeError(f"{conv.groups} groups do not coarsen to {groups}")
    ratio = conv.groups // groups
    o, i, h, w = conv.weight.shape
    blocks = conv.weight.reshape(groups, ratio, o // conv.groups, 1, i, h, w)
    diagonal = torch.eye(ratio, dtype=conv.weight.dtype, device=conv.weight.device)
    weight = (blocks * diagonal.reshape(ratio, 1, ratio, 1, 1, 1)).reshape(o, ratio * i, h, w)
    return replace(conv, weight=weight, groups=groups)


def compose(first: ConvWeights, *others: ConvWeights) -> ConvWeights:
    """The one convolution equal to ``others[-1](...others[0](first(x)))`` away from padding.

    K[o,i,u] = sum_m sum_v W2[o,m,v] * W1[m,i,u - s1*v], b = b2 + sum_m (sum_v W2[o,m,v]) * b1[m],
    in float64 (docs/methods.md). The result has the groups that both factors have in common:
    it is depthwise only if every factor is. Its pads p1 + s1*p2 give the output size of the factors
    in turn, but its border equals theirs only under the conditions of ``padding``.
    """
    return reduce(_compose_two, others, first)


def _compose_two(first: ConvWeights, second: ConvWeights) -> ConvWeights:
    _need_float64(first, second)
    if first.out_channels != second.in_channels:
        raise MergeError(
            f"a convolution with {first.out_channels} output channels cannot precede one with "
            f"{second.in_channels} input channels"
        )
    first, second = write_out_dilation(first), write_out_dilation(second)
    common = math.gcd(first.groups, second.groups)
    if common not in (first.groups, second.groups):
        first = with_groups(first, common)
    window = first.window.then(second.window)
    (h, w), (sy, sx) = first.kernel, first.stride
    i = first.in_channels // common
    weight = first.weight.new_zeros(second.out_channels, i, *window.kernel)
    for y, x in product(range(second.kernel[0]), range(second.kernel[1])):
        tap = _multiply(second.weight[:, :, y, x], second.groups, first)
        weight[:, :, y * sy : y * sy + h, x * sx : x * sx + w] += tap
    sums = second.weight.sum((2, 3)).reshape(second.groups, -1, second.weight.shape[1])
    bias = (sums @ first.bias.reshape(second.groups, -1, 1)).reshape(-1) + second.bias
    return ConvWeights(
        weight=weight, bias=bias, stride=window.stride, pads=window.pads, groups=common
    )


def _multiply(tap: Tensor, groups: int, first: ConvWeights) -> Tensor:
    """The kernel of ``first`` and then the pointwise ``tap`` (O, M/groups), over common groups.

    One batched product over the finer of the two group structures, so a depthwise factor costs
    what it should; the coarser structure must be a divisor of the finer one.
    """
    m, i, h, w = first.weight.shape
    out = tap.shape[0] // groups
    fine = max(groups, first.groups)
    ratio = fine // groups
    left = tap.reshape(groups, out, ratio, m // fine).transpose(1, 2).reshape(fine, out, m // fine)
    right = first.weight.reshape(fine, m // fine, i * h * w)
    # A middle of one channel is an outer product, for which broadcasting beats batched matmul.
    result = left * right if m == fine else left @ right
    return (
        result.reshape(groups, ratio, out, i, h, w)
        .transpose(1, 2)
        .reshape(groups * out, ratio * i, h, w)
    )


def add_parallel(a: ConvWeights, b: ConvWeights) -> ConvWeights:
    """The one convolution equal to ``a(x) + b(x)``.

    The kernel is the union of both, each where its pads put it: a 1x1 shortcut of stride 2 joins
    the taps that read the same input. Exact at the border too. Raises NotMergeable where
    the strides differ.
    """
    _need_float64(a, b)
    if (a.in_channels, a.out_channels) != (b.in_channels, b.out_channels):
        raise MergeError(
            f"branches map {a.in_channels} to {a.out_channels} and "
            f"{b.in_channels} to {b.out_channels} channels: they cannot be added"
        )
    groups = math.gcd(a.groups, b.groups)
    a, b = (with_groups(write_out_dilation(conv), groups) for conv in (a, b))
    window = a.window.union(b.window)
    return ConvWeights(
        weight=_embedded(a, window) + _embedded(b, window),
        bias=a.bias + b.bias,
        stride=window.stride,
        pads=window.pads,
        groups=groups,
    )


def add_identity(conv: ConvWeights) -> ConvWeights:
    """The one convolution equal to ``conv(x) + x``: a residual block."""
    return add_parallel(conv, identity(conv.in_channels, conv.weight.device))


def _embedded(conv: ConvWeights, window: Window) -> Tensor:
    """The kernel of ``conv`` at its place in the kernel of a larger window."""
    top, left = (window.pads[axis] - conv.pads[axis] for axis in (0, 1))
    (h, w), (height, width) = conv.kernel, window.kernel
    return pad(conv.weight, (top, left, height - h - top, width - w - left))


def _need_float64(*convs: ConvWeights) -> None:
    for conv in convs:
        if conv.weight.dtype != torch.float64:
            raise MergeError(
                f"weights are {conv.weight.dtype}; merge in float64 (ConvWeights.from_weights) "
                "and cast the result"
            )
