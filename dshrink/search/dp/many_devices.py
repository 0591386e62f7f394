"""One importance table, several latency tables: a plan a device, or one plan for all.

``worst``: the plan of largest importance that meets every device's budget. ``mix``: the plan of
largest importance whose weighted mean share of the devices' budgets is at most 1; a single device
may then be over its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dshrink.search.dp.frontier import ChainPlan
from dshrink.search.dp.labels import ROUNDING
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.tables import TableProblem, span_chain_of
from dshrink.search.dp.within import best_within, fastest_within, mixed
from dshrink.search.errors import InfeasibleBudgetError, NoPlanError, SearchError
from dshrink.search.goal import round_up


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOutcome:
    """One plan on one device: what is predicted, against what the device's own best plan is worth.

    ``lost_importance`` is 0 or more; it may be negative where the plan overruns the budget.
    """

    device: str
    budget_ms: float
    predicted_ms: float
    own_importance: float
    lost_importance: float


def own_plan(problem: TableProblem, budget_ms: float) -> ChainPlan:
    """A device's best plan within its budget (a latency of the whole network)."""
    try:
        return _within_budgets([problem], problem.problem, [budget_ms])
    except NoPlanError:
        fastest = fastest_within(problem.problem, problem.limits)
        raise problem.infeasible(budget_ms, fastest) from None


def shared_plan(
    problems: Sequence[TableProblem],
    budgets_ms: Sequence[float],
    *,
    mode: str = "worst",
    weights: Sequence[float] | None = None,
) -> tuple[ChainPlan, tuple[DeviceOutcome, ...]]:
    """One plan for devices whose tables are of one network, and what each makes of it.

    Raises SearchError.
    """
    own = [own_plan(p, budget) for p, budget in zip(problems, budgets_ms, strict=True)]
    joined = _joined(problems)
    if mode == "mix":
        plan = _best_mix(problems, joined, budgets_ms, weights)
    elif mode == "worst":
        try:
            plan = _within_budgets(problems, joined, budgets_ms)
        except NoPlanError:
            pairs = zip(problems, budgets_ms, strict=True)
            raise InfeasibleBudgetError(
                f"no single plan meets {', '.join(f'{b:g} ms on {p.device}' for p, b in pairs)} "
                "together, though each device has one of its own: raise a --budget-ms"
            ) from None
    else:
        raise SearchError(f"one plan for all devices is worst or mix, not {mode!r}")
    outcomes = tuple(
        DeviceOutcome(
            device=p.device,
            budget_ms=budget,
            predicted_ms=p.predicted_ms(plan.mask),
            own_importance=best.importance,
            lost_importance=best.importance - plan.importance,
        )
        for p, budget, best in zip(problems, budgets_ms, own, strict=True)
    )
    return plan, outcomes


def _joined(problems: Sequence[TableProblem]) -> SpanProblem:
    """The latency on each device as a cost of its own, then the first table's other costs."""
    first = problems[0]
    chain = span_chain_of(first.table)
    for other in problems[1:]:
        theirs = span_chain_of(other.table)
        # Skips may differ: tables that were published have none.
        if (theirs.convolutions, theirs.mask) != (chain.convolutions, chain.mask):
            raise SearchError(
                f"the tables of {first.table.model} and {other.table.model} are of different "
                "networks: one plan needs tables of one"
            )
    spans = set(first.problem.costs).intersection(*(set(p.problem.costs) for p in problems))
    return replace(
        first.problem,
        costs={
            span: (
                *(p.problem.costs[span][0] for p in problems),
                *first.problem.costs[span][1:],
            )
            for span in sorted(spans)
        },
        names=(*(f"latency on {p.device}" for p in problems), *first.problem.names[1:]),
        fixed=(),
    )


def _rooms(problems: Sequence[TableProblem], budgets_ms: Sequence[float]) -> list[float]:
    """What each budget leaves for the spans."""
    return [budget - p.fixed_ms for p, budget in zip(problems, budgets_ms, strict=True)]


def _within_budgets(
    problems: Sequence[TableProblem], joined: SpanProblem, budgets_ms: Sequence[float]
) -> ChainPlan:
    """The best plan that meets all budgets and bounds. Raises NoPlanError."""
    # A prediction adds up in another order: it has the last word on what is near to its budget.
    rooms = [room * (1 + ROUNDING) for room in _rooms(problems, budgets_ms)]
    if min(rooms) <= 0:
        raise NoPlanError("the pieces that every plan contains take the whole budget")
    limits = [*rooms, *problems[0].limits[1:]]
    while True:
        plan = best_within(joined, limits, fastest=len(problems) == 1)
        over = [
            at
            for at, (p, budget) in enumerate(zip(problems, budgets_ms, strict=True))
            if p.predicted_ms(plan.mask) > budget
        ]
        if not over:
            return plan
        for at in over:
            limits[at] = math.nextafter(plan.costs[at], 0)


def _best_mix(
    problems: Sequence[TableProblem],
    joined: SpanProblem,
    budgets_ms: Sequence[float],
    weights: Sequence[float] | None,
) -> ChainPlan:
    weights = tuple(weights or [1.0] * len(problems))
    if len(weights) != len(problems) or min(weights) < 0 or not sum(weights) > 0:
        raise SearchError(f"a mix of {len(problems)} devices needs as many weights, 0 or more")
    # Shares of the budgets: sum of w * (fixed + t) / budget, at most the sum of w.
    per_ms = [w / budget for w, budget in zip(weights, budgets_ms, strict=True)]
    limit = sum(s * room for s, room in zip(per_ms, _rooms(problems, budgets_ms), strict=True))
    single = mixed(joined, per_ms)
    bounds = problems[0].limits[1:]
    try:
        if limit > 0:
            return best_within(single, (limit, *bounds), fastest=True)
    except NoPlanError:
        pass
    fastest = fastest_within(single, (math.inf, *bounds))
    raise _infeasible_mix(problems, budgets_ms, weights, fastest)


def _infeasible_mix(
    problems: Sequence[TableProblem],
    budgets_ms: Sequence[float],
    weights: Sequence[float],
    fastest: ChainPlan,
) -> InfeasibleBudgetError:
    shares = [p.predicted_ms(fastest.mask) / b for p, b in zip(problems, budgets_ms, strict=True)]
    share = sum(w * s for w, s in zip(weights, shares, strict=True)) / sum(weights)
    taken = ", ".join(
        f"{s:.4g} of {b:g} ms on {p.device}"
        for p, b, s in zip(problems, budgets_ms, shares, strict=True)
    )
    return InfeasibleBudgetError(
        "no single plan takes a weighted mean of at most 1 of the budgets: the least is "
        f"{share:.4g} ({taken}; {fastest.text}); raise the budgets {round_up(share)} times, "
        "or one of them"
    )
