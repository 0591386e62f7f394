"""What ``dshrink search`` says: plans and frontiers as lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dshrink.search.dp.found import Found
    from dshrink.search.plan import Plan


def found_lines(found: Found, frontier: Path | None) -> Iterator[str]:
    """What the dynamic program found; ``frontier`` is the file that its points were written to."""
    if frontier and found.frontier:
        yield f"frontier of {len(found.frontier)} plans: {frontier}"
    for number, chosen in enumerate(found.chosen):
        plan = found.plans[number] if found.plans else None
        # One plan for all devices is followed by what each makes of it.
        own = plan if not found.outcomes else None
        device = f"{own.table.conditions.device}: " if own and own.table else ""
        yield (
            f"{device}plan {chosen.text}: {chosen.layers} layers, importance "
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
    for choice in plan.blocks:
        if not choice.keep:
            layers = f"{choice.first_layer} .. {choice.last_layer}" if choice.first_layer else ""
            yield f"merge block {choice.index}: {layers or choice.name}"


def prediction_line(plan: Plan) -> str:
    """What a plan that was made from a table is predicted to take."""
    p = plan.predicted
    assert p is not None
    interval = f" (95 %: {p.low_ms:.3f} to {p.high_ms:.3f})" if p.low_ms is not None else ""
    return f"predicted {p.latency_ms:.3f} ms{interval}, borders by {p.padding}"
