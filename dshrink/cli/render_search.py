"""What ``dshrink search`` prints: plans and frontiers as lines, and as JSON data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from latency_tables.wording import counted

if TYPE_CHECKING:
    from dshrink.cli.payloads.networks import DpData
    from dshrink.operations.search import DpResult
    from dshrink.search.plan import Plan


def result_data(found: DpResult) -> DpData:
    """The plans in full where there is a network, and in any case what the solver chose.

    A time of what was chosen is the sum of its spans.
    """
    from dshrink.cli.payloads.networks import ChosenPlan, DpData, PlanDocument

    return DpData(
        plans=tuple(map(PlanDocument.of, found.plans)),
        chosen=tuple(map(ChosenPlan.of, found.chosen)),
        devices=found.outcomes,
        frontier_points=None if found.frontier is None else len(found.frontier),
        overrun_ms=found.overrun_ms,
        unevaluated_keys=found.unevaluated,
    )


def result_lines(found: DpResult, frontier: Path | None) -> Iterator[str]:
    """What the dynamic program found; ``frontier`` is the file that its points were written to."""
    if frontier and found.frontier:
        yield f"frontier of {counted(len(found.frontier), 'plan')}: {frontier}"
    for number, chosen in enumerate(found.chosen):
        plan = found.plans[number] if found.plans else None
        # One plan for all devices is followed by what each makes of it.
        own = plan if not found.outcomes else None
        device = f"{own.table.conditions.device}: " if own and own.table else ""
        yield (
            f"{device}plan {chosen.text}: {counted(chosen.layers, 'layer')}, importance "
            f"{chosen.importance:.6g}"
        )
        if plan is None:
            yield f"time {chosen.time_ms:.6g} ms"
        elif own:
            yield prediction_line(own)
    if found.overrun_ms is not None:
        yield f"over its budget by {found.overrun_ms:.6g} ms (below 0: within)"
    for one in found.outcomes:
        yield (
            f"{one.device}: {one.predicted_ms:.3f} ms of {one.budget_ms:.3f}, importance "
            f"{one.lost_importance:.6g} below its own best plan's {one.own_importance:.6g}"
        )


def plan_lines(plan: Plan) -> Iterator[str]:
    """A plan of blocks."""
    yield f"keep mask {plan.keep_mask}: {plan.kept_count} of {len(plan.keep_mask)} blocks kept"
    if plan.predicted is not None:
        yield prediction_line(plan)
    for index in plan.shrunk if plan.blocks else ():
        block = plan.blocks[index]
        layers = f"{block.first_layer} .. {block.last_layer}" if block.first_layer else ""
        yield f"merge block {index}: {layers or block.name}"


def prediction_line(plan: Plan) -> str:
    """What a plan that was made from a table is predicted to take."""
    p = plan.predicted
    assert p is not None
    interval = f" (95 %: {p.low_ms:.3f} to {p.high_ms:.3f})" if p.low_ms is not None else ""
    return f"predicted {p.latency_ms:.3f} ms{interval}, padding {p.padding}"
