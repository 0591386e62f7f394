"""What the dynamic program finds, as data to print and as files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dshrink.search.dp.from_table import TableProblem
from dshrink.search.dp.frontier import Frontier, SpanPlan
from dshrink.search.dp.layer_merge import KernelFrontier, KernelPlan
from dshrink.search.dp.many import DeviceOutcome
from dshrink.search.plan import Plan
from latency_tables.csv_lines import write_csv


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was asked for: plans (one a device, or one for all) and what each device makes of it.

    ``chosen`` are the plans as the solver knows them; ``plans`` the same for a network, empty where
    there is none. ``problem`` is the table's, where the frontier is of one. ``unjudged`` counts the
    keys without an importance, which no plan uses.
    """

    plans: tuple[Plan, ...] = ()
    chosen: tuple[SpanPlan | KernelPlan, ...] = ()
    frontier: Frontier | KernelFrontier | None = None
    problem: TableProblem | None = None
    outcomes: tuple[DeviceOutcome, ...] = ()
    overrun_ms: float | None = None
    unjudged: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON data: the plans in full where there is a network, what was chosen in any case.

        A time of what was chosen is the sum of its spans.
        """
        return {
            "plans": [plan.to_json() for plan in self.plans],
            "chosen": [plan.to_json() for plan in self.chosen],
            "devices": [asdict(outcome) for outcome in self.outcomes],
            "frontier_points": None if self.frontier is None else len(self.frontier),
            "overrun_ms": self.overrun_ms,
            "unjudged_keys": self.unjudged,
        }


def save_frontier(
    frontier: Frontier | KernelFrontier, path: Path, problem: TableProblem | None = None
) -> None:
    """Write the points as CSV: ``time_ms,importance,mask``, from the fastest on.

    LayerMerge's have the column ``plan`` in place of ``mask``. With a table's problem times are
    predictions of the whole network, otherwise sums of spans.
    """
    name = "plan" if isinstance(frontier, KernelFrontier) else "mask"
    rows = []
    for number in range(len(frontier)):
        plan = frontier.plan(number)
        time_ms = plan.time_ms
        if problem is not None and isinstance(plan, SpanPlan):
            time_ms = problem.table_prediction(plan)
        rows.append((time_ms, plan.importance, plan.to_json()[name]))
    write_csv(path, ("time_ms", "importance", name), rows)
