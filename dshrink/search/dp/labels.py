"""Labels: what a plan up to a position costs and is worth, and which of them are worth keeping.

A label is dominated where another costs no more of anything and is worth no less; of two that are
equal the one with fewer layers stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Labels of several costs are compared a block at a time.
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Labels:
    """N labels: ``costs`` (N, D), ``importances`` (N,), ``layers`` (N,).

    ``edge`` (N,) says by which edge each was reached, ``parent`` (N,) from which label of the
    edge's start.
    """

    costs: Floats
    importances: Floats
    layers: Integers
    edge: Integers
    parent: Integers

    def take(self, chosen: Integers) -> Labels:
        return Labels(
            self.costs[chosen],
            self.importances[chosen],
            self.layers[chosen],
            self.edge[chosen],
            self.parent[chosen],
        )


def empty_plan(width: int) -> Labels:
    """The one label of the chain's input, for ``width`` costs."""
    zero = np.zeros(1, dtype=np.int64)
    return Labels(np.zeros((1, width)), np.zeros(1), zero, zero, zero)


@dataclass(frozen=True, slots=True)
class Steps:
    """What labels grow by: E edges' ``costs`` (E, D), ``importances`` (E,) and ``layers`` (E,)."""

    costs: Floats
    importances: Floats
    layers: Integers


def extend(starts: Sequence[Labels], steps: Steps, numbers: Sequence[int]) -> Labels:
    """All labels that the edges of these ``numbers`` lead to, each from the labels of its start."""
    sizes = [len(start.layers) for start in starts]
    edge = np.repeat(numbers, sizes)
    first = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    return Labels(
        np.concatenate([start.costs for start in starts]) + steps.costs[edge],
        np.concatenate([start.importances for start in starts]) + steps.importances[edge],
        np.concatenate([start.layers for start in starts]) + steps.layers[edge],
        edge,
        np.arange(len(edge)) - first,
    )


def join(parts: list[Labels]) -> Labels:
    """Sets of labels in one."""
    return Labels(
        np.concatenate([part.costs for part in parts]),
        np.concatenate([part.importances for part in parts]),
        np.concatenate([part.layers for part in parts]),
        np.concatenate([part.edge for part in parts]),
        np.concatenate([part.parent for part in parts]),
    )


def non_dominated(labels: Labels) -> Integers:
    """The numbers of the labels that no other dominates, in ascending order of their costs."""
    numbers = np.arange(len(labels.layers))
    if labels.costs.shape[1] == 1:
        # Most labels are worth less than a cheaper one; what is left is worth a careful sort.
        numbers = np.argsort(labels.costs[:, 0], kind="stable")
        importances = labels.importances[numbers]
        numbers = numbers[importances >= np.maximum.accumulate(importances)]
    costs, importances = labels.costs[numbers], labels.importances[numbers]
    order = np.lexsort((labels.layers[numbers], -importances, *costs.T[::-1]))
    if costs.shape[1] == 1:
        return numbers[order[_first_at_its_height(importances[order])]]
    return numbers[order[_sweep(np.column_stack((costs, -importances))[order])]]


def _first_at_its_height(importances: Floats) -> NDArray[np.bool_]:
    """Which labels, sorted by their cost, are worth more than all before them."""
    better = np.ones(len(importances), dtype=bool)
    np.greater(importances[1:], np.maximum.accumulate(importances)[:-1], out=better[1:])
    return better


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


def _below(kept: Floats, block: Floats) -> NDArray[np.bool_]:
    """Which rows of the block have a kept row that is at most in every column."""
    # Rows are sorted by the first column, so the kept ones are at most there.
    below = np.ones((len(kept), len(block)), dtype=bool)
    for column in range(1, block.shape[1]):
        below &= kept[:, None, column] <= block[None, :, column]
    return np.asarray(below.any(axis=0))
