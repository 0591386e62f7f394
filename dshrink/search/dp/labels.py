"""Labels: what a plan up to a position costs and is worth, and which of them are worth keeping.

A label is dominated where another costs no more of anything and is worth no less; of two that are
equal the one with fewer layers stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]

#: Which labels of a state, by their values (D + 2, N), can lead to a plan that is wanted: (N,).
Worthwhile = Callable[[Floats], Truths]

#: Sums in another order differ by less than this share.
ROUNDING = 1e-9
#: Labels of several costs are compared a block at a time.
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Labels:
    """N labels: ``values`` (D + 2, N) are D costs, the importance and the number of layers.

    All of these add up along a plan, so one array holds them. ``origin`` (N,) says which label of
    which edge's start each came from: those of the first edge count first, then the next one's.
    """

    values: Floats
    origin: Integers

    def __len__(self) -> int:
        return len(self.origin)

    @property
    def costs(self) -> Floats:
        """(N, D)."""
        return self.values[:-2].T

    @property
    def importances(self) -> Floats:
        """(N,)."""
        values: Floats = self.values[-2]
        return values

    def take(self, chosen: Integers) -> Labels:
        return Labels(self.values[:, chosen], self.origin[chosen])


def empty_plan(width: int) -> Labels:
    """The one label of the chain's input, for ``width`` costs."""
    return Labels(np.zeros((width + 2, 1)), np.zeros(1, dtype=np.int64))


def best_of(values: Floats, prunes: Sequence[Worthwhile] = ()) -> Labels:
    """The labels worth keeping of all that there are; ``origin`` is their number among these."""
    every = Labels(values, np.arange(values.shape[1]))
    for prune in prunes:
        every = every.take(np.flatnonzero(prune(every.values)))
    return every.take(non_dominated(every.values))


def non_dominated(values: Floats) -> Integers:
    """The numbers of the labels that no other dominates, in ascending order of their costs.

    ``values`` (D + 2, N) are those of ``Labels``.
    """
    if len(values) == 3:
        return _staircase(*values)
    keys = values[:-1].copy()
    keys[-1] *= -1
    order = np.lexsort((values[-1], keys[-1], *keys[-2::-1]))
    return order[_sweep(keys.T[order])]


def _staircase(costs: Floats, importances: Floats, layers: Floats) -> Integers:
    """``non_dominated`` of one cost: each label worth more than all that cost less."""
    numbers = np.argsort(costs, kind="stable")
    heights = importances[numbers]
    # Most labels are worth less than a cheaper one; what is left is worth a careful sort.
    numbers = numbers[heights >= np.maximum.accumulate(heights)]
    numbers = numbers[np.lexsort((layers[numbers], -importances[numbers], costs[numbers]))]
    heights = importances[numbers]
    better = np.ones(len(numbers), dtype=bool)
    np.greater(heights[1:], np.maximum.accumulate(heights)[:-1], out=better[1:])
    return numbers[better]


def _sweep(rows: Floats) -> Integers:
    """The rows, sorted lexicographically, that no earlier one is at most in every column."""
    numbers: list[int] = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        alive = np.flatnonzero(~_below(rows[numbers], block))
        while len(alive):
            # The first row left is dominated by none; it may dominate others.
            first, others = block[alive[0]], alive[1:]
            numbers.append(start + int(alive[0]))
            alive = others[~(first <= block[others]).all(axis=1)]
    return np.array(numbers, dtype=np.int64)


def _below(kept: Floats, block: Floats) -> Truths:
    """Which rows of the block have a kept row that is at most in every column."""
    # Rows are sorted by the first column, so the kept ones are at most there.
    below = np.ones((len(kept), len(block)), dtype=bool)
    for column in range(1, block.shape[1]):
        below &= kept[:, None, column] <= block[None, :, column]
    return np.asarray(below.any(axis=0))
