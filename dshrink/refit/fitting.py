"""Fitting one unit: which weights of a convolution give what the original gave.

The ridge, and each further correction, is chosen by the network's result on the held-out images,
with all layers behind the unit still the original's; what the unit begins with stays where nothing
is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from dshrink.merge.algebra import ConvWeights
from dshrink.merge.padding import border_mask
from dshrink.refit.distances import mean_error, nearest_target
from dshrink.refit.layers import KeptConv, MergedLayers
from dshrink.refit.least_squares import LeastSquares
from dshrink.refit.normal_equations import Factored
from dshrink.refit.parts import live_before, part_between, result_of
from dshrink.refit.stream import Stream
from dshrink.refit.units import Unit

#: Tried from weak to strong, in units of the mean variance of what a weight is multiplied with.
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
#: A convolution of more weights an output channel stays as it is linearised: the moments of its
#: patches alone would take a gibibyte.
MOST_UNKNOWNS = 11_000
#: So often targets move to where the activation behind is flat.
ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFit:
    """How a unit was fitted. ``ridge`` is None where it kept the weights that it began with.

    ``explained`` is the share of the variance of what it should give that it does give, on the
    held-out images (R^2), ``start`` that of the weights it began with; None for one too large to
    fit. ``error`` is that of the network's result there (``result_error``).
    """

    label: str
    merged: bool
    unknowns: int
    ridge: float | None
    start: float | None
    explained: float | None
    error: float


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Images on their way through the original and through the network that is refitted."""

    original: Stream
    refitted: Stream


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tried:
    """What a ridge gives, and the network's error with it."""

    ridge: float
    factored: Factored
    conv: ConvWeights
    error: float


@dataclass(kw_only=True)
class Fitting:
    """A unit whose layers are in the graph of the refitted network.

    ``cut`` is the node of its convolution, ``makes`` and ``result`` those of the unit's tensors,
    ``wanted`` the original's node; ``wanted_results`` are the original's on the held-out batches.
    """

    unit: Unit
    layers: MergedLayers | KeptConv
    cut: fx.Node
    makes: fx.Node
    result: fx.Node
    wanted: fx.Node
    fit: Passes
    held_out: Passes
    wanted_results: Sequence[Tensor]
    ridges: Sequence[float] = RIDGES
    _tail: fx.GraphModule = field(init=False)
    _live: list[fx.Node] = field(init=False)

    def __post_init__(self) -> None:
        module = self.held_out.refitted.module
        self._live = live_before(module, self.cut)
        self._tail = part_between(module, self._live, [result_of(module)])

    @torch.inference_mode()
    def run(self) -> UnitFit:
        """Fit, and set the unit's layers."""
        shape = self.layers.shape()
        unknowns, merged = shape.weight[0].numel(), isinstance(self.layers, MergedLayers)
        error, ridge = self._error(shape), None
        start = explained = None
        if unknowns <= MOST_UNKNOWNS:
            start = explained = self._explained()
            squares = LeastSquares(shape)
            for x, target, _ in self._pairs(self.fit):
                squares.add(x, target)
            found = self._searched(squares, shape)
            best = shape
            if found.error < error:
                best, error, ridge = found.conv, found.error, found.ridge
            self.layers.set(best)
            if ridge is not None:
                if self.unit.function:
                    best, error = self._through_activation(squares, shape, found)
                explained = self._explained()
            error = self._with_bias_map(best, error)
        return UnitFit(
            label=self.unit.label,
            merged=merged,
            unknowns=unknowns,
            ridge=ridge,
            start=start,
            explained=explained,
            error=error,
        )

    def _searched(self, squares: LeastSquares, prior: ConvWeights) -> _Tried:
        """The best of the ridges, from the middle on, up while that helps, else down."""
        solve = squares.solver(prior)

        def tried(ridge: float) -> _Tried:
            factored = squares.factored(ridge)
            conv = solve(factored)
            return _Tried(ridge=ridge, factored=factored, conv=conv, error=self._error(conv))

        middle = len(self.ridges) // 2
        first = tried(self.ridges[middle])
        for way in (self.ridges[middle + 1 :], self.ridges[:middle][::-1]):
            best = first
            for ridge in way:
                found = tried(ridge)
                if not found.error < best.error:
                    break
                best = found
            if best is not first:
                return best
        return first

    def _error(self, conv: ConvWeights) -> float:
        """The network's error on the held-out images with these weights, which are set."""
        self.layers.set(conv)
        # Free where the stream keeps what it has come to; else what is before runs again.
        known = self.held_out.refitted.values(self._live)
        return mean_error(
            (wanted, self._tail(*values)[0])
            for wanted, values in zip(self.wanted_results, known, strict=True)
        )

    def _explained(self) -> float:
        """The share of the variance of what the unit should give that it gives, held out (R^2)."""
        missing, images = 0.0, 0
        sums: Tensor | None = None
        for _, target, made in self._pairs(self.held_out):
            target = target.double()
            missing += float((target + self._bias_map - made).square().sum())
            terms = torch.stack([target, target.square()]).sum(dim=(1, 3, 4))
            sums = terms if sums is None else sums + terms
            images += len(target)
        assert sums is not None
        mean, square = sums / (images * target[0, 0].numel())
        spread = float((square - mean.square()).sum()) * images * target[0, 0].numel()
        return 1 - missing / spread if spread > 0 else 1.0

    def _pairs(self, passes: Passes) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What the convolution reads, what it should give and what the unit gives now; batches."""
        (reads,) = self.cut.all_input_nodes
        both = zip(
            passes.original.values([self.wanted]),
            passes.refitted.values([reads, self.makes, self.result]),
            strict=True,
        )
        for (wanted,), (x, made, result) in both:
            target = nearest_target(wanted, result, self.unit.function)
            # What is added behind is another layer's part; a bias map is fitted by itself.
            yield x, target - (result - made) - self._bias_map, made

    @property
    def _bias_map(self) -> Tensor | float:
        layers = self.layers
        if isinstance(layers, MergedLayers) and layers.bias_map is not None:
            return layers.bias_map.values
        return 0.0

    def _through_activation(
        self, squares: LeastSquares, prior: ConvWeights, best: _Tried
    ) -> tuple[ConvWeights, float]:
        """Fit again to targets that moved to where the activation behind gives the same anyway."""
        conv, error = best.conv, best.error
        for _ in range(ROUNDS):
            moved = squares.without_targets()
            for x, target, _ in self._pairs(self.fit):
                moved.add_targets(x, target)
            fitted = moved.solver(prior)(best.factored)
            if (found := self._error(fitted)) >= error:
                break
            conv, error = fitted, found
        self.layers.set(conv)
        return conv, error

    def _with_bias_map(self, conv: ConvWeights, error: float) -> float:
        """Let the bias map, if there is one, be the mean of what is missing at the border."""
        layers = self.layers
        if not isinstance(layers, MergedLayers) or layers.bias_map is None:
            return error
        values = layers.bias_map.values
        before, missing, images = values.clone(), torch.zeros_like(values).double(), 0
        for _, target, made in self._pairs(self.fit):
            missing += (target - (made - before)).double().sum(dim=0)
            images += len(target)
        border = border_mask(layers.start.border, (values.shape[1], values.shape[2]))
        found = torch.where(border.to(values.device), before + missing / images, 0.0)
        values.copy_(found)
        if (with_map := self._error(conv)) < error:
            return with_map
        values.copy_(before)
        return error
