"""The states of stage 2, the edges between them, and the labels that reach each state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from dshrink.search.dp.labels import Floats, Labels, Truths, best_of, empty_plan
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.stages import best_importances, best_mergings

#: A position, and whether an activation stands behind it.
State = tuple[int, int]
#: Which labels of a state, by their values (D + 2, N), are worth going on from: (N,).
Prune = Callable[[State, Floats], Truths]


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
        Edge((i, a), (j, b), merging.cuts, merging.costs, estimate.importance)
        for (i, j, a, b), estimate in best_importances(problem.importance).items()
        if problem.allows((i, j, a, b))
        for merging in mergings.get((i, j), ())
    ]
    return sorted(edges, key=lambda edge: edge.end)


@dataclass(frozen=True, slots=True)
class Reached:
    """The labels of every state that can be reached, and the edges that lead to it."""

    edges: Sequence[Edge]
    ways: Mapping[State, Sequence[tuple[int, State]]]
    labels: Mapping[State, Labels]

    def path(self, state: State, label: int) -> list[int]:
        """The numbers of the edges that lead to a label, from the first one on."""
        found: list[int] = []
        while state[0]:
            label = int(self.labels[state].origin[label])
            ways = iter(self.ways[state])
            number, state = next(ways)
            while label >= (count := self._count(state)):
                label -= count
                number, state = next(ways)
            found.append(number)
        return found[::-1]

    def _count(self, state: State) -> int:
        return len(self.labels[state]) if state in self.labels else 0


def forwards(edges: Sequence[Edge], width: int, prunes: Sequence[Prune] = ()) -> Reached:
    """F of every state that can be reached from the empty plan."""
    ways: dict[State, list[tuple[int, State]]] = defaultdict(list)
    for number, edge in enumerate(edges):
        ways[edge.end].append((number, edge.start))
    steps = steps_of(edges, width)
    return Reached(edges, ways, _reach(ways, {(0, 1): empty_plan(width)}, steps, prunes))


def backwards(edges: Sequence[Edge], length: int, costs: Floats) -> dict[State, Labels]:
    """What each state still needs to the chain's end, of one cost an edge (``costs`` (E,))."""
    ways: dict[State, list[tuple[int, State]]] = defaultdict(list)
    for number in sorted(range(len(edges)), key=lambda number: -edges[number].start[0]):
        ways[edges[number].start].append((number, edges[number].end))
    ends = {(length, flag): empty_plan(1) for flag in (0, 1)}
    steps = steps_of(edges, 1)
    steps[:, 0, 0] = costs
    return _reach(ways, ends, steps, ())


def steps_of(edges: Sequence[Edge], width: int) -> Floats:
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
