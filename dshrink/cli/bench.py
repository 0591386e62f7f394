"""``dshrink bench``: frames per second of whole networks, beside the table's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.console import notice, out, print_json, progress
from dshrink.cli.grids import Column, number, print_grid
from dshrink.cli.render import how_timed
from dshrink.errors import DshrinkError

if TYPE_CHECKING:
    from dshrink.benchmark import BenchmarkResult, Candidate
    from dshrink.search.plan import Plan
    from latency_tables.schema import Conditions
    from latency_tables.table import LatencyTable
    from profiler.target import Target


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
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Measure networks, original and shrunk, interleaved; write frames per second.

    An interrupted run goes on where it was: give the same command again.
    """
    from profiler.target import Target

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
    print_results(results, wide=wide)
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
    from dshrink.benchmark import run_benchmark, save_results
    from dshrink.search.plan import parse_plan
    from latency_tables.io import load_table
    from profiler.target import batch_on, measuring_on

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
            out.print(f"{r.network}: {r.verdict}, {r.reason}")
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
