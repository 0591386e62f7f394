"""Linear least squares over the positions of feature maps, image by image.

A convolution is linear in its weights: each output position is a product of them with the patch
that it reads. While positions are fewer than unknowns they are kept, for the dual form; from there
on sums are taken, so that what is held does not depend on the number of images: at most as much as
the sums need.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dshrink.merge.algebra import ConvWeights
from dshrink.refit.normal_equations import Equations, Factored, KernelEquations, NormalEquations
from dshrink.refit.patches import Patches


class LeastSquares:
    """Weights of a convolution of ``conv``'s shape, from what it reads and what it should give."""

    def __init__(self, conv: ConvWeights) -> None:
        self._patches = Patches(conv=conv)
        self._equations: Equations = KernelEquations()

    def add(self, x: Tensor, target: Tensor) -> None:
        """Add what the convolution reads (N, I, H, W), and the ``target`` (N, O, H', W')."""
        for patches, targets in self._patches.pairs(x, target):
            kept, unknowns = self._equations, self._patches.unknowns
            if isinstance(kept, KernelEquations) and (kept.positions + patches.shape[1] > unknowns):
                self._equations = self._sums(kept)
            self._equations.add(patches, targets)

    def _sums(self, kept: KernelEquations) -> NormalEquations:
        conv = self._patches.conv
        outputs = conv.out_channels // conv.groups
        sums = NormalEquations(conv.groups, self._patches.unknowns, outputs, conv.weight.device)
        for patches, targets in zip(kept.patches, kept.targets, strict=True):
            sums.add(patches, targets)
        return sums

    def add_targets(self, x: Tensor, target: Tensor) -> None:
        """As ``add``, for what was added in this order already, with other targets."""
        for patches, targets in self._patches.pairs(x, target):
            self._equations.add_targets(patches, targets)

    def without_targets(self) -> LeastSquares:
        """The same inputs with no targets yet; what they need is not computed again."""
        found = LeastSquares(self._patches.conv)
        found._equations = self._equations.without_targets()
        return found

    def factored(self, ridge: float) -> Factored:
        """The equations for a ridge, ready for any targets."""
        return self._equations.factored(ridge)

    def solver(self, prior: ConvWeights) -> Callable[[Factored], ConvWeights]:
        """What gives the convolution for a ridge towards ``prior`` (``Equations.solver``)."""
        return self._equations.solver(prior)
