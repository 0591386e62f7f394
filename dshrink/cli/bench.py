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
from dshrink.errors import DshrinkError

if TYPE_CHECKING:
    from dshrink.benchmark import Candidate
    from dshrink.results import BenchmarkResult
    from dshrink.search.plan import Plan
    from latency_tables.schema import Conditions
    from latency_tables.table import LatencyTable
    from profiler.conditions import Target


def register(app: typer.Typer) -> None:
    app.command(name="bench")(command)


def command(
    networks: Annotated[list[str], typer.Argument(help="timm names or ONNX files")],
    plan: Annotated[list[str] | None, typer.Option(help="a plan to measure as well")] = None,
    table: Annotated[
        list[Path] | None, typer.Option(help="a latency table whose prediction to show")
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

    An interrupted run goes on where it was: give the same command again.
    """
    from profiler.conditions import Target

    options.warn_of_plain_tcp(scheduler)
    results = run_bench(
        networks,
        plan or [],
        table or [],
        out_file,
        Target(
            device=device,
            runtime=runtime,
            precision=precision,
            batch=batch,
            threads=threads,
            statistic=statistic,
            launch=launch,
            cache_mode=cache_mode,
            scheduler=scheduler,
            hold_clocks=hold_clocks,
        ),
        resolution=resolution,
        padding=padding,
        seed=seed,
    )
    if json:
        print_json([asdict(result) for result in results])
        return
    print_results(results)
    out.print(f"results: {out_file}")


def run_bench(
    networks: Sequence[str],
    plans: Sequence[str],
    tables: Sequence[Path],
    out_file: Path,
    target: Target,
    *,
    resolution: int = 224,
    padding: str | None = None,
    seed: int = 0,
) -> list[BenchmarkResult]:
    """Measure with a progress bar and save the results."""
    from dshrink.benchmark import run_benchmark
    from dshrink.results import save_results
    from dshrink.search.plan import parse_plan
    from latency_tables.io import load_table
    from profiler.conditions import batch_on, measuring_on

    loaded = [load_table(path) for path in tables]
    candidates = _candidates(
        networks, [parse_plan(p) for p in plans], batch_on(target), resolution, padding
    )
    with (
        measuring_on(target, notice) as (scheduler, conditions),
        progress("benchmark") as update,
    ):
        results = run_benchmark(
            candidates,
            conditions,
            scheduler,
            out_file.with_name(f"{out_file.stem}.journal"),
            tables=loaded,
            seed=seed,
            progress=update,
            notice=notice,
        )
        _say_unused(loaded, conditions)
    save_results(results, out_file)
    return results


def _say_unused(tables: Sequence[LatencyTable], conditions: Conditions) -> None:
    """A table of other conditions predicts nothing here, and says so."""
    for table in tables:
        if differences := table.conditions.differences(conditions):
            notice(
                f"the table of {table.model} predicts nothing here: measured under other "
                f"conditions ({'; '.join(differences)})"
            )


def _candidates(
    networks: Sequence[str],
    plans: Sequence[Plan],
    batch: int,
    resolution: int,
    padding: str | None,
) -> list[Candidate]:
    from dshrink.benchmark import candidate_of_file, candidates_of
    from dshrink.network.models import load_network

    if plans and all(name.endswith(".onnx") for name in networks):
        raise DshrinkError("--plan needs a network by name beside it, not only ONNX files")
    resolutions = {plan.resolution for plan in plans if plan.resolution}
    if len(resolutions) > 1:
        raise DshrinkError(f"the plans are for several resolutions: {sorted(resolutions)}")
    size = next(iter(resolutions), resolution)
    found: list[Candidate] = []
    for name in networks:
        if name.endswith(".onnx"):
            found.append(candidate_of_file(Path(name), batch))
        else:
            found += candidates_of(load_network(name, resolution=size), plans, padding)
    return found


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
