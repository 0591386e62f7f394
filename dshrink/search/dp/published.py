"""A problem straight from two CSV files, without a network: what has been published is enough."""

from __future__ import annotations

from pathlib import Path

from dshrink.search.dp.importance_file import check_keys, load_importance
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.errors import SearchError
from latency_tables.published_times import load_times


def load_problem(
    time_table: Path, importance_table: Path, alpha: float | None = None
) -> SpanProblem:
    """T of ``st,end,time`` and I of ``st,end,st_act,end_act``, joined by key.

    The chain ends where its last span ends. Raises SearchError or LatencyTableError, which name
    keys, file and line.
    """
    times = load_times(time_table, str(time_table), "")
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
