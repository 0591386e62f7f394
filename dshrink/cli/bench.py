"""``dshrink bench``: throughput of whole networks, with the predictions of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import err, is_verbose, out, print_json
from dshrink.cli.grids import Column, number, print_grid
from dshrink.cli.render import how_timed
from dshrink.cli.report import also_write

if TYPE_CHECKING:
    from dshrink.results import BenchmarkResult


def command(
    context: typer.Context,
    networks: Annotated[
        list[str],
        typer.Argument(metavar="NETWORK", help="networks as for `dshrink profile`, or ONNX files"),
    ],
    plans: Annotated[
        list[str] | None,
        typer.Option("--plan", help="also measure networks under this plan; repeatable"),
    ] = None,
    tables: Annotated[
        list[Path] | None,
        typer.Option("--table", help="show the predictions of this latency table; repeatable"),
    ] = None,
    out_file: Annotated[
        Path,
        typer.Option(
            "--out",
            help="CSV to write",
            callback=outputs.checked_with(lambda file: map(file.with_suffix, (".jsonl", ".md"))),
        ),
    ] = Path("results.csv"),
    device: options.Device = "local",
    runtime: options.Runtime = None,
    precision: options.Precision = "fp32",
    batches: options.Batches = None,
    sweep: Annotated[
        bool,
        options.condition(
            "--sweep", help="batch sizes 1, 2, 4, ... until throughput saturates or memory ends"
        ),
    ] = False,
    threads: options.Threads = 1,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    padding: options.PlanPadding = None,
    statistic: options.Statistic = None,
    launch: options.Launch = "plain",
    cache_mode: options.CacheMode = "hot",
    scheduler: options.Scheduler = None,
    hold_clocks: options.HoldClocks = False,
    seed: options.Seed = 0,
    report: options.Report = None,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Measure the throughput of networks, original and merged, interleaved.

    Each is compared with the first. Run the same command again to resume an interrupted run.
    """
    from dshrink.network.references import ModelChoice
    from dshrink.operations.bench import bench_networks
    from profiler.target import Target

    options.warn_of_plain_tcp(scheduler)
    target = options.call(context, Target)
    choice = options.call(context, ModelChoice, model=networks[0])
    if sweep and not options.was_given(context, "batches"):
        batches = None
    results = options.run(
        context, bench_networks, "benchmark", choice=choice, target=target, batches=batches
    )
    if json:
        from dshrink.cli.payloads.networks import BenchData

        print_json(BenchData(results=tuple(results)))
    else:
        print_results(results, wide=wide)
        beside = ", ".join(str(out_file.with_suffix(suffix)) for suffix in (".jsonl", ".md"))
        out.print(f"results: {out_file}, {beside}")
    also_write(report, out_file.parent, files_of(out_file, plans, tables))
    exit_unless_measured(results)


def exit_unless_measured(results: Sequence[BenchmarkResult]) -> None:
    """Exit with status 1 where a network has no latency, and say how many and why."""
    failed = [result for result in results if result.latency_ms is None]
    if not failed:
        return
    first = failed[0]
    what = "nothing" if len(failed) == len(results) else f"not all ({len(failed)} failed)"
    err.print(
        f"dshrink: {what} could be measured: {first.network}, batch {first.batch}: "
        f"{' '.join((first.reason or first.verdict).split())}",
        style="red",
        soft_wrap=True,
    )
    raise typer.Exit(1)


def files_of(
    results: Path, plans: Sequence[str] | None, tables: Sequence[Path] | None
) -> tuple[Path, ...]:
    """What belongs to these results, whatever else lies beside them."""
    given = [table if table.is_file() else table / "table.json" for table in tables or ()]
    given += [Path(plan) for plan in plans or () if Path(plan).is_file()]
    return (results, *(path.with_suffix(".json") for path in given))


def print_results(results: Sequence[BenchmarkResult], *, wide: bool = False) -> None:
    """The results as tables of text: speed, then what single samples, memory and engines are."""
    from dshrink.result_notes import result_notes

    first = results[0]
    batches = list(dict.fromkeys(r.batch for r in results))
    batch: Column[BenchmarkResult] = number("batch", lambda r: r.batch, "d")
    several = [batch] if len(batches) > 1 else []
    network: Column[BenchmarkResult] = Column("network", lambda r: r.network, least=14)
    columns: list[Column[BenchmarkResult]] = [
        network,
        *several,
        number("kept", lambda r: r.kept_blocks, "d", rank=6),
        number("latency ms", lambda r: r.latency_ms, ".3f"),
        Column("95 %", _interval, rank=5, is_number=True),
        number("FPS", lambda r: r.throughput_fps, ".1f"),
        Column("speed-up", _speedup, rank=1, is_number=True),
        Column("compared", lambda r: r.compared, rank=2),
        number("rank", lambda r: r.rank, "d", rank=3),
        number("predicted ms", lambda r: r.predicted_ms, ".3f", rank=7),
        number("error", lambda r: r.error_percent, "+.1f", suffix=" %", rank=4),
        number("accuracy", lambda r: r.accuracy_percent, ".2f", suffix=" %"),
        Column("verdict", lambda r: r.verdict),
    ]
    title = (
        f"{first.device}, {first.runtime}, {first.precision}, "
        f"batch {', '.join(map(str, batches))}, {how_timed(first)}, {first.statistic}"
    )
    print_grid(columns, results, title=title, wide=wide)
    for note in result_notes(results, each=is_verbose()):
        out.print(note)
    for baseline in dict.fromkeys(r.baseline for r in results if r.compared):
        out.print(f"speed-up: against {baseline}, measured by turns in the same processes")
    if detailed := [r for r in results if r.p50_ms is not None or r.engine_mib is not None]:
        title = "single samples, memory, energy and engines"
        print_grid([network, *several, *_DETAILS], detailed, title=title, wide=wide)


def _interval(result: BenchmarkResult) -> str:
    known = result.low_ms is not None and result.high_ms is not None
    return f"{result.low_ms:.3f} - {result.high_ms:.3f}" if known else ""


def _speedup(result: BenchmarkResult) -> str:
    """ "1.234 +- 0.012": the wider half of the interval."""
    if result.speedup is None:
        return ""
    if result.speedup_low is None or result.speedup_high is None:
        return f"{result.speedup:.3f}"
    half = max(result.speedup - result.speedup_low, result.speedup_high - result.speedup)
    return f"{result.speedup:.3f} +- {half:.3f}"


_DETAILS: list[Column[BenchmarkResult]] = [
    number("p50 ms", lambda r: r.p50_ms, ".3f", rank=2),
    number("p95 ms", lambda r: r.p95_ms, ".3f", rank=1),
    number("p99 ms", lambda r: r.p99_ms, ".3f"),
    number("memory MiB", lambda r: r.peak_memory_mib, ".1f"),
    number("mJ a frame", lambda r: r.energy_mj, ".2f"),
    number("built in s", lambda r: r.build_s, ".1f", rank=3),
    number("engine MiB", lambda r: r.engine_mib, ".1f"),
    number("GPU memory MiB", lambda r: r.gpu_memory_mib, ".1f", rank=4),
    Column("precision", lambda r: r.built_precision, rank=5),
]
