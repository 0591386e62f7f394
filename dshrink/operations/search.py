"""Which blocks or spans to merge: searches on latency tables, and in published files.

Networks, and with them torch, are imported where a search needs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dshrink.operations.given import AnyTable, opened_table, table_words
from dshrink.operations.known import known_of_table
from dshrink.search.dp.bounds import Bounds, PieceSizes, sizes_of
from dshrink.search.dp.compat import DEFAULT_PREC, TruncatedProgram
from dshrink.search.dp.files import load_importance, load_problem, load_unevaluated
from dshrink.search.dp.frontier import ChainPlan, Frontier, solve
from dshrink.search.dp.layer_merge import (
    has_kernels,
    load_kernel_importance,
    load_kernel_times,
    solve_kernels,
)
from dshrink.search.dp.many_devices import DeviceOutcome, own_plan, shared_plan
from dshrink.search.dp.tables import TableProblem, table_problem
from dshrink.search.errors import SearchError
from dshrink.search.goal import check_fit
from dshrink.search.greedy import greedy, padding_of, random_plan
from dshrink.search.plan import Plan
from latency_tables.published import PREFIX
from latency_tables.table import LatencyTable
from latency_tables.wording import counted

if TYPE_CHECKING:
    from dshrink.network.models import Network
    from dshrink.operations.opening import AnyNetwork

COMPAT = "kim2023"


def search_blocks(
    network: AnyNetwork,
    table: AnyTable,
    *,
    budget_ms: float | None = None,
    keep: int | None = None,
    seed: int | None = None,
    padding: str | None = None,
    allow_unfit: bool = False,
) -> Plan:
    """Merge the blocks of largest saving, or those that ``seed`` draws, by a table of blocks.

    As many as it takes to meet ``budget_ms``, or until ``keep`` are left: one of the two is given.
    ``padding`` is that of merged blocks, None: the usual one of this network (``padding_of``).
    Raises SearchError, for a table that is not fit for search unless ``allow_unfit``.
    """
    latencies = opened_table(table)
    search = greedy if seed is None else partial(random_plan, seed=seed)
    plan = search(
        latencies,
        budget_ms=budget_ms,
        keep=keep,
        padding=padding or padding_of(latencies),
        allow_unfit=allow_unfit,
    )
    return _bound([plan], _network(network, latencies, table))[0]


def _network(network: AnyNetwork, table: LatencyTable, given: AnyTable) -> Network:
    from dshrink.operations.opening import name_of, opened

    whose = f"the table {table_words(given)}"
    return opened(network, known_of_table(table, whose, name_of(network)))


def _bound(plans: Sequence[Plan], network: Network) -> tuple[Plan, ...]:
    """The plans with the network's names. Raises PlanError where they are for another one."""
    from dshrink.pieces.plan_binding import bind_to_network

    return tuple(bind_to_network(plan, network) for plan in plans)


@dataclass(frozen=True, slots=True, kw_only=True)
class DpRequest:
    """What is asked of the dynamic program on latency tables of spans.

    Budgets are ``budgets_ms``, one a table in their order, or a ``share`` of each original
    network's latency; without any the ``frontier`` alone is found, which is of one table.
    ``one_plan`` and ``weights`` are ``many_devices.shared_plan``'s; without, each table gets its
    own plan.
    """

    importance: Path | str
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
        """How many plans there will be for so many tables.

        Raises SearchError for an invalid combination of options.
        """
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
                f"{counted(tables, 'latency table')} and "
                f"{counted(len(self.budgets_ms), 'budget')}: give one "
                "budget a table, in their order, or a share of the original networks' latencies"
            )
        return 1 if self.one_plan else tables


@dataclass(frozen=True, slots=True, kw_only=True)
class DpResult:
    """The plans that were asked for, one a device or one for all, and what each device makes of it.

    ``chosen`` are the plans as the solver knows them; ``plans`` the same for a network, empty where
    there is none. ``problem`` is the table's, where the frontier is of one. ``overrun_ms`` is how
    far a truncated plan is above its budget. ``unevaluated`` counts the keys without an importance,
    which no plan uses.
    """

    plans: tuple[Plan, ...] = ()
    chosen: tuple[ChainPlan, ...] = ()
    frontier: Frontier | None = None
    problem: TableProblem | None = None
    outcomes: tuple[DeviceOutcome, ...] = ()
    overrun_ms: float | None = None
    unevaluated: int = 0


