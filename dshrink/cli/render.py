"""Latency tables as text and as JSON data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dshrink.cli.grids import Column, number, print_grid

if TYPE_CHECKING:
    from dshrink.results import BenchmarkResult
    from latency_tables.schema import Conditions, Row
    from latency_tables.table import LatencyTable


def table_data(table: LatencyTable) -> dict[str, Any]:
    """The whole table as JSON data."""
    from latency_tables.records import plain

    return {
        "model": table.model,
        "resolution": table.resolution,
        "chain": plain(table.chain),
        "origin": plain(table.origin),
        "conditions": table.conditions.to_json(),
        "rows": table.rows,
        "calibration": plain(table.calibration),
        "hold_out": plain(table.hold_out),
        "context": table.context,
        "contexts": plain(table.contexts),
        "warnings": table.warnings,
        "fit_for_search": table.fit_for_search,
        "fit_reason": table.fit_reason,
    }


def print_rows(table: LatencyTable, *, wide: bool = False) -> None:
    """Print one line for each row of the latency table."""
    c = table.conditions
    columns: list[Column[Row]] = [
        Column("piece", lambda row: row.piece),
        Column("layers", _layers, rank=2, least=24),
        number("latency ms", lambda row: row.latency_ms, ".4f"),
        Column("95 % interval ms", _spread, rank=1, is_number=True),
        number("MMAC", lambda row: row.macs / 1e6 if row.macs else None, ".2f", rank=4),
        number("GMAC/s", lambda row: _gmac_per_s(row, c.batch), ".1f", rank=5),
        Column("verdict", lambda row: row.verdict),
        Column("reason", _reason, rank=3, least=16, is_prose=True),
    ]
    timed = f"{c.precision}, batch {c.batch}, {how_timed(c)}, {c.statistic}"
    title = f"{table.model} on {c.device}, {c.runtime} {c.runtime_version}, {timed}"
    print_grid(columns, table.rows, title=title, wide=wide)


def _layers(row: Row) -> str:
    alone = row.first_layer == row.last_layer
    return row.first_layer if alone else f"{row.first_layer} .. {row.last_layer}"


def _gmac_per_s(row: Row, batch: int) -> float | None:
    if not row.macs or row.latency_ms is None:
        return None
    return row.macs * batch / row.latency_ms / 1e6


def _reason(row: Row) -> str:
    """Why a row has no latency, or only bounds of it."""
    return row.reason if row.latency_ms is None or row.verdict == "bounded" else ""


def _spread(row: Row) -> str:
    """The interval of a row; a published one has at most a standard deviation."""
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
    """The size, the errors and the warnings of a table, a line each."""
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
            f"prediction error on {len(check.networks)} hold-out networks: "
            f"{check.mape_percent:.2f} % on average, {check.max_error_percent:.2f} % at most; "
            f"{check.within_5_percent:.0f} % of them within 5 %; Kendall's tau {tau}",
            f"for comparison: plain sum of the rows {check.plain_sum_mape_percent:.2f} %, "
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
    """The context that pieces were measured in, and the error of each where there are several."""
    lines = [f"context of the pieces: {table.context}"]
    if len(table.contexts) > 1:
        errors = (
            f"{name} unknown"
            if check.mape_percent is None
            else f"{name} {check.mape_percent:.2f} % (plain sum {check.plain_sum_mape_percent:.2f} "
            f"%, at most {check.max_error_percent:.2f} %)"
            for name, check in table.contexts.items()
        )
        lines.append(f"prediction error by context: {'; '.join(errors)}")
    for name, check in table.contexts.items():
        if check.unnamed_percent:
            lines.append(
                f"{name}: {check.unnamed_percent:.1f} % of the profiled time was in layers that "
                "match no operator of the network, and was distributed over the others"
            )
    return lines
