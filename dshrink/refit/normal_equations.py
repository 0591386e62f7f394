"""Linear least squares over the positions of feature maps, from sums that grow image by image.

A convolution is linear in its weights: each output position is a product of them with the patch
that it reads. So the best weights follow from the second moments of patches and targets, whose size
does not depend on the number of images. Everything is float64.

Shape suffixes: G groups, K unknowns (weights of an output channel), O outputs of a group, N
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dshrink.merge.algebra import ConvWeights, pad

#: Patches are made for so many bytes at once.
_CHUNK_BYTES = 32 << 20
#: A variance of a smaller share of the mean square is what rounding makes of a constant.
_CONSTANT = 1e-10


@dataclass(kw_only=True, eq=False)
class NormalEquations:
    """Sums over positions: ``gram`` (G, K+1, K+1) of patches, ``cross`` (G, K+1, O) with targets.

    The last entry of a patch is 1: the bias. ``squares`` (G, O) are those of the targets.
    """

    gram: Tensor
    cross: Tensor
    squares: Tensor
    _buffer: Tensor | None = field(default=None, repr=False)

    @classmethod
    def empty(
        cls, groups: int, unknowns: int, outputs: int, device: torch.device
    ) -> NormalEquations:
        """Those of no position; ``outputs`` are those of a group."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            gram=zeros(groups, unknowns + 1, unknowns + 1),
            cross=zeros(groups, unknowns + 1, outputs),
            squares=zeros(groups, outputs),
        )

    @classmethod
    def like(cls, conv: ConvWeights) -> NormalEquations:
        """Those of no position, for a convolution of this shape."""
        outputs = conv.out_channels // conv.groups
        return cls.empty(conv.groups, conv.weight[0].numel(), outputs, conv.weight.device)

    def add(self, conv: ConvWeights, x: Tensor, target: Tensor) -> None:
        """Add what ``conv`` reads of ``x`` (N, I, H, W), and the ``target`` (N, O, H', W')."""
        for patches, targets in self._pairs(conv, x, target):
            self.gram.baddbmm_(patches.mT, patches)
            self._add_targets(patches, targets)

    def add_targets(self, conv: ConvWeights, x: Tensor, target: Tensor) -> None:
        """As ``add``, for patches that ``gram`` knows already."""
        for patches, targets in self._pairs(conv, x, target):
            self._add_targets(patches, targets)

    def _add_targets(self, patches: Tensor, targets: Tensor) -> None:
        self.cross.baddbmm_(patches.mT, targets)
        self.squares += targets.square().sum(dim=1)

    def _pairs(
        self, conv: ConvWeights, x: Tensor, target: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Patches (G, N, K+1) and targets (G, N, O) of some images at a time."""
        values = self.gram.shape[0] * self.gram.shape[1] * target[0, 0].numel()
        images = max(1, _CHUNK_BYTES // (8 * values))
        for part, wanted in zip(torch.split(x, images), torch.split(target, images), strict=True):
            yield self._patches(conv, part), _by_group(wanted, conv.groups)

    def _patches(self, conv: ConvWeights, x: Tensor) -> Tensor:
        """(G, N, K+1): what each output position reads, with a 1 for the bias; valid until asked
        again.
        """
        windows = pad(x, conv.pads)
        for axis, (kernel, stride, _, _) in zip((2, 3), conv.window.axes, strict=True):
            windows = windows.unfold(axis, kernel, stride)
        windows = windows[..., :: conv.dilation[0], :: conv.dilation[1]]
        windows = torch.unflatten(windows, 1, (conv.groups, -1)).permute(1, 0, 3, 4, 2, 5, 6)
        positions, unknowns = windows.shape[1:4].numel(), windows.shape[4:].numel()
        shape = (conv.groups, positions, unknowns + 1)
        if self._buffer is None or self._buffer.shape != shape:
            # Memory that is taken anew for each batch costs more than what is computed in it.
            self._buffer = self.gram.new_ones(shape)
        patches = torch.unflatten(self._buffer[..., :-1], 2, windows.shape[4:])
        torch.unflatten(patches, 1, windows.shape[1:4]).copy_(windows)
        return self._buffer

    def without_targets(self) -> NormalEquations:
        """The same patches with no targets yet; shares their moments."""
        return NormalEquations(
            gram=self.gram,
            cross=torch.zeros_like(self.cross),
            squares=torch.zeros_like(self.squares),
        )

    def solve(self, prior: ConvWeights, ridge: float) -> ConvWeights:
        """As ``solver`` gives it for one ridge."""
        return self.solver(prior)(ridge)

    def solver(self, prior: ConvWeights) -> Callable[[float], ConvWeights]:
        """What gives the convolution of least squares for a ridge penalty on its distance from
        ``prior``.

        It minimises ``mean |y - w x - b|^2 + ridge * v * |w - w_prior|^2``, v being the mean
        variance of what a weight is multiplied with; the bias is free. Where ``prior`` is exact it
        is the result, whatever the ridge; weights of constants stay as they are.
        """
        n = self.gram[:, -1:, -1:]
        mean, mean_target = self.gram[:, :-1, -1:] / n, self.cross[:, -1:, :] / n
        gram = self.gram[:, :-1, :-1] / n - mean @ mean.mT
        cross = self.cross[:, :-1] / n - mean @ mean_target
        squares = self.gram.diagonal(dim1=1, dim2=2)[:, :-1] / n[:, :, 0]
        varies = (gram.diagonal(dim1=1, dim2=2) > _CONSTANT * squares)[:, :, None]
        gram.masked_fill_(~(varies & varies.mT), 0.0)
        cross.masked_fill_(~varies, 0.0)
        start = _columns(prior)
        scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(gram.dtype).tiny)
        # Of the difference from the prior: what the prior explains needs no precision.
        residual = cross - gram @ start

        def solve(ridge: float) -> ConvWeights:
            matrix = gram.clone()
            matrix.diagonal(dim1=1, dim2=2).add_((ridge * scale)[:, None])
            weight = start + _solved(matrix, residual)
            return _as_conv(prior, weight, mean_target - mean.mT @ weight)

        return solve

    def explained(self, conv: ConvWeights) -> float:
        """The share of the targets' variance, over all channels, that ``conv`` gives (R^2)."""
        weight = torch.cat([_columns(conv), conv.bias.reshape(conv.groups, 1, -1)], dim=1)
        explained = 2 * (weight * self.cross).sum() - (weight * (self.gram @ weight)).sum()
        means = self.cross[:, -1].square() / self.gram[:, -1, -1:]
        spread = float(self.squares.sum() - means.sum())
        return 1 - float(self.squares.sum() - explained) / spread if spread > 0 else 1.0


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution for a symmetric matrix (G, K, K); the shortest where there are several."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed.any():
        return torch.cholesky_solve(right, factor)
    found: Tensor = torch.linalg.pinv(matrix, hermitian=True) @ right
    return found


def _by_group(y: Tensor, groups: int) -> Tensor:
    """(G, N, O) of a feature map (N, G*O, H, W)."""
    images, channels = y.shape[:2]
    grouped = y.double().reshape(images, groups, channels // groups, -1).permute(1, 0, 3, 2)
    return grouped.reshape(groups, -1, channels // groups)


def _columns(conv: ConvWeights) -> Tensor:
    """(G, K, O): a column of weights for each output channel."""
    return conv.weight.reshape(conv.groups, conv.out_channels // conv.groups, -1).mT


def _as_conv(like: ConvWeights, weight: Tensor, bias: Tensor) -> ConvWeights:
    return replace(like, weight=weight.mT.reshape(like.weight.shape), bias=bias.reshape(-1))
