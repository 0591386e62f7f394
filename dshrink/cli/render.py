"""Latency tables as text and as JSON data, for the commands that show them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from dshrink.results import BenchmarkResult
    from latency_tables.schema import Conditions, Row
    from latency_tables.table import LatencyTable


def table_data(table: LatencyTable) -> dict[str, Any]:
    """The whole table as JSON data."""
    from latency_tables.records import plain

    return {
        "model": table.model,
        "resolution": list(table.resolution),
        "chain": plain(table.chain),
        "origin": plain(table.origin),
        "conditions": table.conditions.to_json(),
        "rows": [asdict(row) for row in table.rows],
        "calibration": plain(table.calibration),
        "hold_out": plain(table.hold_out),
        "context": table.context,
        "contexts": plain(table.contexts),
        "warnings": list(table.warnings),
        "fit_for_search": table.fit_for_search,
        "fit_reason": table.fit_reason,
    }


def rows_table(table: LatencyTable) -> Table:
    """One line a row of the latency table."""
    c = table.conditions
    grid = Table(
        title=f"{table.model} on {c.device}, {c.runtime} {c.runtime_version}, {c.precision}, "
        f"batch {c.batch}, {how_timed(c)}, {c.statistic}",
        title_justify="left",
    )
    grid.add_column("piece")
    grid.add_column("layers", overflow="fold")
    for column in ("latency ms", "95 % interval ms", "MMAC", "GMAC/s"):
        grid.add_column(column, justify="right")
    grid.add_column("verdict")
    for row in table.rows:
        layers = row.first_layer if row.first_layer == row.last_layer else ""
        layers = layers or f"{row.first_layer} .. {row.last_layer}"
        if row.latency_ms is None:
            grid.add_row(row.piece, layers, "", "", "", "", f"{row.verdict}: {row.reason}")
            continue
        speed = row.macs * c.batch / row.latency_ms / 1e6
        grid.add_row(
            row.piece,
            layers,
            f"{row.latency_ms:.4f}",
            _spread(row),
            f"{row.macs / 1e6:.2f}" if row.macs else "",
            f"{speed:.1f}" if row.macs else "",
            f"{row.verdict}: {row.reason}" if row.verdict == "bounded" else row.verdict,
        )
    return grid


def _spread(row: Row) -> str:
    """The interval of a row; a published one has a standard deviation, if anything."""
    if row.low_ms is not None and row.high_ms is not None:
        return f"{row.low_ms:.4f} - {row.high_ms:.4f}"
    return "" if row.stdev_ms is None else f"sd {row.stdev_ms:.4f}"


def how_timed(timed: Conditions | BenchmarkResult) -> str:
    """ "1 thread(s), thread_cpu time" on a CPU, "cuda graph launch, hot cache" on a GPU."""
    if timed.clock == "cuda_events":
        return f"{timed.launch.replace('_', ' ')} launch, {timed.cache_mode} cache"
    compiled = "" if timed.launch == "plain" else f"{timed.launch}, "
    return f"{compiled}{timed.threads} thread(s), {timed.clock} time"


def summary_lines(table: LatencyTable) -> list[str]:
    """What a user needs to know about a table, a line each."""
    verdicts = [row.verdict for row in table.rows]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    pieces = len({row.digest or row.piece for row in table.rows})
    lines = [f"{len(table.rows)} rows of {pieces} pieces: {counts}"]
    if table.origin:
        note = f" ({table.origin.note})" if table.origin.note else ""
        lines.append(
            f"published, not measured by us: {table.origin.source}; "
            f"licence: {table.origin.licence}{note}"
        )
    if table.calibration:
        lines.append(f"whole network, measured: {table.calibration.base_ms:.3f} ms")
    lines += [] if table.origin else _context_lines(table)
    check = table.hold_out
    if check:
        tau = "unknown" if check.kendall_tau is None else f"{check.kendall_tau:.3f}"
        lines += [
            f"predictions checked on {len(check.networks)} networks that took no part: "
            f"off by {check.mape_percent:.2f} % on average, {check.max_error_percent:.2f} % at "
            f"most; {check.within_5_percent:.0f} % of them within 5 %; Kendall's tau {tau}",
            f"beside it: plain sum of the rows {check.plain_sum_mape_percent:.2f} %, "
            f"scaled MACs {check.scaled_macs_mape_percent:.2f} %",
        ]
        if check.interval_percent is not None:
            lines.append(
                f"95 % prediction interval: +-{check.interval_percent:.2f} % "
                f"({check.interval_method})"
            )
    for twin in table.twins:
        lines.append("twin: " + ", ".join(f"{key} {value}" for key, value in twin.items()))
    lines += [f"warning: {warning}" for warning in table.warnings]
    fit = "fit for search" if table.fit_for_search else f"NOT fit for search: {table.fit_reason}"
    return [*lines, f"this table is {fit}"]


def _context_lines(table: LatencyTable) -> list[str]:
    """What the pieces were measured beside, and how right each context is where several were."""
    lines = [f"context of the pieces: {table.context}"]
    if len(table.contexts) > 1:
        errors = (
            f"{name} unknown"
            if check.mape_percent is None
            else f"{name} {check.mape_percent:.2f} % (plain sum {check.plain_sum_mape_percent:.2f} "
            f"%, at most {check.max_error_percent:.2f} %)"
            for name, check in table.contexts.items()
        )
        lines.append(f"error of the predictions by context: {'; '.join(errors)}")
    for name, check in table.contexts.items():
        if check.unnamed_percent:
            lines.append(
                f"{name}: {check.unnamed_percent:.1f} % of the profiled time was in layers that "
                "name no operator of ours, and was spread over the others"
            )
    return lines
