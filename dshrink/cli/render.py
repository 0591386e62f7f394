"""Latency tables as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dshrink.cli.console import is_verbose
from dshrink.cli.grids import Column, number, print_grid
from latency_tables.wording import counted

#: A larger difference between the network and alone is explained.
NOTED_PERCENT = 10.0
#: Alone a piece pays for its ends and finds all in the cache (docs/measuring.md).
LESS, MORE, FUSED = "ends paid alone", "cached alone", "fused by runtime"

if TYPE_CHECKING:
    from dshrink.results import BenchmarkResult
    from latency_tables.hold_out import HoldOut
    from latency_tables.schema import Conditions, Row
    from latency_tables.table import LatencyTable


def print_rows(table: LatencyTable, *, wide: bool = False) -> None:
    """Print one line for each row of the latency table."""
    c = table.conditions
    columns: list[Column[Row]] = [
        Column("piece", lambda row: row.piece),
        Column("layers", _layers, rank=3, least=24),
        Column("in network ms", _in_network, is_number=True),
        number("alone ms", lambda row: row.latency_ms, ".4f"),
        number("differs", difference_percent, "+.1f", suffix=" %"),
        Column("verdict", lambda row: row.verdict, rank=2),
        Column("note", note, rank=1, least=16, is_prose=True),
        Column("95 % interval alone", _spread, rank=4, is_number=True),
        number("MMAC", lambda row: row.macs / 1e6 if row.macs else None, ".2f", rank=5),
        number("GMAC/s", lambda row: _gmac_per_s(row, c.batch), ".1f", rank=6),
    ]
    timed = f"{c.precision}, batch {c.batch}, {how_timed(c)}, {c.statistic}"
    title = f"{table.model} on {c.device}, {c.runtime} {c.runtime_version}, {timed}"
    print_grid(columns, table.rows, title=title, wide=wide)


def _layers(row: Row) -> str:
    alone = row.first_layer == row.last_layer
    return row.first_layer if alone else f"{row.first_layer} .. {row.last_layer}"


def _in_network(row: Row) -> str:
    """The cost in the network and half the width of its interval."""
    if row.in_network_ms is None or row.in_network_high_ms is None:
        return ""
    return f"{row.in_network_ms:.4f} +- {row.in_network_high_ms - row.in_network_ms:.4f}"


def difference_percent(row: Row) -> float | None:
    """How much more a piece costs in the network than alone; None where that is hardly known."""
    high_ms = row.in_network_high_ms
    if row.in_network_ms is None or high_ms is None or not row.latency_ms:
        return None
    if high_ms - row.in_network_ms > row.latency_ms:
        return None
    return 100 * (row.in_network_ms / row.latency_ms - 1)


def _gmac_per_s(row: Row, batch: int) -> float | None:
    cost_ms = row.cost_ms
    return row.macs * batch / cost_ms / 1e6 if row.macs and cost_ms and cost_ms > 0 else None


def note(row: Row) -> str:
    """Why a row has no latency, or only bounds of it; what makes it cost other than alone."""
    if row.latency_ms is None or row.verdict == "bounded":
        return row.reason
    difference, (low, high) = difference_percent(row), row.cost_interval_ms
    if difference is None or low is None or high is None or abs(difference) <= NOTED_PERCENT:
        return ""
    if low <= row.latency_ms <= high:
        return "within interval"
    if row.profiled_ms == 0:
        return FUSED
    return LESS if difference < 0 else MORE


def _spread(row: Row) -> str:
    """The interval of a row; a published one has at most a standard deviation."""
    if row.low_ms is not None and row.high_ms is not None:
        return f"{row.low_ms:.4f} - {row.high_ms:.4f}"
    return "" if row.stdev_ms is None else f"sd {row.stdev_ms:.4f}"


def how_timed(timed: Conditions | BenchmarkResult) -> str:
    """ "1 thread, thread_cpu time" on a CPU, "cuda graph launch, hot cache" on a GPU."""
    if timed.clock == "cuda_events":
        return f"{timed.launch.replace('_', ' ')} launch, {timed.cache_mode} cache"
    compiled = "" if timed.launch == "plain" else f"{timed.launch}, "
    return f"{compiled}{counted(timed.threads, 'thread')}, {timed.clock} time"


def summary_lines(table: LatencyTable) -> list[str]:
    """The size, the errors and the warnings of a table, a line each; the last one is its verdict.

    With --verbose they say how all that is known.
    """
    from latency_tables.trust import verdict_line, warning_lines

    pieces = counted(len({row.digest or row.piece for row in table.rows}), "piece")
    lines = [f"{counted(len(table.rows), 'row')} of {pieces}{_not_measured(table)}"]
    if table.origin:
        note = f" ({table.origin.note})" if table.origin.note else ""
        lines.append(
            f"published, not measured by us: {table.origin.source}; "
            f"licence: {table.origin.licence}{note}"
        )
    if table.base_ms is not None:
        lines.append(f"whole network, measured: {table.base_ms:.3f} ms")
    if table.estimate and is_verbose():
        lines.append(f"costs in the network: {_estimate(table)}")
    if table.hold_out:
        lines += _hold_out_lines(table.hold_out)
    if (level := table.level) and is_verbose():
        processes = counted(level.processes, "process", "processes")
        lines += [
            f"a single process: 95 % of visits were within +-{level.spread_percent:.1f} % of these "
            f"numbers, {level.disturbed_percent:.0f} % were more than 5 % slower",
            f"the machine's level is known to +-{level.known_percent:.1f} % and moved by "
            f"{level.moved_percent:.1f} % during the run ({processes})",
        ]
    lines += [f"note: {table.data_note}"] if table.data_note else []
    lines += [f"warning: {warning}" for warning in warning_lines(table)]
    return [*lines, verdict_line(table)]


def _not_measured(table: LatencyTable) -> str:
    """Rows by their verdict where that is not just how well a piece is known."""
    verdicts = [row.verdict for row in table.rows]
    said = (
        verdicts
        if is_verbose()
        else [v for v in verdicts if v in ("failed", "bounded", "published")]
    )
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(said))
    return f": {counts}" if counts else ""


def _estimate(table: LatencyTable) -> str:
    """What the costs in the network come from."""
    assert table.estimate is not None
    prior = {"alone": "what each piece takes alone", "profile": "the runtime's own profile"}
    fitted = sum(network.role == "fit" for network in table.known_networks)
    return f"from {prior[table.estimate.prior]}, corrected by {counted(fitted, 'whole network')}"


def _hold_out_lines(check: HoldOut) -> list[str]:
    tau = "unknown" if check.kendall_tau is None else f"{check.kendall_tau:.3f}"
    line = check.line_mape_percent
    method = f"{check.interval_method}; it holds {check.coverage_percent:.0f} % of them"
    if check.interval_method == "conformal":
        method = (
            f"conformal: widened {check.interval_factor:.1f} times, for the posterior's own holds "
            f"only {check.coverage_percent:.0f} % of them"
        )
    error = (
        f"prediction error on {counted(len(check.networks), 'other network')}: "
        f"{check.mape_percent:.2f} % on average, {check.max_error_percent:.2f} % at most"
    )
    interval = f"95 % prediction interval: +-{check.interval_percent:.2f} % on average"
    if not is_verbose():
        return [error, interval]
    return [
        f"{error}; they are known to {check.measuring_percent:.2f} % themselves; Kendall's tau "
        f"{tau}",
        f"{interval} ({method})",
        f"for comparison: plain sum of the pieces alone {check.plain_sum_mape_percent:.2f} %, "
        + (f"the best line through such sums {line:.2f} %, " if line is not None else "")
        + f"scaled MACs {check.scaled_macs_mape_percent:.2f} %",
    ]
