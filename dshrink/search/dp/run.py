"""What ``dshrink search --method dp`` does: tables and wishes in, frontiers and plans out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dshrink.search.binding import span_plan
from dshrink.search.dp.compat import TruncatedProgram
from dshrink.search.dp.from_table import Bounds, TableProblem, table_problem
from dshrink.search.dp.frontier import Frontier, SpanPlan, solve
from dshrink.search.dp.importance_file import load_importance
from dshrink.search.dp.many import DeviceOutcome, own_plan, shared_plan
from dshrink.search.dp.published import load_problem
from dshrink.search.errors import SearchError
from dshrink.search.goal import check_fit
from dshrink.search.plan import Plan
from latency_tables.io import write_atomically
from latency_tables.span_masks import Span
from latency_tables.table import LatencyTable

COMPAT = "kim2023"
FRONTIER_COLUMNS = ("time_ms", "importance", "mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was asked for: plans (one a device, or one for all) and what each device makes of it."""

    plans: tuple[Plan, ...] = ()
    spans: tuple[SpanPlan, ...] = ()
    frontier: Frontier | None = None
    problem: TableProblem | None = None
    outcomes: tuple[DeviceOutcome, ...] = ()
    overrun_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON data: the plans in full where there is a network, masks in any case."""
        points = None if self.frontier is None else len(self.frontier)
        return {
            "plans": [plan.to_json() for plan in self.plans],
            "masks": [  # a time is the sum of the spans
                {
                    "mask": plan.mask,
                    "time_ms": plan.time_ms,
                    "importance": plan.importance,
                    "layers": plan.layers,
                }
                for plan in self.spans
            ],
            "devices": [asdict(outcome) for outcome in self.outcomes],
            "frontier_points": points,
            "overrun_ms": self.overrun_ms,
        }


def search_published(
    time_table: Path,
    importance: Path,
    *,
    budget_ms: float | None = None,
    alpha: float | None = None,
    compat: str | None = None,
    prec: float | None = None,
) -> Found:
    """The frontier of two CSV files in the published format, and the plan of a budget."""
    check_compat(compat, prec)
    problem = load_problem(time_table, importance, alpha)
    frontier = solve(problem)
    if compat is not None:
        if budget_ms is None:
            raise SearchError("the truncated program solves one budget at a time: give one")
        truncated = TruncatedProgram.of(problem).solve(budget_ms, *([prec] if prec else []))
        return Found(spans=(truncated.plan,), frontier=frontier, overrun_ms=truncated.overrun_ms)
    plans = () if budget_ms is None else (frontier.best(budget_ms),)
    return Found(spans=plans, frontier=frontier)


def check_compat(compat: str | None, prec: float | None) -> None:
    """Raise SearchError for a mode that is not known."""
    if compat not in (None, COMPAT):
        raise SearchError(f"compat {compat!r} is not known; known: {COMPAT}")
    if prec is not None and compat is None:
        raise SearchError(f"prec belongs to the truncated program: it needs compat {COMPAT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSearch:
    """A search on latency tables; ``kernels`` are the spans' longest kernel sides."""

    tables: Sequence[LatencyTable]
    importance: Path
    alpha: float | None = None
    bounds: Bounds = field(default_factory=Bounds)
    kernels: Mapping[Span, int] | None = None
    padding: str | None = None
    allow_unfit: bool = False

    def problems(self) -> list[TableProblem]:
        """One a table. Raises UnfitTableError, SearchError."""
        values = load_importance(self.importance, self.alpha)
        for table in self.tables:
            check_fit(table, allow_unfit=self.allow_unfit)
        return [
            table_problem(
                table,
                values,
                where=str(self.importance),
                bounds=self.bounds,
                kernels=self.kernels,
                padding=self.padding,
            )
            for table in self.tables
        ]

    def budgets(
        self, problems: Sequence[TableProblem], budgets_ms: Sequence[float], share: float | None
    ) -> list[float]:
        """A budget a table: as given, or a share of each original network's latency."""
        if share is not None:
            if budgets_ms or not share > 0:
                raise SearchError("give either budgets in ms or a share above 0 of the original's")
            return [share * problem.original_ms for problem in problems]
        if len(budgets_ms) != len(problems):
            raise SearchError(
                f"{len(problems)} latency table(s) and {len(budgets_ms)} budget(s): give one "
                "budget a table, in their order, or a share of the original networks' latencies"
            )
        return list(budgets_ms)

    def run(
        self,
        *,
        budgets_ms: Sequence[float] = (),
        share: float | None = None,
        one_plan: str | None = None,
        weights: Sequence[float] | None = None,
        frontier: bool = False,
    ) -> Found:
        """The plans, and the frontier of a single table where it is asked for."""
        problems = self.problems()
        points = None
        if frontier:
            if len(problems) != 1:
                raise SearchError("a frontier is of one latency table: give one")
            points = solve(problems[0].problem, problems[0].limits).of_latency()
            if not budgets_ms and share is None:
                return Found(frontier=points, problem=problems[0])
        budgets = self.budgets(problems, budgets_ms, share)
        if one_plan is not None:
            shared = shared_plan(problems, budgets, mode=one_plan, weights=weights)
            plans = [self._plan(problems[0].table, shared.plan)]
            return Found(
                plans=tuple(plans),
                spans=(shared.plan,),
                frontier=points,
                problem=problems[0],
                outcomes=shared.outcomes,
            )
        own = [own_plan(p, budget) for p, budget in zip(problems, budgets, strict=True)]
        plans = [self._plan(p.table, plan) for p, plan in zip(problems, own, strict=True)]
        return Found(plans=tuple(plans), spans=tuple(own), frontier=points, problem=problems[0])

    def _plan(self, table: LatencyTable, plan: SpanPlan) -> Plan:
        return span_plan(
            table,
            plan.mask,
            method="dp",
            padding=self.padding or table.forms.padding,
            importance=plan.importance,
        )


def save_frontier(frontier: Frontier, path: Path, problem: TableProblem | None = None) -> None:
    """Write the points as CSV: ``time_ms,importance,mask``, from the fastest on.

    With a table's problem times are predictions of the whole network, otherwise sums of spans.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FRONTIER_COLUMNS)
    for number in range(len(frontier)):
        plan = frontier.plan(number)
        time_ms = plan.time_ms if problem is None else problem.table_prediction(plan)
        writer.writerow((repr(time_ms), repr(plan.importance), plan.mask))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())
