"""What the output positions of a convolution read, one row each: its unrolled input (im2col).

Shape suffixes: G groups, K unknowns (weights of an output channel), O outputs of a group, N
positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dshrink.merge.algebra import ConvWeights, pad

#: Patches are made for so many bytes at once.
_CHUNK_BYTES = 32 << 20


@dataclass(kw_only=True, eq=False)
class Patches:
    """Those of a convolution of ``conv``'s shape, in float64."""

    conv: ConvWeights
    _buffer: Tensor | None = field(default=None, repr=False)

    @property
    def unknowns(self) -> int:
        """Weights of an output channel, without the bias."""
        return self.conv.weight[0].numel()

    def pairs(self, x: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Patches (G, N, K+1) of ``x`` (N, I, H, W) and the targets (G, N, O) there of ``target``
        (N, O, H', W'), of some images at a time.

        The last entry of a patch is 1: the bias. Patches are valid until the next ones are made.
        """
        values = self.conv.groups * (self.unknowns + 1) * target[0, 0].numel()
        images = max(1, _CHUNK_BYTES // (8 * values))
        for part, wanted in zip(torch.split(x, images), torch.split(target, images), strict=True):
            yield self._made(part), by_group(wanted, self.conv.groups)

    def _made(self, x: Tensor) -> Tensor:
        conv = self.conv
        windows = pad(x, conv.pads)
        for axis, (kernel, stride, _, _) in zip((2, 3), conv.window.axes, strict=True):
            windows = windows.unfold(axis, kernel, stride)
        windows = windows[..., :: conv.dilation[0], :: conv.dilation[1]]
        windows = torch.unflatten(windows, 1, (conv.groups, -1)).permute(1, 0, 3, 4, 2, 5, 6)
        shape = (conv.groups, windows.shape[1:4].numel(), self.unknowns + 1)
        if self._buffer is None or self._buffer.shape != shape:
            # Memory that is taken anew for each batch costs more than what is computed in it.
            self._buffer = x.new_ones(shape, dtype=torch.float64)
        patches = torch.unflatten(self._buffer[..., :-1], 2, windows.shape[4:])
        torch.unflatten(patches, 1, windows.shape[1:4]).copy_(windows)
        return self._buffer


def by_group(y: Tensor, groups: int) -> Tensor:
    """(G, N, O) of a feature map (N, G*O, H, W), in float64."""
    images, channels = y.shape[:2]
    grouped = y.double().reshape(images, groups, channels // groups, -1).permute(1, 0, 3, 2)
    return grouped.reshape(groups, -1, channels // groups)


def columns(conv: ConvWeights) -> Tensor:
    """(G, K, O): a column of weights for each output channel."""
    return conv.weight.reshape(conv.groups, conv.out_channels // conv.groups, -1).mT


def as_conv(like: ConvWeights, weight: Tensor, bias: Tensor) -> ConvWeights:
    """A convolution of this shape with such columns (G, K, O) and biases (G, 1, O)."""
    return replace(like, weight=weight.mT.reshape(like.weight.shape), bias=bias.reshape(-1))
