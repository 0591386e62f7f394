"""The states of stage 2, the edges between them, and the labels that reach each state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dshrink.search.dp.labels import Floats, Labels, Steps, empty_plan, extend, non_dominated
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.stages import best_importances, best_mergings

#: A position, and whether an activation stands behind it.
State = tuple[int, int]
#: Leaves out labels of a state that lead to nothing.
Prune = Callable[[State, Labels], Labels]


@dataclass(frozen=True, slots=True)
class Edge:
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


def forwards(
    edges: Sequence[Edge], width: int, prunes: Sequence[Prune] = ()
) -> dict[State, Labels]:
    """F of every state that can be reached from the empty plan."""
    ways: dict[State, list[tuple[int, State]]] = defaultdict(list)
    for number, edge in enumerate(edges):
        ways[edge.end].append((number, edge.start))
    return _reach(ways, {(0, 1): empty_plan(width)}, steps_of(edges, width), prunes)


def backwards(edges: Sequence[Edge], length: int, costs: Floats) -> dict[State, Labels]:
    """What each state still needs to the chain's end, of one cost an edge (``costs`` (E,))."""
    ways: dict[State, list[tuple[int, State]]] = defaultdict(list)
    for number in sorted(range(len(edges)), key=lambda number: -edges[number].start[0]):
        ways[edges[number].start].append((number, edges[number].end))
    ends = {(length, flag): empty_plan(1) for flag in (0, 1)}
    steps = steps_of(edges, 1)
    return _reach(ways, ends, Steps(costs[:, None], steps.importances, steps.layers), ())


def steps_of(edges: Sequence[Edge], width: int) -> Steps:
    """The edges as arrays, with the first ``width`` costs."""
    return Steps(
        np.array([edge.costs[:width] for edge in edges]).reshape(-1, width),
        np.array([edge.importance for edge in edges]),
        np.array([len(edge.cuts) - 1 for edge in edges], dtype=np.int64),
    )


def _reach(
    ways: Mapping[State, Sequence[tuple[int, State]]],
    initial: Mapping[State, Labels],
    steps: Steps,
    prunes: Sequence[Prune],
) -> dict[State, Labels]:
    """The labels of every state; ``ways`` gives its edges and where each comes from, in order."""
    reached = dict(initial)
    for state, incoming in ways.items():
        possible = [(number, before) for number, before in incoming if before in reached]
        if not possible:
            continue
        starts = [reached[before] for _, before in possible]
        labels = extend(starts, steps, [number for number, _ in possible])
        for prune in prunes:
            labels = prune(state, labels)
        if len(labels.layers):
            reached[state] = labels.take(non_dominated(labels))
    return reached


def least_rest(edges: Sequence[Edge], problem: SpanProblem) -> dict[State, Floats]:
    """What each cost must still grow by from a state to the end of the chain, at least."""
    rest = {(problem.length, flag): np.zeros(problem.width) for flag in (0, 1)}
    for edge in sorted(edges, key=lambda edge: -edge.end[0]):
        if edge.end in rest:
            least = rest[edge.end] + np.array(edge.costs)
            rest[edge.start] = np.minimum(rest.get(edge.start, least), least)
    return rest


def path(
    edges: Sequence[Edge], reached: Mapping[State, Labels], state: State, label: int
) -> list[int]:
    """The numbers of the edges that lead to a label, from the first one on."""
    numbers: list[int] = []
    while state[0]:
        labels = reached[state]
        numbers.append(int(labels.edge[label]))
        state, label = edges[numbers[-1]].start, int(labels.parent[label])
    return numbers[::-1]
