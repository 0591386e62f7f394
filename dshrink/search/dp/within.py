"""The one best plan within several limits at once, exactly.

A label is left out where its importance and the most that is still to come, with what is left of
any one limit alone, are below a plan already known. Such plans come from frontiers of mixed costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dshrink.search.dp.frontier import ChainPlan, solve
from dshrink.search.dp.labels import ROUNDING, Floats, Truths
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.stages import Prune, State, backwards, make_edges
from latency_tables.span_masks import mask_spans


def best_within(
    problem: SpanProblem, limits: Sequence[float], *, fastest: bool = False
) -> ChainPlan:
    """The plan of the largest importance whose costs are at most ``limits`` (finite, above 0).

    Of equal importances it has the smallest share of the limit where that is largest, or it is the
    ``fastest``, then it has fewer layers. Raises NoPlanError where no plan meets all.
    """
    # The frontier of one cost is found as fast as what would prune it.
    known = -math.inf if problem.width == 1 else _known_importance(problem, limits)
    prune = None if math.isinf(known) else _worth_more(problem, limits, known)
    frontier = solve(problem, limits, prune)
    most = frontier.importances.max()
    equal = np.flatnonzero(frontier.importances == most)
    plans = [frontier.plan(int(number)) for number in equal]
    if fastest:
        return min(plans, key=lambda plan: (plan.time_ms, plan.layers))
    return min(plans, key=lambda plan: (_worst_share(plan.costs, limits), plan.layers))


def fastest_within(problem: SpanProblem, limits: Sequence[float]) -> ChainPlan:
    """The fastest plan whose costs are at most ``limits``; that of the latency may be infinite.

    Its importance is not asked for, and is 0. Raises NoPlanError.
    """
    worthless = replace(problem, importance=dict.fromkeys(problem.importance, 0.0))
    frontier = solve(worthless, limits)
    return frontier.plan(int(frontier.times_ms.argmin()))


def _worst_share(costs: Sequence[float], limits: Sequence[float]) -> float:
    return max(cost / limit for cost, limit in zip(costs, limits, strict=True))


def mixed(problem: SpanProblem, weights: Sequence[float]) -> SpanProblem:
    """The problem with the weighted sum of its first costs in their place."""
    count = len(weights)
    return replace(
        problem,
        costs={
            span: (sum(w * cost for w, cost in zip(weights, costs, strict=False)), *costs[count:])
            for span, costs in problem.costs.items()
        },
        names=("mixed costs", *problem.names[count:]),
        fixed=(),
    )


def costs_of(problem: SpanProblem, plan: ChainPlan) -> tuple[float, ...]:
    """All costs of a plan that was found for others."""
    layers = [problem.costs[span] for span in mask_spans(plan.mask)]
    return tuple(math.fsum(column) for column in zip(*layers, strict=True))


def _known_importance(problem: SpanProblem, limits: Sequence[float]) -> float:
    """The largest importance within the limits of the plans on a few mixed frontiers."""
    shares = [1 / limit for limit in limits]
    mixes = [
        shares,
        *([s if at == n else s / 8 for at, s in enumerate(shares)] for n in range(len(shares))),
    ]
    known = -math.inf
    for weights in mixes:
        frontier = solve(mixed(problem, weights))
        for number in reversed(range(len(frontier))):
            if frontier.importances[number] <= known:
                break
            plan = frontier.plan(number)
            if _worst_share(costs_of(problem, plan), limits) <= 1:
                known = plan.importance
                break
    return known


def _worth_more(problem: SpanProblem, limits: Sequence[float], known: float) -> Prune:
    # Of one cost alone only the cheapest way to run a span counts.
    alone = [
        make_edges(mixed(problem, [float(n == at) for n in range(problem.width)]))
        for at in range(problem.width)
    ]
    rests = [backwards(edges, problem.length) for edges in alone]
    least = known - ROUNDING * max(1.0, abs(known))

    def prune(state: State, values: Floats) -> Truths:
        worth = np.ones(values.shape[1], dtype=bool)
        for at, (rest, limit) in enumerate(zip(rests, limits, strict=True)):
            if state[0] == problem.length:
                break
            if state not in rest:
                return np.zeros_like(worth)
            room: Floats = limit * (1 + ROUNDING) - values[at]
            found = np.searchsorted(rest[state].costs[:, 0], room, side="right") - 1
            more = np.where(found >= 0, rest[state].importances[found], -np.inf)
            worth &= values[-2] + more >= least
        return worth

    return prune
