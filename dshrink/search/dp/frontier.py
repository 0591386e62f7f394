"""Stage 2: every budget's best plan in one solve.

F(0, 1) is the empty plan; F(j, b) holds the non-dominated labels of F(i, a) + (T_opt(i, j),
I_ext(i, j, a, b)) over all i and a. The chain may end with an activation or without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dshrink.search.dp.labels import (
    ROUNDING,
    Floats,
    Labels,
    Truths,
    Worthwhile,
    best_of,
    non_dominated,
)
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.stages import Edge, Prune, Reached, State, forwards, least_rest, make_edges
from dshrink.search.errors import NoPlanError, SearchError
from dshrink.search.goal import infeasible, round_up
from dshrink.search.plan import SPANS_PREFIX
from latency_tables.span_masks import mask_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPlan:
    """A network of the chain as a solver knows it, what it costs and is worth.

    ``mask`` is its span mask (S and A of the paper) or, of LayerMerge (``kind`` "plan"), its spans
    with their kernels: "0-3:5 3-4:1". ``costs`` are the sums of the problem's costs, the latency in
    ms first; ``importance`` is that of I_ext; ``layers`` counts the convolutions that are left.
    """

    kind: Literal["mask", "plan"] = "mask"
    mask: str
    costs: tuple[float, ...]
    importance: float
    layers: int

    @property
    def time_ms(self) -> float:
        return self.costs[0]

    @property
    def text(self) -> str:
        """The plan in one line: as on a command line, where that takes it."""
        return f"{SPANS_PREFIX if self.kind == 'mask' else ''}{self.mask}"


@dataclass(frozen=True, slots=True)
class Frontier:
    """The non-dominated plans, in ascending order of latency and, of one cost, of importance.

    ``times_ms`` (N,), ``costs`` (N, D) with the latency first, and ``importances`` (N,) are its
    points; ``plan(n)`` is the network of one, made by ``make_plan`` of the numbers of its edges,
    its costs and its importance.
    """

    length: int
    reached: Reached
    # The points are labels as well: their origin counts those of the two ends of the chain.
    points: Labels
    make_plan: Callable[[list[int], tuple[float, ...], float], ChainPlan]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def times_ms(self) -> Floats:
        return self.points.costs[:, 0]

    @property
    def costs(self) -> Floats:
        return self.points.costs

    @property
    def importances(self) -> Floats:
        return self.points.importances

    def plan(self, number: int) -> ChainPlan:
        """The network of a point."""
        label = int(self.points.origin[number])
        without = len(self.reached.labels.get((self.length, 0), ()))
        end = (self.length, int(label >= without))
        edges = self.reached.path(end, label - without if end[1] else label)
        costs = tuple(self.points.costs[number].tolist())
        return self.make_plan(edges, costs, float(self.importances[number]))

    def of_latency(self) -> Frontier:
        """The points that are non-dominated in latency and importance alone."""
        points = self.points.take(non_dominated(self.points.values[[0, -2, -1]]))
        return Frontier(self.length, self.reached, points, self.make_plan)

    def best(self, budget_ms: float) -> ChainPlan:
        """The plan of the largest importance whose latency is at most ``budget_ms``.

        Of equal importances it has the smaller latency, then the fewer layers. Raises
        InfeasibleBudgetError, which names the smallest latency.
        """
        if not (math.isfinite(budget_ms) and budget_ms > 0):
            raise SearchError(f"the latency budget must be above 0 ms, got {budget_ms}")
        within = np.flatnonzero(self.times_ms <= budget_ms)
        if not len(within):
            fastest = self.plan(int(self.times_ms.argmin()))
            raise infeasible(budget_ms, fastest.time_ms, fastest.text)
        return self.plan(int(within[self.importances[within].argmax()]))


def solve(
    problem: SpanProblem, limits: Sequence[float] | None = None, prune: Prune | None = None
) -> Frontier:
    """The whole frontier of a problem: of its latency, or of all its costs.

    ``limits`` are upper bounds of the costs, infinite where there is none; plans beyond them are
    left out, and so is what ``prune`` leaves out. Raises NoPlanError where none is left.
    """
    bounds = np.array(limits or [math.inf] * problem.width)
    edges = make_edges(problem)
    prunes = [prune] if prune else []
    if np.isfinite(bounds).any():
        # What is exactly within its bound is decided at the end.
        prunes.insert(0, _within(bounds * (1 + ROUNDING), least_rest(edges, problem)))

    def make_plan(path: list[int], costs: tuple[float, ...], importance: float) -> ChainPlan:
        return plan_of_edges(problem.length, [edges[n] for n in path], costs, importance)

    def at_most(values: Floats) -> Truths:
        return np.asarray((values[:-2] <= bounds[:, None]).all(axis=0))

    reached = forwards(edges, problem.width, prunes)
    points = points_at_the_end(reached, problem.length, [at_most])
    if not points:
        raise NoPlanError(_why_none(problem, edges, bounds))
    return Frontier(problem.length, reached, points, make_plan)


def plan_of_edges(
    length: int, path: Sequence[Edge], costs: tuple[float, ...], importance: float
) -> ChainPlan:
    """The network that a path of edges along the chain makes."""
    boundaries = [at for edge in path for at in edge.cuts[1:]]
    active = {edge.end[0] for edge in path if edge.end[1]}
    mask = mask_of(length, boundaries, active)
    return ChainPlan(mask=mask, costs=costs, importance=importance, layers=len(boundaries))


def points_at_the_end(
    reached: Reached, length: int, prunes: Sequence[Worthwhile] = ()
) -> Labels | None:
    """The labels that are worth keeping at the end of the chain; None where none gets there."""
    ends = [reached.labels.get((length, flag)) for flag in (0, 1)]
    values = [labels.values for labels in ends if labels]
    return best_of(np.concatenate(values, axis=1), prunes) if values else None


def _within(bounds: Floats, rest: Mapping[State, Floats]) -> Prune:
    """Leaves out labels that cannot reach the chain's end within the bounds."""

    def prune(state: State, values: Floats) -> Truths:
        least = rest.get(state, np.inf)
        return np.asarray((values[:-2].T + least <= bounds).all(axis=1))

    return prune


def _why_none(problem: SpanProblem, edges: Sequence[Edge], bounds: Floats) -> str:
    """Which bound no plan meets by itself, or that they contradict each other."""
    rest = least_rest(edges, problem)
    if (0, 1) not in rest:
        return "no plan is possible: spans with a latency and an importance do not cover the chain"
    for at, (least, bound) in enumerate(zip(rest[0, 1], bounds, strict=True)):
        if least > bound:
            fixed = problem.fixed[at] if problem.fixed else 0.0
            most, smallest = float(bound) + fixed, float(least) + fixed
            # Counts are asked for as whole numbers, so all their digits are given.
            advice = f"{smallest:.0f}" if smallest.is_integer() else round_up(smallest)
            return (
                f"no plan has at most {most:.15g} of {problem.names[at]}: the least is "
                f"{smallest:.15g}; ask for at least {advice}"
            )
    return f"no plan meets the bounds of {', '.join(problem.names)} together: raise one of them"
