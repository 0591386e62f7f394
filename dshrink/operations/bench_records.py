"""What a benchmark writes beside its CSV: JSON lines with full provenance, and Markdown for people.

Neither names the command or the folder that it was given: the records of the same measurements are
the same wherever they are written.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dshrink.markdown import markdown_table
from dshrink.operations.bench_run import BenchmarkRun
from dshrink.progress import duration
from dshrink.results import BenchmarkResult
from dshrink.saturation import saturated_from
from dshrink.version import __version__
from latency_tables.files import write_atomically
from latency_tables.records import plain
from latency_tables.wording import counted, once_each

SCHEMA = "dshrink.benchmark"
SCHEMA_VERSION = 1


def save_records(runs: Sequence[BenchmarkRun], results_file: Path) -> tuple[Path, Path]:
    """Write FILE.jsonl and FILE.md beside FILE.csv; each is replaced in one step."""
    lines, page = results_file.with_suffix(".jsonl"), results_file.with_suffix(".md")
    texts = [json.dumps(record, allow_nan=False) for record in records(runs)]
    write_atomically(lines, "".join(f"{text}\n" for text in texts))
    write_atomically(page, "\n".join(page_lines(runs)) + "\n")
    return lines, page


def records(runs: Sequence[BenchmarkRun]) -> Iterator[dict[str, Any]]:
    """An object a network and batch: all columns of its result, and where they come from."""
    for run in runs:
        provenance = {
            "conditions": run.conditions.to_json(),
            "conditions_digest": run.conditions.digest,
            "fingerprint": plain(run.fingerprint),
            "level": asdict(run.level) if run.level else None,
            "host": {"python": platform.python_version(), "platform": platform.platform()},
            "dshrink_version": __version__,
            "date": run.date,
            "seed_of_order": run.seed,
            "warnings": list(run.warnings),
        }
        for result, effort in zip(run.results, run.efforts, strict=True):
            yield {
                "schema": SCHEMA,
                "schema_version": SCHEMA_VERSION,
                **asdict(result),
                **asdict(effort),
                **provenance,
            }


def page_lines(runs: Sequence[BenchmarkRun]) -> list[str]:
    """A heading with the conditions, one table, what its words mean, how it was measured."""
    results = [result for run in runs for result in run.results]
    lines = [f"# Throughput on {_title(runs)}", "", *_table(results), ""]
    if any(result.compared for result in results):
        lines += [_COMPARED, ""]
    if saturation := _saturation_lines(results):
        lines += [*(f"- {line}" for line in saturation), ""]
    lines += ["## How it was measured", "", *_how(runs)]
    if warnings := _warnings(runs):
        lines += ["", "## Warnings", "", *(f"- {warning}" for warning in warnings)]
    return lines


_COMPARED = (
    "Speed-up is the latency of the baseline by that of the network. Both were measured by turns "
    "in the same processes, so what a process does to both is in neither the ratio nor its 95 % "
    "interval. A network is *faster* or *slower* than its baseline where that interval excludes "
    "1, else *equal*: these measurements do not tell them apart. The rank is 1 plus the number of "
    "networks of this batch size that are clearly faster; networks may share it."
)


def _title(runs: Sequence[BenchmarkRun]) -> str:
    """Device, runtime, precision, batch and clock, as all runs have them."""
    c = runs[0].conditions
    batches = ", ".join(str(run.conditions.batch) for run in runs)
    parts = [c.device, f"{c.runtime} {c.runtime_version}", c.precision, f"batch {batches}"]
    if c.clock == "cuda_events":
        parts.append(f"{c.launch.replace('_', ' ')} launch, {c.cache_mode} cache")
    else:
        parts.append(counted(c.threads, "thread"))
        parts += [] if c.launch == "plain" else [c.launch]
    return ", ".join([*parts, f"{c.clock} time"])


def _number(name: str, form: str) -> Callable[[BenchmarkResult], str]:
    def cell(result: BenchmarkResult) -> str:
        value = getattr(result, name)
        return "" if value is None else format(value, form)

    return cell


def interval(low: float | None, high: float | None, form: str) -> str:
    """ "1.234 - 1.250"; empty where an end is not known."""
    return "" if low is None or high is None else f"{low:{form}} - {high:{form}}"


_COLUMNS: dict[str, Callable[[BenchmarkResult], str]] = {
    "network": lambda r: r.network,
    "batch": _number("batch", "d"),
    "kept": _number("kept_blocks", "d"),
    "latency ms": _number("latency_ms", ".3f"),
    "95 %": lambda r: interval(r.low_ms, r.high_ms, ".3f"),
    "FPS": _number("throughput_fps", ".1f"),
    "speed-up": _number("speedup", ".3f"),
    "speed-up 95 %": lambda r: interval(r.speedup_low, r.speedup_high, ".3f"),
    "against": lambda r: r.baseline if r.compared else "",
    "compared": lambda r: r.compared,
    "rank": _number("rank", "d"),
    "p50 ms": _number("p50_ms", ".3f"),
    "p95 ms": _number("p95_ms", ".3f"),
    "p99 ms": _number("p99_ms", ".3f"),
    "predicted ms": _number("predicted_ms", ".3f"),
    "error %": _number("error_percent", "+.1f"),
    "accuracy %": _number("accuracy_percent", ".2f"),
    "peak memory MiB": _number("peak_memory_mib", ".1f"),
    "mJ a frame": _number("energy_mj", ".2f"),
    "built in s": _number("build_s", ".1f"),
    "engine MiB": _number("engine_mib", ".1f"),
    "verdict": lambda r: r.verdict,
}


def _table(results: Sequence[BenchmarkResult]) -> list[str]:
    """Of the columns that hold something."""
    columns = {name: [cell(r) for r in results] for name, cell in _COLUMNS.items()}
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    return markdown_table([*kept], list(zip(*kept.values(), strict=True)))


def _saturation_lines(results: Sequence[BenchmarkResult]) -> list[str]:
    """From which batch on throughput hardly grows, a line a network of several batch sizes."""
    speeds: dict[str, dict[int, float]] = {}
    for result in results:
        if result.throughput_fps is not None:
            speeds.setdefault(result.network, {})[result.batch] = result.throughput_fps
    found = []
    for network, of_network in speeds.items():
        if len(of_network) < 2:
            continue
        batch = saturated_from(of_network)
        found.append(
            f"{network}: throughput saturates at batch {batch} (four times the batch brings less "
            "than 5 % more)"
            if batch
            else f"{network}: throughput still grows at batch {max(of_network)}"
        )
    return found


def _how(runs: Sequence[BenchmarkRun]) -> list[str]:
    return [line for run in runs for line in _how_of_run(run, is_alone=len(runs) == 1)]


def _how_of_run(run: BenchmarkRun, *, is_alone: bool) -> list[str]:
    counts = [effort.processes for effort in run.efforts if effort.processes]
    spent_s = sum(effort.measured_s for effort in run.efforts)
    processes = f"{_range(counts)} a network" if counts else "no process"
    batch = "" if is_alone else f"Batch {run.conditions.batch}: "
    lines = [
        f"- {batch}{processes}, {duration(spent_s)} of measuring, {run.date}, dshrink {__version__}"
    ]
    if machine := (run.fingerprint.get("gpu") or {}).get("name") or run.fingerprint.get(
        "cpu_model"
    ):
        lines[0] += f", {machine}"
    if level := run.level:
        lines.append(
            f"- {batch}A single process: 95 % of visits were within "
            f"±{level.spread_percent:.1f} % of these latencies, {level.disturbed_percent:.0f} % "
            "were more than 5 % slower."
        )
    return lines


def _range(counts: Sequence[int]) -> str:
    """ "6 to 24 processes", "1 process"."""
    low, high = min(counts), max(counts)
    return f"{'' if low == high else f'{low} to '}{counted(high, 'process', 'processes')}"


def _warnings(runs: Sequence[BenchmarkRun]) -> list[str]:
    found = [warning for run in runs for warning in run.warnings]
    found += [
        f"{result.network}, batch {result.batch}: {result.verdict}, "
        f"{' '.join(result.reason.split())}"
        for run in runs
        for result in run.results
        if result.reason
    ]
    return list(once_each(found))
