"""Sums from which linear least squares follows, in its two forms, which give the same weights.

The primal form (``NormalEquations``) has a matrix of the unknowns, from sums that grow position by
position, whatever their number. The dual form (``KernelEquations``) keeps all positions and has a
matrix of these: far smaller where positions are fewer than unknowns, as behind strides and for the
large kernels of long spans. Everything is float64.

Shape suffixes: G groups, K unknowns (weights of an output channel), O outputs of a group, N
positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dshrink.merge.algebra import ConvWeights
from dshrink.refit.patches import as_conv, columns

#: A variance of a smaller share of the mean square is what rounding makes of a constant.
_CONSTANT = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Centred:
    """What of the equations the inputs decide, of their distances from their means.

    ``matrix`` (G, M, M), M being K or N; ``mean`` (G, K, 1) of what a weight is multiplied with,
    and ``scale`` (G,) its variance, the mean over weights; ``varies`` (G, K, 1).
    """

    matrix: Tensor
    mean: Tensor
    scale: Tensor
    varies: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Factored:
    """A symmetric matrix (G, M, M) by its Cholesky factors, or its pseudo-inverse without such."""

    matrix: Tensor
    inverse: bool

    @classmethod
    def of(cls, matrix: Tensor) -> Factored:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed.any():
            return cls(factor, False)
        return cls(torch.linalg.pinv(matrix, hermitian=True), True)

    def solve(self, right: Tensor) -> Tensor:
        """The solution; the shortest where there are several."""
        if self.inverse:
            return self.matrix @ right
        return torch.cholesky_solve(right, self.matrix)


class Equations(ABC):
    """Of patches (G, N, K+1), whose last entry is 1, and of targets (G, N, O)."""

    @abstractmethod
    def add(self, patches: Tensor, targets: Tensor) -> None:
        """Add positions; no more once a solution was asked for."""

    @abstractmethod
    def add_targets(self, patches: Tensor, targets: Tensor) -> None:
        """As ``add``, for patches that came in this order already."""

    @abstractmethod
    def without_targets(self) -> Equations:
        """The same patches with no targets yet; shares what these do not change."""

    @property
    @abstractmethod
    def centred(self) -> Centred:
        """Computed once."""

    @abstractmethod
    def _right(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """The right side (G, M, O) for the difference from weights ``start``, and the targets'
        means (G, 1, O).
        """

    @abstractmethod
    def _weights(self, solution: Tensor) -> Tensor:
        """(G, K, O) of what solves the equations."""

    def factored(self, ridge: float) -> Factored:
        """The equations for a ridge, ready for any targets."""
        matrix = self.centred.matrix.clone()
        matrix.diagonal(dim1=1, dim2=2).add_((ridge * self.centred.scale)[:, None])
        return Factored.of(matrix)

    def solver(self, prior: ConvWeights) -> Callable[[Factored], ConvWeights]:
        """What gives the convolution of least squares for a ridge penalty on its distance from
        ``prior``.

        It minimises ``mean |y - w x - b|^2 + ridge * v * |w - w_prior|^2``, v being the mean
        variance of what a weight is multiplied with; the bias is free. Where ``prior`` is exact it
        is the result, whatever the ridge; weights of constants stay as they are.
        """
        start = columns(prior)
        # Of the difference from the prior: what the prior explains needs no precision.
        right, mean_target = self._right(start)

        def solve(factored: Factored) -> ConvWeights:
            weight = start + self._weights(factored.solve(right))
            return as_conv(prior, weight, mean_target - self.centred.mean.mT @ weight)

        return solve


class NormalEquations(Equations):
    """The primal form: ``gram`` (G, K+1, K+1) of patches, ``cross`` (G, K+1, O) with targets."""

    def __init__(self, groups: int, unknowns: int, outputs: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.gram = zeros(groups, unknowns + 1, unknowns + 1)
        self.cross = zeros(groups, unknowns + 1, outputs)
        self._centred: Centred | None = None

    def add(self, patches: Tensor, targets: Tensor) -> None:
        self.gram.baddbmm_(patches.mT, patches)
        self.cross.baddbmm_(patches.mT, targets)

    def add_targets(self, patches: Tensor, targets: Tensor) -> None:
        self.cross.baddbmm_(patches.mT, targets)

    def without_targets(self) -> NormalEquations:
        found = object.__new__(NormalEquations)
        found.gram, found._centred = self.gram, self.centred
        found.cross = torch.zeros_like(self.cross)
        return found

    @property
    def centred(self) -> Centred:
        if self._centred is None:
            n = float(self.gram[0, -1, -1])
            mean = self.gram[:, :-1, -1:] / n
            squares = self.gram.diagonal(dim1=1, dim2=2)[:, :-1] / n
            # In place: of thousands of unknowns a second matrix would be large.
            matrix = self.gram[:, :-1, :-1]
            matrix.baddbmm_(mean, mean.mT, beta=1 / n, alpha=-1)
            varies = (matrix.diagonal(dim1=1, dim2=2) > _CONSTANT * squares)[:, :, None]
            if not varies.all():
                matrix.masked_fill_(~(varies & varies.mT), 0.0)
            scale = _scale(matrix.diagonal(dim1=1, dim2=2))
            self._centred = Centred(matrix=matrix, mean=mean, scale=scale, varies=varies)
        return self._centred

    def _right(self, start: Tensor) -> tuple[Tensor, Tensor]:
        known, n = self.centred, float(self.gram[0, -1, -1])
        mean_target = self.cross[:, -1:] / n
        cross = self.cross[:, :-1] / n - known.mean @ mean_target
        return cross.masked_fill_(~known.varies, 0.0) - known.matrix @ start, mean_target

    def _weights(self, solution: Tensor) -> Tensor:
        return solution


class KernelEquations(Equations):
    """The dual form: with ``X`` (G, N, K) the centred patches, the matrix is ``X X' / N``, and the
    weights are ``X' a / N`` for its solution ``a``.
    """

    def __init__(self) -> None:
        self.patches: list[Tensor] = []
        self.targets: list[Tensor] = []
        self._inputs: tuple[Tensor, Centred] | None = None

    @property
    def positions(self) -> int:
        return sum(part.shape[1] for part in self.targets)

    def add(self, patches: Tensor, targets: Tensor) -> None:
        self.patches.append(patches.clone())
        self.targets.append(targets)

    def add_targets(self, patches: Tensor, targets: Tensor) -> None:
        self.targets.append(targets)

    def without_targets(self) -> KernelEquations:
        found = KernelEquations()
        found._inputs = self._known
        return found

    @property
    def _known(self) -> tuple[Tensor, Centred]:
        """Centred patches, and the equations."""
        if self._inputs is None:
            x = torch.cat([part[..., :-1] for part in self.patches], dim=1)
            self.patches.clear()
            n = x.shape[1]
            mean = x.mean(dim=1, keepdim=True)
            x -= mean
            variances = torch.linalg.vector_norm(x, dim=1).square() / n
            varies = variances > _CONSTANT * (variances + mean[:, 0].square())
            if not varies.all():
                x.masked_fill_(~varies[:, None], 0.0)
            scale = _scale(variances.where(varies, 0.0))
            matrix = x @ x.mT / n
            known = Centred(matrix=matrix, mean=mean.mT, scale=scale, varies=varies[:, :, None])
            self._inputs = x, known
        return self._inputs

    @property
    def centred(self) -> Centred:
        return self._known[1]

    def _right(self, start: Tensor) -> tuple[Tensor, Tensor]:
        targets = torch.cat(self.targets, dim=1)
        mean_target = targets.mean(dim=1, keepdim=True)
        return targets - mean_target - self._known[0] @ start, mean_target

    def _weights(self, solution: Tensor) -> Tensor:
        x = self._known[0]
        return x.mT @ solution / x.shape[1]


def _scale(variances: Tensor) -> Tensor:
    """(G,) of (G, K); any number where nothing varies, as then a ridge has nothing to weigh."""
    found = variances.mean(dim=1)
    return found.where(found > 0, 1.0)
