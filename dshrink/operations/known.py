"""What plans and tables know of the network that they are for, for ``ModelChoice.knowing``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dshrink.errors import DshrinkError
from dshrink.network.references import NAMED_WEIGHTS, Known, same_model
from dshrink.network.weights.metadata import about_weights
from dshrink.search.plan import Plan
from latency_tables.table import LatencyTable


def known_of_plan(plan: Plan, text: str) -> Known:
    """``text`` is what the plan was given as."""
    return Known(whose=f"the plan {text}", resolution=plan.resolution, in_channels=plan.in_channels)


def known_size(weights: str) -> Known | None:
    """The image size that a file of ours was trained for; None for any other weights."""
    about = about_weights(Path(weights)) if weights not in NAMED_WEIGHTS else None
    return Known(whose=weights, resolution=about.resolution) if about else None


def known_of_plans(plans: Sequence[Plan]) -> Known:
    """What several plans for one network know. Raises DshrinkError where they disagree."""
    found = {}
    for field, what in (("resolution", "resolutions"), ("in_channels", "numbers of channels")):
        values = {value for plan in plans if (value := getattr(plan, field)) is not None}
        if len(values) > 1:
            raise DshrinkError(f"the plans are for several {what}: {sorted(values)}")
        found[field] = next(iter(values), None)
    return Known(whose="the plan", **found)


def known_of_table(table: LatencyTable, whose: str, name: str) -> Known | None:
    """None where the table is of another network than ``name``: then binding to it says so."""
    if not same_model(table.model, name):
        return None
    return Known(
        whose=whose,
        resolution=table.resolution,
        in_channels=table.in_channels,
    )
