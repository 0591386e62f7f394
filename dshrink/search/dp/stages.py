"""Stage 1: the best way to run a span's convolutions, and the best estimate of its importance.

T_opt(i, j) = min(T(i, j), min over m of T_opt(i, m) + T(m, j)), with the cuts (Kim et al. 2023).
With several costs a span has a Pareto set of such ways. I_ext(i, j, a, b) = max(I(i, j, a, b), max
over m of I_ext(i, m, a, 0) + I(m, j, 0, b)).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from dshrink.search.dp.labels import non_dominated
from dshrink.search.dp.problem import Key, SpanProblem
from latency_tables.span_masks import Span


class Merging(NamedTuple):
    """One way to run a span: the positions from i to j where layers meet, and what it costs."""

    cuts: tuple[int, ...]
    costs: tuple[float, ...]

    @property
    def layers(self) -> int:
        return len(self.cuts) - 1


#: The ways to run a span, none where there is none.
Ways = Callable[[Span], tuple[Merging, ...]]


class Estimate(NamedTuple):
    """The best sum of importances for a key, and the positions from i to j that it joins."""

    cuts: tuple[int, ...]
    importance: float


def best_mergings(problem: SpanProblem) -> dict[Span, tuple[Merging, ...]]:
    """T_opt of every span that has a key: each Pareto set, fastest first.

    Of equal costs the one with fewer layers counts. A span whose convolutions no layers serve is
    left out.
    """
    wanted = {key[:2] for key in problem.importance}
    starts: dict[int, list[int]] = defaultdict(list)
    for i, j in sorted(problem.costs):
        starts[j].append(i)
    ways = _fastest(problem, starts) if problem.width == 1 else _pareto(problem, starts, wanted)
    return {span: mergings for span in wanted if (mergings := ways(span))}


def _pareto(
    problem: SpanProblem, starts: Mapping[int, list[int]], wanted: Collection[Span]
) -> Ways:
    found: dict[Span, tuple[Merging, ...]] = {}
    last: dict[int, int] = {}  # from each start: beyond it nothing is wanted, and sets only grow
    for i, j in wanted:
        last[i] = max(j, last.get(i, j))
    for i in sorted(last):
        for j in range(i + 1, last[i] + 1):
            options = [Merging((i, j), problem.costs[i, j])] if (i, j) in problem.costs else []
            for m in starts[j]:
                for head in found.get((i, m), ()):
                    costs = tuple(map(float.__add__, head.costs, problem.costs[m, j]))
                    options.append(Merging((*head.cuts, j), costs))
            if options:
                found[i, j] = _non_dominated(options)
    return lambda span: found.get(span, ())


def _non_dominated(options: list[Merging]) -> tuple[Merging, ...]:
    values = np.array([(*option.costs, 0.0, option.layers) for option in options]).T
    return tuple(options[number] for number in non_dominated(values))


def _fastest(problem: SpanProblem, starts: Mapping[int, list[int]]) -> Ways:
    """T_opt(i, j) for all i at once, j by j."""
    size = problem.length + 1
    best = np.full((size, size), np.inf)
    layers = np.zeros((size, size), dtype=np.int64)
    cut = np.zeros((size, size), dtype=np.int64)
    np.fill_diagonal(best, 0.0)
    every = np.arange(size)
    for j, before in sorted(starts.items()):
        sums = best[:j, before] + np.array([problem.costs[m, j][0] for m in before])
        least = sums.min(axis=1)
        counts = np.where(sums == least[:, None], layers[:j, before], size)
        chosen = counts.argmin(axis=1)
        best[:j, j], cut[:j, j] = least, np.array(before)[chosen]
        layers[:j, j] = counts[every[:j], chosen] + 1

    times, cuts = best.tolist(), cut.tolist()

    def ways(span: Span) -> tuple[Merging, ...]:
        i, j = span
        if math.isinf(times[i][j]):
            return ()
        path = [j]
        while path[-1] != i:
            path.append(cuts[i][path[-1]])
        return (Merging(tuple(reversed(path)), (times[i][j],)),)

    return ways


def best_importances(importance: Mapping[Key, float]) -> dict[Key, Estimate]:
    """I_ext of every key of the table."""
    tails: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    for (m, j, a, b), value in sorted(importance.items()):
        if a == 0:
            tails[j, b].append((m, value))
    found: dict[Key, Estimate] = {}
    for key in sorted(importance):
        i, j, a, b = key
        best = Estimate((i, j), importance[key])
        for m, value in tails[j, b]:
            head = found.get((i, m, a, 0))
            if head is not None and head.importance + value > best.importance:
                best = Estimate((*head.cuts, j), head.importance + value)
        found[key] = best
    return found
