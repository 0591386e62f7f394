"""Searches straight from two CSV files, without a network: what has been published is enough.

``published:NAME`` stands for a table of latencies that ships with the package. Two files with a
kernel column are LayerMerge's.
"""

from __future__ import annotations

from pathlib import Path

from dshrink.search.dp.compat import DEFAULT_PREC, TruncatedProgram
from dshrink.search.dp.found import Found
from dshrink.search.dp.frontier import solve
from dshrink.search.dp.importance_file import check_keys, load_importance
from dshrink.search.dp.layer_merge import (
    has_kernels,
    load_kernel_importance,
    load_kernel_times,
    solve_kernels,
)
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.errors import SearchError
from latency_tables.published import PREFIX, find_published
from latency_tables.published_times import PublishedTimes, load_times

COMPAT = "kim2023"


def search_published(
    time_table: Path | str,
    importance: Path,
    *,
    budget_ms: float | None = None,
    alpha: float | None = None,
    compat: str | None = None,
    prec: float | None = None,
) -> Found:
    """The frontier of two tables, and the plan of a budget. Raises SearchError."""
    _check_compat(compat, prec)
    if _have_kernels(time_table, importance):
        if compat is not None or alpha is not None:
            raise SearchError(
                f"{time_table}: compat and alpha are for tables without a kernel column: nothing "
                "of LayerMerge's is truncated, and its importances are normalised without alpha"
            )
        return _search_kernels(Path(time_table), importance, budget_ms)
    problem = load_problem(time_table, importance, alpha)
    frontier = solve(problem)
    if compat is None:
        plans = () if budget_ms is None else (frontier.best(budget_ms),)
        return Found(chosen=plans, frontier=frontier)
    if budget_ms is None:
        raise SearchError("the truncated program solves one budget at a time: give one")
    truncated = TruncatedProgram.of(problem).solve(
        budget_ms, DEFAULT_PREC if prec is None else prec
    )
    return Found(chosen=(truncated.plan,), frontier=frontier, overrun_ms=truncated.overrun_ms)


def _check_compat(compat: str | None, prec: float | None) -> None:
    if compat not in (None, COMPAT):
        raise SearchError(f"compat {compat!r} is not known; known: {COMPAT}")
    if prec is not None and compat is None:
        raise SearchError(f"prec belongs to the truncated program: it needs compat {COMPAT}")


def _have_kernels(time_table: Path | str, importance: Path) -> bool:
    """Whether both tables are LayerMerge's. Raises SearchError where one alone is."""
    shipped = str(time_table).startswith(PREFIX)
    times = False if shipped else has_kernels(Path(time_table))
    importances = has_kernels(importance)
    if times == importances or None in (times, importances):
        # What cannot be read is its reader's to say.
        return bool(times)
    first, second = (time_table, importance) if times else (importance, time_table)
    raise SearchError(
        f"{first} has a kernel column and {second} has none: give both tables with it "
        "(LayerMerge), or both without"
    )


def _search_kernels(time_table: Path, importance: Path, budget_ms: float | None) -> Found:
    frontier = solve_kernels(load_kernel_times(time_table), load_kernel_importance(importance))
    plans = () if budget_ms is None else (frontier.best(budget_ms),)
    return Found(chosen=plans, frontier=frontier)


def load_problem(
    time_table: Path | str, importance_table: Path, alpha: float | None = None
) -> SpanProblem:
    """T of ``st,end,time`` and I of ``st,end,st_act,end_act``, joined by key.

    The chain ends where its last span ends. Raises SearchError or LatencyTableError, which name
    keys, file and line.
    """
    times = _load_times(str(time_table))
    if times.segments != "spans":
        raise SearchError(f"{time_table}: holds blocks; the dynamic program needs spans (st,end)")
    costs = {
        time.place[1]: (time.latency_ms,)
        for time in times.times
        if isinstance(time.place[1], tuple)
    }
    importance = load_importance(importance_table, alpha)
    check_keys(importance, costs, where=str(importance_table))
    return SpanProblem(length=max(j for _, j in costs), costs=costs, importance=importance)


def _load_times(time_table: str) -> PublishedTimes:
    if time_table.startswith(PREFIX):
        return find_published(time_table).load_times()
    return load_times(Path(time_table), time_table)
