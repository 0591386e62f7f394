"""The two stages of the dynamic program (Kim et al., ICML 2023).

Stage 1 is about one span: the best way to run its convolutions,
T_opt(i, j) = min(T(i, j), min over m of T_opt(i, m) + T(m, j)), with the cuts; with several costs a
Pareto set of such ways. And the best estimate of its importance,
I_ext(i, j, a, b) = max(I(i, j, a, b), max over m of I_ext(i, m, a, 0) + I(m, j, 0, b)).

Stage 2 goes along the chain: a state is a position and whether an activation follows it, an edge
leads from one to another by a key, and each state is reached by labels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from dshrink.search.dp.labels import Floats, Labels, Truths, best_of, empty_plan, non_dominated
from dshrink.search.dp.problem import Key, SpanProblem
from latency_tables.span_masks import Span

#: A position, and whether an activation follows it.
State = tuple[int, int]
#: Which labels of a state, by their values (D + 2, N), are worth extending: (N,).
Prune = Callable[[State, Floats], Truths]


class Merging(NamedTuple):
    """One way to run a span: the positions from i to j where layers meet, and what it costs."""

    cuts: tuple[int, ...]
    costs: tuple[float, ...]


def best_mergings(problem: SpanProblem) -> dict[Span, tuple[Merging, ...]]:
    """T_opt of every span that has a key: each Pareto set, fastest first.

    Of equal costs the one with fewer layers counts. A span whose convolutions no layers serve is
    left out.
    """
    wanted = {key[:2] for key in problem.importance}
    starts: dict[int, list[int]] = defaultdict(list)
    for i, j in sorted(problem.costs):
        starts[j].append(i)
    find = _fastest if problem.width == 1 else _pareto
    return find(problem, starts, wanted)


def _pareto(
    problem: SpanProblem, starts: Mapping[int, list[int]], wanted: Collection[Span]
) -> dict[Span, tuple[Merging, ...]]:
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
                values = np.array([(*way.costs, 0.0, len(way.cuts)) for way in options]).T
                found[i, j] = tuple(options[number] for number in non_dominated(values))
    return {span: found[span] for span in wanted if span in found}


def _fastest(
    problem: SpanProblem, starts: Mapping[int, list[int]], wanted: Collection[Span]
) -> dict[Span, tuple[Merging, ...]]:
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
    found: dict[Span, tuple[Merging, ...]] = {}
    for i, j in wanted:
        path = [j]
        while path[-1] != i and math.isfinite(times[i][j]):
            path.append(cuts[i][path[-1]])
        if path[-1] == i:
            found[i, j] = (Merging(tuple(reversed(path)), (times[i][j],)),)
    return found


def best_importances(importance: Mapping[Key, float]) -> dict[Key, float]:
    """I_ext of every key of the table."""
    tails: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    for (m, j, a, b), value in sorted(importance.items()):
        if a == 0:
            tails[j, b].append((m, value))
    found: dict[Key, float] = {}
    for (i, j, a, b), value in sorted(importance.items()):
        joined = (found[i, m, a, 0] + tail for m, tail in tails[j, b] if (i, m, a, 0) in found)
        found[i, j, a, b] = max((value, *joined))
    return found


class Edge(NamedTuple):
    """A step of a plan: from one state to another by a key, its layers meeting at ``cuts``."""

    start: State
    end: State
    cuts: tuple[int, ...]
    costs: tuple[float, ...]
    importance: float


def make_edges(problem: SpanProblem) -> list[Edge]:
    """Every key, by every best way to merge its convolutions, in order of their ends."""
    mergings = best_mergings(problem)
    edges = [
        Edge((i, a), (j, b), merging.cuts, merging.costs, worth)
        for (i, j, a, b), worth in best_importances(problem.importance).items()
        if problem.allows((i, j, a, b))
        for merging in mergings.get((i, j), ())
    ]
    return sorted(edges, key=lambda edge: edge.end)


@dataclass(frozen=True, slots=True)
class Reached:
    """The labels of every state that can be reached, and the edges that lead to it."""

    ways: Mapping[State, Sequence[tuple[int, State]]]
    labels: Mapping[State, Labels]

    def path(self, state: State, label: int) -> list[int]:
        """The numbers of the edges that lead to a label, from the first one on."""
        found: list[int] = []
        while state[0]:
            label = int(self.labels[state].origin[label])
            ways = iter(self.ways[state])
            number, state = next(ways)
            while label >= (count := len(self.labels.get(state, ()))):
                label -= count
                number, state = next(ways)
            found.append(number)
        return found[::-1]


def forwards(edges: Sequence[Edge], width: int, prunes: Sequence[Prune] = ()) -> Reached:
    """F of every state that can be reached from the empty plan."""
    ways: dict[State, list[tuple[int, State]]] = defaultdict(list)
    for number, edge in enumerate(edges):
        ways[edge.end].append((number, edge.start))
    return Reached(ways, _reach(ways, {(0, 1): empty_plan(width)}, _steps(edges, width), prunes))


def backwards(edges: Sequence[Edge], length: int) -> dict[State, Labels]:
    """What each state still needs to the chain's end, of the first cost of the edges."""
    ways: dict[State, list[tuple[int, State]]] = defaultdict(list)
    for number in sorted(range(len(edges)), key=lambda number: -edges[number].start[0]):
        ways[edges[number].start].append((number, edges[number].end))
    ends = {(length, flag): empty_plan(1) for flag in (0, 1)}
    return _reach(ways, ends, _steps(edges, 1), ())


def _steps(edges: Sequence[Edge], width: int) -> Floats:
    """What labels grow by along each edge, (E, width + 2, 1): the first costs and the rest."""
    rows = [(*edge.costs[:width], edge.importance, len(edge.cuts) - 1) for edge in edges]
    return np.array(rows, dtype=np.float64).reshape(-1, width + 2, 1)


def _reach(
    ways: Mapping[State, Sequence[tuple[int, State]]],
    initial: Mapping[State, Labels],
    steps: Floats,
    prunes: Sequence[Prune],
) -> dict[State, Labels]:
    """The labels of every state; ``ways`` gives its edges and where each comes from, in order."""
    reached = dict(initial)
    for state, incoming in ways.items():
        possible = [(number, before) for number, before in incoming if before in reached]
        if not possible:
            continue
        values = np.concatenate(
            [reached[before].values + steps[number] for number, before in possible], axis=1
        )
        labels = best_of(values, [partial(prune, state) for prune in prunes])
        if len(labels):
            reached[state] = labels
    return reached


def least_rest(edges: Sequence[Edge], problem: SpanProblem) -> dict[State, Floats]:
    """What each cost must still grow by from a state to the end of the chain, at least."""
    rest = {(problem.length, flag): np.zeros(problem.width) for flag in (0, 1)}
    for edge in sorted(edges, key=lambda edge: -edge.end[0]):
        if edge.end in rest:
            least = rest[edge.end] + np.array(edge.costs)
            rest[edge.start] = np.minimum(rest.get(edge.start, least), least)
    return rest
