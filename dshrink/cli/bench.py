"""``dshrink bench``: frames per second of whole networks, beside the table's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dshrink.cli import options
from dshrink.cli.console import notice, out, print_json, progress
from dshrink.cli.render import how_timed

if TYPE_CHECKING:
    from dshrink.results import BenchmarkResult


def register(app: typer.Typer) -> None:
    app.command(name="bench")(command)


def command(
    context: typer.Context,
    networks: Annotated[list[str], typer.Argument(help="timm names or ONNX files")],
    plans: Annotated[
        list[str] | None, typer.Option("--plan", help="a plan to measure as well")
    ] = None,
    tables: Annotated[
        list[Path] | None, typer.Option("--table", help="a latency table whose prediction to show")
    ] = None,
    out_file: Annotated[Path, typer.Option("--out", help="CSV to write")] = Path("results.csv"),
    device: options.Device = "local",
    runtime: options.Runtime = None,
    precision: options.Precision = "fp32",
    batch: options.Batch = None,
    threads: options.Threads = 1,
    resolution: options.Resolution = 224,
    padding: options.PlanPadding = None,
    statistic: options.Statistic = None,
    launch: options.Launch = "plain",
    cache_mode: options.CacheMode = "hot",
    scheduler: options.Scheduler = None,
    hold_clocks: options.HoldClocks = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure networks, original and shrunk, interleaved; write frames per second.

    The same command resumes an interrupted run.
    """
    from dshrink.operations.bench import bench_networks
    from profiler.target import Target

    options.warn_of_plain_tcp(scheduler)
    with progress("benchmark") as update:
        results = options.call(
            context,
            bench_networks,
            target=options.call(context, Target),
            on_progress=update,
            notice=notice,
        )
    if json:
        print_json([asdict(result) for result in results])
        return
    print_results(results)
    out.print(f"results: {out_file}")


def print_results(results: Sequence[BenchmarkResult]) -> None:
    """The results as a table of text."""
    first = results[0]
    grid = Table(
        title=f"{first.device}, {first.runtime}, {first.precision}, batch {first.batch}, "
        f"{how_timed(first)}, {first.statistic}",
        title_justify="left",
    )
    grid.add_column("network", no_wrap=True)
    for column in ("kept", "latency ms", "95 %", "FPS", "predicted ms", "error"):
        grid.add_column(column, justify="right")
    has_accuracy = any(r.accuracy_percent is not None for r in results)
    if has_accuracy:
        grid.add_column("accuracy", justify="right")
    grid.add_column("verdict")
    for r in results:
        known = r.latency_ms is not None
        predicted = r.predicted_ms is not None
        grid.add_row(
            r.network,
            "" if r.kept_blocks is None else str(r.kept_blocks),
            f"{r.latency_ms:.3f}" if known else "",
            f"{r.low_ms:.3f} - {r.high_ms:.3f}" if known else "",
            f"{r.throughput_fps:.1f}" if known else "",
            f"{r.predicted_ms:.3f}" if predicted else "",
            f"{r.error_percent:+.1f} %" if r.error_percent is not None else "",
            *([_percent(r.accuracy_percent)] if has_accuracy else []),
            r.verdict,
        )
    out.print(grid)
    for r in results:
        if r.reason:
            out.print(f"{r.network}: {r.verdict}, {r.reason}")
    _print_built([r for r in results if r.engine_mib is not None])


def _print_built(results: Sequence[BenchmarkResult]) -> None:
    """What the runtime built, where it builds."""
    if not results:
        return
    grid = Table(title="engines", title_justify="left")
    grid.add_column("network", no_wrap=True)
    for column in ("built in s", "engine MiB", "GPU memory MiB"):
        grid.add_column(column, justify="right")
    grid.add_column("precision")
    for r in results:
        shown = (_shown(r.build_s), _shown(r.engine_mib), _shown(r.gpu_memory_mib))
        grid.add_row(r.network, *shown, r.built_precision)
    out.print(grid)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
