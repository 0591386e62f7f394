"""Whether the tables that bench is given can predict anything of what it is about to measure.

Measuring takes minutes; that a table is of another network, or of another device, is known before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dshrink.network.references import same_model
from dshrink.operations.bench_networks import BenchmarkError, BenchNetwork
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable

LEAVE_OUT = "or leave it out to measure without its predictions"


def is_table_of(table: LatencyTable, network: BenchNetwork) -> bool:
    """Whether a table is of a network, at its resolution."""
    same = same_model(table.model, network.facts.model)
    return same and table.resolution == network.resolution


def require_tables_of(tables: Mapping[str, LatencyTable], networks: Sequence[BenchNetwork]) -> None:
    """Raise BenchmarkError for a table, by what it is called, of none of the networks."""
    for name, table in tables.items():
        if any(is_table_of(table, network) for network in networks):
            continue
        there = {_at(network.facts.model, network.resolution) for network in networks}
        raise BenchmarkError(
            f"the table {name} is of {_at(table.model, table.resolution)}, which is not among "
            f"the networks to measure ({', '.join(sorted(there))}): give the table of one of them, "
            f"{LEAVE_OUT}"
        )


def require_tables_under(
    tables: Mapping[str, LatencyTable],
    conditions: Conditions,
    batches: Sequence[int] | None,
) -> None:
    """Raise BenchmarkError for a table of other conditions than those of the run.

    ``batches`` are all batch sizes of it, None for a sweep, whose last one nobody knows.
    """
    for name, table in tables.items():
        theirs = table.conditions
        known = batches is None or theirs.batch in batches
        now = replace(conditions, batch=theirs.batch) if known else conditions
        if found := theirs.differences(now):
            raise BenchmarkError(
                f"the table {name} was measured under other conditions than are asked for "
                f"({'; '.join(found)}): ask for the table's, {LEAVE_OUT}"
            )


def _at(model: str, resolution: Sequence[int]) -> str:
    return f"{model} at {'x'.join(map(str, resolution))}"