def search_dp(network: AnyNetwork, tables: Sequence[AnyTable], request: DpRequest) -> DpResult:
    """The plans of largest importance within budgets, by tables of the network's spans.

    The two-stage dynamic program of Kim et al. (ICML 2023), exact, for one table or for those of
    several devices. Raises SearchError.
    """
    latencies = [opened_table(one) for one in tables]
    request.plan_count(len(latencies))
    found = _network(network, latencies[0], tables[0])
    sizes = None
    if request.bounds.need_sizes:
        from dshrink.pieces.span_pieces import span_pieces

        # Its spans are those of every mode.
        sizes = sizes_of(span_pieces(found, mode="exact"))
    result = search_tables(latencies, request, sizes)
    return replace(result, plans=_bound(result.plans, found))


def search_tables(
    tables: Sequence[LatencyTable], request: DpRequest, sizes: PieceSizes | None = None
) -> DpResult:
    """``search_dp`` without a network; ``sizes`` are those of its pieces, which bounds need."""
    count = request.plan_count(len(tables))
    importance = Path(request.importance)
    values = load_importance(importance, request.alpha)
    # The tables are of one network, so one list of keys holds for all.
    excused = load_unevaluated(importance, tables[0].model)
    problems = []
    for table in tables:
        check_fit(table, allow_unfit=request.allow_unfit)
        problem = table_problem(
            table,
            values,
            where=str(request.importance),
            bounds=request.bounds,
            sizes=sizes,
            padding=request.padding,
            excused=excused,
        )
        problems.append(problem)
    first = problems[0]
    frontier = solve(first.problem, first.limits).of_latency() if request.frontier else None
    chosen: tuple[ChainPlan, ...] = ()
    outcomes: tuple[DeviceOutcome, ...] = ()
    budgets = request.budgets_ms or [(request.share or 0) * p.original_ms for p in problems]
    if request.one_plan is None and count:
        chosen = tuple(own_plan(p, budget) for p, budget in zip(problems, budgets, strict=True))
    elif request.one_plan is not None:
        shared, outcomes = shared_plan(
            problems, budgets, mode=request.one_plan, weights=request.weights
        )
        chosen = (shared,)
    return DpResult(
        plans=tuple(p.plan(one) for p, one in zip(problems, chosen, strict=False)),
        chosen=chosen,
        frontier=frontier,
        problem=first,
        outcomes=outcomes,
        unevaluated=len(excused),
    )


def search_csv(
    times: Path | str,
    importance: Path | str,
    *,
    budget_ms: float | None = None,
    alpha: float | None = None,
    compat: str | None = None,
    prec: float | None = None,
) -> DpResult:
    """The frontier of two CSV files, and the plan of a budget; no network is needed.

    ``times`` is a file or ``published:NAME``, a table that ships with the package. With a kernel
    column both files are LayerMerge's. ``budget_ms`` is a sum of their times; ``alpha`` normalises
    raw importances. With ``compat`` "kim2023" it is the public
    code's program, which truncates times to ``prec`` steps a millisecond. Raises SearchError.
    """
    importance = Path(importance)
    if compat not in (None, COMPAT):
        raise SearchError(f"compat {compat!r} is not known; known: {COMPAT}")
    if prec is not None and compat is None:
        raise SearchError(f"prec belongs to the truncated program: it needs compat {COMPAT}")
    if not str(times).startswith(PREFIX) and has_kernels(Path(times)):
        if compat is not None or alpha is not None:
            raise SearchError(
                f"{times}: compat and alpha are for tables without a kernel column: nothing of "
                "LayerMerge's is truncated, and its importances are normalised without alpha"
            )
        frontier = solve_kernels(load_kernel_times(Path(times)), load_kernel_importance(importance))
    else:
        problem = load_problem(times, importance, alpha)
        frontier = solve(problem)
        if compat is not None:
            if budget_ms is None:
                raise SearchError("the truncated program solves one budget at a time: give one")
            program = TruncatedProgram.of(problem)
            truncated = program.solve(budget_ms, DEFAULT_PREC if prec is None else prec)
            return DpResult(
                chosen=(truncated.plan,), frontier=frontier, overrun_ms=truncated.overrun_ms
            )
    chosen = () if budget_ms is None else (frontier.best(budget_ms),)
    return DpResult(chosen=chosen, frontier=frontier)
