"""What ``dshrink search --method dp`` does on latency tables: tables and wishes in, plans out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dshrink.search.binding import span_plan
from dshrink.search.dp.found import Found
from dshrink.search.dp.from_table import Bounds, TableProblem, table_problem
from dshrink.search.dp.frontier import SpanPlan, solve
from dshrink.search.dp.importance_file import load_importance, load_unjudged
from dshrink.search.dp.many import own_plan, shared_plan
from dshrink.search.dp.piece_sizes import PieceSizes
from dshrink.search.errors import SearchError
from dshrink.search.goal import check_fit
from dshrink.search.plan import Plan
from latency_tables.table import LatencyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSearch:
    """What is asked of a search on latency tables.

    Budgets are ``budgets_ms``, one a table in their order, or a ``share`` of each original
    network's latency; without any the ``frontier`` alone is found, which is of one table.
    ``one_plan`` and ``weights`` are ``many.shared_plan``'s; without, each table gets its own plan.
    """

    importance: Path
    alpha: float | None = None
    bounds: Bounds = field(default_factory=Bounds)
    padding: str | None = None
    allow_unfit: bool = False
    budgets_ms: Sequence[float] = ()
    share: float | None = None
    one_plan: str | None = None
    weights: Sequence[float] | None = None
    frontier: bool = False

    def plan_count(self, tables: int) -> int:
        """How many plans there will be for so many tables. Raises SearchError for odd wishes."""
        if self.frontier and tables != 1:
            raise SearchError("a frontier is of one latency table: give one")
        if self.weights and self.one_plan != "mix":
            raise SearchError("weights are those of the tables in one plan for a mix of them")
        if not all(0 < budget < math.inf for budget in self.budgets_ms):
            given = ", ".join(f"{budget:g}" for budget in self.budgets_ms)
            raise SearchError(f"latency budgets must be above 0 ms and finite, got {given}")
        if self.share is not None:
            if self.budgets_ms or not 0 < self.share < math.inf:
                raise SearchError("give either budgets in ms or a share above 0 of the original's")
        elif self.frontier and not self.budgets_ms and not self.one_plan:
            return 0
        elif len(self.budgets_ms) != tables:
            raise SearchError(
                f"{tables} latency table(s) and {len(self.budgets_ms)} budget(s): give one "
                "budget a table, in their order, or a share of the original networks' latencies"
            )
        return 1 if self.one_plan else tables

    def run(self, tables: Sequence[LatencyTable], sizes: PieceSizes | None = None) -> Found:
        """The plans and the frontier; ``sizes`` are those of the network's pieces, for bounds.

        Raises UnfitTableError, SearchError.
        """
        count = self.plan_count(len(tables))
        found = self._found(self._problems(tables, sizes), count)
        return replace(found, unjudged=len(load_unjudged(self.importance, tables[0].model)))

    def _found(self, problems: Sequence[TableProblem], count: int) -> Found:
        first = problems[0]
        frontier = solve(first.problem, first.limits).of_latency() if self.frontier else None
        if not count:
            return Found(frontier=frontier, problem=first)
        budgets = self.budgets_ms or [(self.share or 0) * p.original_ms for p in problems]
        if self.one_plan is None:
            own = [own_plan(p, budget) for p, budget in zip(problems, budgets, strict=True)]
            plans = [self._plan(p.table, plan) for p, plan in zip(problems, own, strict=True)]
            return Found(plans=tuple(plans), chosen=tuple(own), frontier=frontier, problem=first)
        shared = shared_plan(problems, budgets, mode=self.one_plan, weights=self.weights)
        return Found(
            plans=(self._plan(first.table, shared.plan),),
            chosen=(shared.plan,),
            frontier=frontier,
            problem=first,
            outcomes=shared.outcomes,
        )

    def _problems(
        self, tables: Sequence[LatencyTable], sizes: PieceSizes | None
    ) -> list[TableProblem]:
        values = load_importance(self.importance, self.alpha)
        for table in tables:
            check_fit(table, allow_unfit=self.allow_unfit)
        return [
            table_problem(
                table,
                values,
                where=str(self.importance),
                bounds=self.bounds,
                sizes=sizes,
                padding=self.padding,
                excused=load_unjudged(self.importance, table.model),
            )
            for table in tables
        ]

    def _plan(self, table: LatencyTable, plan: SpanPlan) -> Plan:
        return span_plan(
            table,
            plan.mask,
            method="dp",
            padding=self.padding or table.forms.padding,
            importance=plan.importance,
        )
