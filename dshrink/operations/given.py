"""The plans, tables and results that operations are given: in hand, or by their path.

Without torch, as reading them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dshrink.results import BenchmarkResult, load_results
from dshrink.search.plan import Plan, parse_plan
from latency_tables.io import load_table
from latency_tables.layers.io import is_layer_table, load_layer_table
from latency_tables.layers.layer_table import LayerTable
from latency_tables.table import LatencyTable

#: A table in hand, or its folder.
AnyTable = LatencyTable | Path | str
#: A plan in hand, its file, or its text ("mask:0011", ``search.plan.parse_plan``).
AnyPlan = Plan | Path | str
#: Results in hand, or the path of their CSV.
AnyResults = Sequence[BenchmarkResult] | Path | str


def opened_table(table: AnyTable) -> LatencyTable:
    """Raises LatencyTableError for one that cannot be read."""
    return table if isinstance(table, LatencyTable) else load_table(Path(table))


def opened_any(table: AnyTable | LayerTable) -> LatencyTable | LayerTable:
    """A table of a network or of layers. Raises LatencyTableError for one that cannot be read."""
    if isinstance(table, LatencyTable | LayerTable):
        return table
    return load_layer_table(table) if is_layer_table(Path(table)) else load_table(Path(table))


def table_words(table: AnyTable) -> str:
    """What errors call a table: its folder, else what it is of."""
    if isinstance(table, LatencyTable):
        return f"of {table.model} on {table.conditions.device}"
    return str(table)


def opened_plan(plan: AnyPlan) -> Plan:
    """Raises PlanError for one that cannot be read."""
    return plan if isinstance(plan, Plan) else parse_plan(plan)


def plan_words(plan: AnyPlan) -> str:
    """What errors and files call a plan: as it was given, else where it is from."""
    return (plan.source or plan.text) if isinstance(plan, Plan) else str(plan)


def opened_results(results: AnyResults) -> Sequence[BenchmarkResult]:
    """Raises ResultsError for a file that cannot be read."""
    if isinstance(results, (str, Path)):
        return load_results(Path(results)).results
    return results
