"""Stage 2: every budget's best plan in one solve.

F(0, 1) is the empty plan; F(j, b) holds the non-dominated labels of F(i, a) + (T_opt(i, j),
I_ext(i, j, a, b)) over all i and a. The chain may end with an activation or without one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dshrink.search.dp.labels import Floats, Labels, Truths, Worthwhile, best_of, non_dominated
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.reach import Edge, Prune, Reached, State, forwards, least_rest, make_edges
from dshrink.search.errors import InfeasibleBudgetError, NoPlanError, SearchError
from dshrink.search.goal import round_up
from latency_tables.span_masks import mask_of

#: Sums in another order differ by less than this share; what is bounded is decided at the end.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanPlan:
    """A network of the chain: S (``boundaries``), A (``active``), what it costs and is worth.

    ``costs`` are the sums of the problem's costs, the latency first; ``importance`` is that of
    I_ext.
    """

    length: int
    boundaries: tuple[int, ...]
    active: tuple[int, ...]
    costs: tuple[float, ...]
    importance: float

    @property
    def time_ms(self) -> float:
        return self.costs[0]

    @property
    def mask(self) -> str:
        """S and A as a span mask."""
        return mask_of(self.length, self.boundaries, self.active)

    @property
    def layers(self) -> int:
        """The convolutions that are left."""
        return len(self.boundaries)

    @property
    def text(self) -> str:
        """The plan on a command line."""
        return f"spans:{self.mask}"

    def to_json(self) -> dict[str, Any]:
        return {
            "mask": self.mask,
            "time_ms": self.time_ms,
            "importance": self.importance,
            "layers": self.layers,
        }


class Frontier:
    """The non-dominated plans, in ascending order of latency and, of one cost, of importance.

    ``times_ms`` (N,), ``costs`` (N, D) with the latency first, and ``importances`` (N,) are its
    points; ``plan(n)`` is the network of one.
    """

    def __init__(self, length: int, reached: Reached, points: Labels) -> None:
        # The points are labels as well: their origin counts those of the two ends of the chain.
        self._length, self._reached, self._points = length, reached, points

    def __len__(self) -> int:
        return len(self.importances)

    @property
    def times_ms(self) -> Floats:
        return self._points.costs[:, 0]

    @property
    def costs(self) -> Floats:
        return self._points.costs

    @property
    def importances(self) -> Floats:
        return self._points.importances

    def plan(self, number: int) -> SpanPlan:
        """The network of a point."""
        label = int(self._points.origin[number])
        without = len(self._reached.labels.get((self._length, 0), ()))
        end = (self._length, int(label >= without))
        numbers = self._reached.path(end, label - without if end[1] else label)
        edges = [self._reached.edges[number] for number in numbers]
        return SpanPlan(
            length=self._length,
            boundaries=tuple(at for edge in edges for at in edge.cuts[1:]),
            active=tuple(edge.end[0] for edge in edges if edge.end[1]),
            costs=tuple(self._points.costs[number].tolist()),
            importance=float(self.importances[number]),
        )

    def of_latency(self) -> Frontier:
        """The points that are non-dominated in latency and importance alone."""
        of_one_cost = self._points.values[[0, -2, -1]]
        points = self._points.take(non_dominated(of_one_cost))
        return Frontier(self._length, self._reached, points)

    def best(self, budget_ms: float) -> SpanPlan:
        """The plan of the largest importance whose latency is at most ``budget_ms``.

        Of equal importances it has the smaller latency, then the fewer layers. Raises
        InfeasibleBudgetError, which names the smallest latency.
        """
        if not (math.isfinite(budget_ms) and budget_ms > 0):
            raise SearchError(f"the latency budget must be above 0 ms, got {budget_ms}")
        within = np.flatnonzero(self.times_ms <= budget_ms)
        if not len(within):
            fastest = self.plan(int(self.times_ms.argmin()))
            raise infeasible(budget_ms, fastest.time_ms, fastest.mask)
        return self.plan(int(within[self.importances[within].argmax()]))


def infeasible(
    budget_ms: float, smallest_ms: float, mask: str, device: str = ""
) -> InfeasibleBudgetError:
    """The error of a budget that no plan meets, not even the fastest."""
    where = f" on {device}" if device else ""
    return InfeasibleBudgetError(
        f"no plan meets {budget_ms:g} ms{where}: the smallest possible latency is "
        f"{smallest_ms:.4g} ms (spans:{mask}); ask for at least {round_up(smallest_ms)} ms",
        smallest_ms=smallest_ms,
        keep_mask=mask,
    )


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
        prunes.insert(0, _within(bounds * (1 + _ROUNDING), least_rest(edges, problem)))
    reached = forwards(edges, problem.width, prunes)
    ends = [reached.labels.get((problem.length, flag)) for flag in (0, 1)]
    values = [labels.values for labels in ends if labels]
    if not values:
        raise NoPlanError(_why_none(problem, edges, bounds))
    points = best_of(np.concatenate(values, axis=1), [_at_most(bounds)])
    if not len(points):
        raise NoPlanError(_why_none(problem, edges, bounds))
    return Frontier(problem.length, reached, points)


def _at_most(bounds: Floats) -> Worthwhile:
    return lambda values: np.asarray((values[:-2] <= bounds[:, None]).all(axis=0))


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
        return "no plan is possible: what may merge and what has a latency leave no way to the end"
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
