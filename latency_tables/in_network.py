"""The columns of a table's rows that its networks give: what each piece costs in a network."""

from __future__ import annotations

from dataclasses import replace

from latency_tables.estimator import NORMAL_95, Costs
from latency_tables.priors import fit_estimate, observations
from latency_tables.schema import Row
from latency_tables.table import LatencyTable


def with_network_costs(table: LatencyTable) -> LatencyTable:
    """The table with what its networks say in its rows, estimated first where it is not yet."""
    if table.networks and table.estimate is None:
        seen = observations(table.known_networks, table.forms)
        table = replace(table, estimate=fit_estimate(table.rows, seen))
    return replace(table, rows=derived_rows(table))


def derived_rows(table: LatencyTable) -> tuple[Row, ...]:
    """The rows as the table's networks give them."""
    return tuple(_with_cost(row, table.costs) for row in table.rows)


def _with_cost(row: Row, costs: Costs | None) -> Row:
    if costs is None or not row.in_networks:
        return replace(row, in_network_ms=None, in_network_low_ms=None, in_network_high_ms=None)
    ms, sd_ms = costs.of(row.place)
    return replace(
        row,
        in_network_ms=ms,
        in_network_low_ms=ms - NORMAL_95 * sd_ms,
        in_network_high_ms=ms + NORMAL_95 * sd_ms,
    )
