"""``dshrink bench``: throughput of whole networks, with the predictions of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.console import out, print_json
from dshrink.cli.grids import Column, number, print_grid
from dshrink.cli.render import how_timed

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
    out_file: Annotated[Path, typer.Option("--out", help="CSV to write")] = Path("results.csv"),
    device: options.Device = "local",
    runtime: options.Runtime = None,
    precision: options.Precision = "fp32",
    batch: options.Batch = None,
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
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Measure the throughput of networks, original and merged, interleaved.

    Run the same command again to resume an interrupted run.
    """
    from dshrink.network.references import ModelChoice
    from dshrink.operations.bench import bench_networks
    from profiler.target import Target

    options.warn_of_plain_tcp(scheduler)
    target = options.call(context, Target)
    choice = options.call(context, ModelChoice, model=networks[0])
    results = options.run(context, bench_networks, "benchmark", choice=choice, target=target)
    if json:
        print_json(results)
    else:
        print_results(results, wide=wide)
        out.print(f"results: {out_file}")
    if any(result.latency_ms is None for result in results):
        raise typer.Exit(1)


def print_results(results: Sequence[BenchmarkResult], *, wide: bool = False) -> None:
    """The results as a table of text."""
    first = results[0]
    columns: list[Column[BenchmarkResult]] = [
        Column("network", lambda r: r.network, least=14),
        number("kept", lambda r: r.kept_blocks, "d", rank=3),
        number("latency ms", lambda r: r.latency_ms, ".3f"),
        Column("95 %", _interval, rank=2, is_number=True),
        number("FPS", lambda r: r.throughput_fps, ".1f"),
        number("predicted ms", lambda r: r.predicted_ms, ".3f", rank=4),
        number("error", lambda r: r.error_percent, "+.1f", suffix=" %", rank=1),
        number("accuracy", lambda r: r.accuracy_percent, ".2f", suffix=" %"),
        Column("verdict", lambda r: r.verdict),
    ]
    title = (
        f"{first.device}, {first.runtime}, {first.precision}, batch {first.batch}, "
        f"{how_timed(first)}, {first.statistic}"
    )
    print_grid(columns, results, title=title, wide=wide)
    for r in results:
        if r.reason:
            out.print(f"{r.network}: {r.verdict}, {' '.join(r.reason.split())}")
    if built := [r for r in results if r.engine_mib is not None]:
        print_grid(_ENGINE_COLUMNS, built, title="engines", wide=wide)


def _interval(result: BenchmarkResult) -> str:
    known = result.low_ms is not None and result.high_ms is not None
    return f"{result.low_ms:.3f} - {result.high_ms:.3f}" if known else ""


_ENGINE_COLUMNS: list[Column[BenchmarkResult]] = [
    Column("network", lambda r: r.network, least=14),
    number("built in s", lambda r: r.build_s, ".1f"),
    number("engine MiB", lambda r: r.engine_mib, ".1f"),
    number("GPU memory MiB", lambda r: r.gpu_memory_mib, ".1f"),
    Column("precision", lambda r: r.built_precision),
]
