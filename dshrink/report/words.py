"""Sentences that several sections say: conditions, machines, intervals, verdicts.

A verdict is a word that a reader can act on, with the figure and the limit behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from dshrink.report.content import Fact
from dshrink.results import BenchmarkResult
from latency_tables.networks import Level
from latency_tables.table import FIT_MAPE_PERCENT, LatencyTable
from latency_tables.trust import AGAIN, verdict_line
from latency_tables.wording import counted

#: A machine on which more visits were slowed is not quiet, nor one whose speed moved further.
DISTURBED_PERCENT, MOVED_PERCENT = 20.0, 10.0


def milliseconds(value: float) -> str:
    """ "6.266 ms", "0.0431 ms"."""
    return f"{value:.{3 if value >= 0.1 else 4}f} ms"


def latency(value: float, batch: int) -> str:
    """ "6.266 ms", "61.82 ms a batch of 32"."""
    return milliseconds(value) + (f" a batch of {batch}" if batch > 1 else "")


def times(value: float) -> str:
    """ "1.265 times as fast"."""
    return f"{value:.3f} times as fast"


def interval(low: float | None, high: float | None, unit: str) -> str:
    """ "95 %: 6.186 to 6.345 ms"; empty where it is not known."""
    return "" if low is None or high is None else f"95 %: {low:.4g} to {high:.4g} {unit}"


def listed(*parts: str) -> str:
    """Those that say something, with commas."""
    return ", ".join(filter(None, parts))


def machine(fingerprint: Mapping[str, Any]) -> str:
    """ "AMD EPYC, 2 cores, 23.5 GiB, Debian GNU/Linux 12 (bookworm)", as far as it is known."""
    gpu = fingerprint.get("gpu") or {}
    cores, memory = fingerprint.get("cores"), fingerprint.get("memory_gib")
    parts = [
        gpu.get("name") if isinstance(gpu, Mapping) else None,
        fingerprint.get("cpu_model"),
        counted(cores, "core") if isinstance(cores, int) else None,
        f"{memory} GiB" if memory else None,
        fingerprint.get("os"),
    ]
    return ", ".join(str(part) for part in parts if part)


def blocks_kept(result: BenchmarkResult) -> str:
    """ "9 of 17 blocks stay"; empty where blocks are not known."""
    if result.kept_blocks is None:
        return ""
    total = f" of {len(result.keep_mask)}" if result.keep_mask else ""
    return f"{result.kept_blocks}{total} blocks stay"


def trust(table: LatencyTable) -> Fact:
    """Whether a search may use the table."""
    label, check = "Can predictions be trusted?", table.hold_out
    if table.origin is not None:
        return Fact(
            label=label,
            value="Published by others",
            note=f"not measured here: {table.origin.source}",
            mood="doubtful",
        )
    if check is None:
        return Fact(label=label, value="Never tried", note=table.fit_reason, mood="doubtful")
    tried = (
        f"the mean error on {counted(len(check.networks), 'network')} that took no part; "
        f"{check.max_error_percent:.1f} % at most"
    )
    if table.fit_for_search:
        value, _, rough = verdict_line(table).partition("; ")
        return Fact(label=label, value=value, note=f"{tried}; {rough}".strip("; "), mood="good")
    if check.mape_percent <= FIT_MAPE_PERCENT:
        return Fact(label=label, value="Not usable", note=table.fit_reason, mood="bad")
    off = f"predictions are off by {check.mape_percent:.2g} % (limit {FIT_MAPE_PERCENT:g} %)"
    return Fact(label=label, value=f"Not usable: {off}", note=f"{tried}; {AGAIN}", mood="bad")


def quietness(levels: Sequence[Level]) -> Fact:
    """Whether the machine was left alone while it was measured."""
    label = "Was it noisy?"
    if not levels:
        return Fact(label=label, value="Not known", note="no record of the machine's speed")
    disturbed = max(level.disturbed_percent for level in levels)
    moved = max(level.moved_percent for level in levels)
    said = (
        f"{disturbed:.0f} % of processes were more than 5 % slower than the rest; the machine's "
        f"speed moved by {moved:.0f} % over the run"
    )
    if disturbed > DISTURBED_PERCENT or moved > MOVED_PERCENT:
        corrected = "what all of a process had in common is taken out of the numbers"
        return Fact(label=label, value="Yes", note=f"{said}; {corrected}", mood="doubtful")
    return Fact(label=label, value="No", note=said, mood="good")


def precision_of(results: Sequence[BenchmarkResult]) -> Fact:
    """How well measured latencies are known, where there is no table to judge."""
    label = "Can the numbers be trusted?"
    widths = [
        50 * (one.high_ms - one.low_ms) / one.latency_ms
        for one in results
        if one.latency_ms and one.low_ms is not None and one.high_ms is not None
    ]
    if not widths:
        return Fact(label=label, value="Not known", note="no intervals", mood="doubtful")
    noisy = sum(one.verdict not in ("ok", "") for one in results)
    value = f"Latencies known to ±{median(widths):.1f} %"
    note = f"95 % intervals, ±{max(widths):.1f} % at most"
    if noisy:
        doubt = f"{noisy} of {len(results)} less precisely than wanted (verdict not ok)"
        return Fact(label=label, value=value, note=f"{note}; {doubt}", mood="doubtful")
    return Fact(label=label, value=value, note=note, mood="good")


VERDICTS = {
    "ok": "measured as precisely as wanted",
    "noisy": "measured, but less precisely: close other programs and run again",
    "throttled": "the device slowed itself down: cool it, or lower its power mode",
    "host_bound": "the GPU waited for the host: use --launch cuda_graph or a larger batch",
    "bounded": "so slow that it was not measured to the end; in no prediction",
    "failed": "no latency: the reason is in the row",
    "published": "published by others, not measured here",
}


def verdict_counts(verdicts: Sequence[str]) -> str:
    """ "47 noisy (measured, but ...), 5 ok (...)"."""
    counts = {one: verdicts.count(one) for one in dict.fromkeys(verdicts) if one}
    return "; ".join(f"{count} {one} ({VERDICTS.get(one, '?')})" for one, count in counts.items())
