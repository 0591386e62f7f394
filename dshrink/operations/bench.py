"""Throughput of whole networks, measured interleaved and compared with a table's predictions.

Latency does not depend on the weights, so a network given by name and plan is built with random
ones; an ONNX file is measured as it is. The rounds, the order and the statistic are those of a
profile, so that prediction and measurement mean the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dshrink.errors import DshrinkError
from dshrink.network.models import load
from dshrink.network.onnx_files.source import is_onnx_name
from dshrink.network.references import ModelChoice
from dshrink.operations.bench_networks import (
    BenchmarkError,
    BenchNetwork,
    network_of_file,
    networks_by_plan,
)
from dshrink.operations.bench_run import measure_run
from dshrink.operations.known import known_of_plans, known_of_table
from dshrink.pieces.advice import require_batch, require_writable
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.results import BenchmarkResult, save_results
from dshrink.search.plan import Plan, parse_plan
from latency_tables.io import load_table
from latency_tables.opspec import OpSpec
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable
from profiler.scheduling.serial import Scheduler
from profiler.target import Target, batch_on, measuring_on


def bench_networks(
    networks: Sequence[str],
    plans: Sequence[str],
    tables: Sequence[Path],
    out_file: Path,
    target: Target,
    *,
    choice: ModelChoice | None = None,
    padding: str | None = None,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> list[BenchmarkResult]:
    """Measure networks by name or ONNX file, and by name under each plan; write the results.

    ``choice`` says what is asked of each network by name, whatever its own name is. ``notice``
    reports tables that predict nothing. The same call resumes an interrupted run.
    """
    loaded = [load_table(path) for path in tables]
    parsed = [parse_plan(plan) for plan in plans]
    wanted = _wanted(
        networks, parsed, dict(zip(tables, loaded, strict=True)), batch_on(target), choice, padding
    )
    with measuring_on(target, notice) as (scheduler, conditions):
        results = run_benchmark(
            wanted,
            conditions,
            scheduler,
            out_file.with_name(f"{out_file.stem}.journal"),
            tables=loaded,
            seed=seed,
            on_progress=on_progress,
            notice=notice,
        )
        for table in loaded:
            if differences := table.conditions.differences(conditions):
                notice(
                    f"the table of {table.model} predicts nothing here: measured under other "
                    f"conditions ({'; '.join(differences)})"
                )
    save_results(results, out_file)
    return results


def _wanted(
    names: Sequence[str],
    plans: Sequence[Plan],
    tables: Mapping[Path, LatencyTable],
    batch: int,
    choice: ModelChoice | None,
    padding: str | None,
) -> list[BenchNetwork]:
    paths = [Path(name) for name in names if is_onnx_name(name)]
    alike = Counter(path.name for path in paths)
    files = {
        str(path): network_of_file(
            path,
            batch,
            str(path) if alike[path.name] > 1 else path.name,
            choice.resolution if choice else None,
        )
        for path in paths
    }
    # A file of `dshrink merge` is what a plan made of a network, and no such network itself.
    names = [str(Path(name)) if is_onnx_name(name) else name for name in names]
    shrunk = all(name in files and not files[name].original for name in names)
    if plans and shrunk:
        raise DshrinkError("--plan needs a network given by name, not only merged ONNX files")
    by_name = [name for name in names if name not in files]
    known = known_of_plans(plans)
    found: list[BenchNetwork] = []
    specs: dict[str, OpSpec] = {}
    for name in names:
        if name in files and not (plans and not by_name and files[name].original):
            found.append(files[name])
        else:
            asked = ModelChoice(model=name) if choice is None else replace(choice, model=name)
            of_tables = [known_of_table(table, at, asked) for at, table in tables.items()]
            network = load(asked.knowing(known, *of_tables))
            require_batch(network, batch)
            require_writable(network)
            if specs.setdefault(network.name, network.spec) != network.spec:
                raise BenchmarkError(
                    f"{name}: another network of these is called {network.name} as well: rename "
                    "one, or measure them apart"
                )
            found += networks_by_plan(network, plans, padding)
    return found


def run_benchmark(
    networks: Sequence[BenchNetwork],
    conditions: Conditions,
    scheduler: Scheduler,
    folder: Path,
    *,
    tables: Sequence[LatencyTable] = (),
    seed: int = 0,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> list[BenchmarkResult]:
    """The results of ``measure_run``: each with its speed-up against the network's baseline."""
    run = measure_run(
        networks,
        conditions,
        scheduler,
        folder,
        tables=tables,
        seed=seed,
        on_progress=on_progress,
        notice=notice,
    )
    return list(run.results)
