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
from typing import Any

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
from dshrink.operations.known import known_of_plans, known_of_table
from dshrink.pieces.advice import require_batch, require_writable
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.results import BenchmarkResult, save_results
from dshrink.search.plan import Plan, parse_plan
from latency_tables.errors import LatencyTableError
from latency_tables.io import load_table
from latency_tables.opspec import OpSpec
from latency_tables.predictor import Prediction, predict
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable
from profiler.levels import JobLatency, judge, levelled
from profiler.measurement import Measurement
from profiler.planning.jobs import JobPlan
from profiler.schedule import FixedRounds
from profiler.scheduling.serial import Scheduler
from profiler.session import Session
from profiler.settings import settings_for
from profiler.target import Target, batch_on, measuring_on
from profiler.workloads import build_onnx

#: Few networks can have many rounds: up to four times as long again until they have converged.
BENCH_ROUNDS = FixedRounds(rounds=6, most_rounds=46, effort=4.0)
#: From so many networks on that is too long: a study's wait for each other.
MANY_NETWORKS = 12
MANY_EFFORT = 1.0
MIB = float(1 << 20)


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
    """Measure the networks interleaved; the journal in ``folder`` lets the same call resume.

    ``notice`` reports, before anything is measured, what a table cannot predict.
    """
    if not networks:
        raise BenchmarkError("no network to measure")
    predictions = [predicted(network, conditions, tables, notice) for network in networks]
    jobs = {network.job.id: network.job for network in networks}
    rounds = replace(
        BENCH_ROUNDS,
        effort=MANY_EFFORT if len(jobs) > MANY_NETWORKS else BENCH_ROUNDS.effort,
        half_widths=lambda known: {
            name: one.half_width for name, one in levelled(known.values(), conditions).items()
        },
    )
    with Session(
        plan=JobPlan(jobs=tuple(jobs.values()), shared=tuple(jobs)[:1]),
        conditions=conditions,
        scheduler=scheduler,
        build=build_onnx,
        folder=folder,
        schedule=rounds,
        settings=settings_for(conditions, rounds=rounds.rounds, seed=seed),
    ) as session:
        result = session.run(on_progress)
        session.workloads.delete()
    known = levelled(result.measurements.values(), conditions)
    return [
        benchmark_result(
            network,
            result.measurements[network.job.id],
            known.get(network.job.id),
            result.built[network.job.id],
            conditions,
            prediction,
        )
        for network, prediction in zip(networks, predictions, strict=True)
    ]


def predicted(
    network: BenchNetwork, conditions: Conditions, tables: Sequence[LatencyTable], notice: Notice
) -> Prediction | None:
    """What the first table of this network under these conditions says that can predict it."""
    facts = network.facts
    for table in tables:
        its = (table.model, table.resolution) == (facts.model, network.resolution)
        if not its or table.conditions.differences(conditions):
            continue
        # Tables hold merged blocks with the free activation; without it there is no prediction.
        same = facts.free_activation and facts.segments == ("spans" if table.chain else "blocks")
        mask = table.forms.base if network.original else facts.keep_mask if same else ""
        try:
            if mask:
                return predict(table, mask, facts.padding or "repad")
        except LatencyTableError as error:
            notice(f"no prediction for {network.label}: {error}")
    return None


def benchmark_result(
    network: BenchNetwork,
    measurement: Measurement,
    latency: JobLatency | None,
    built: Mapping[str, Any],
    conditions: Conditions,
    prediction: Prediction | None,
) -> BenchmarkResult:
    """The row of a network; ``latency`` is None where there is none.

    ``built`` is what the runtime reports of the engine that it built.
    """
    facts, batch_ms = network.facts, 1000.0 * conditions.batch
    known: dict[str, Any] = dict.fromkeys(_THROUGHPUT)
    latency = None if measurement.failed else latency
    verdict, reason = judge(measurement, latency, measurement.half_width)
    if latency is not None:
        known = {name: getattr(latency, name) for name in _OF_LATENCY}
        known |= {name: getattr(measurement, name) for name in _OF_MEASUREMENT}
        ends = (latency.latency_ms, latency.high_ms, latency.low_ms)
        known |= {name: batch_ms / ms for name, ms in zip(_THROUGHPUT, ends, strict=True)}
    if prediction is not None:
        known |= {
            "predicted_ms": prediction.latency_ms,
            "predicted_low_ms": prediction.low_ms,
            "predicted_high_ms": prediction.high_ms,
        }
        if latency is not None:
            ratio = prediction.latency_ms / latency.latency_ms
            known["error_percent"] = 100.0 * (ratio - 1.0)
    has_blocks = facts.segments == "blocks" and facts.keep_mask
    return BenchmarkResult(
        network=network.label,
        **{name: getattr(facts, name) for name in _OF_FACTS},
        **{name: getattr(conditions, name) for name in _OF_CONDITIONS},
        **known,
        kept_blocks=facts.keep_mask.count("1") if has_blocks else None,
        macs=network.macs,
        parameters=network.parameters,
        verdict=verdict,
        reason=reason,
        file=network.file,
        build_s=_number(built, "build_s", 1.0),
        engine_mib=_number(built, "engine_bytes", MIB),
        gpu_memory_mib=_number(built, "device_memory_bytes", MIB),
        resolution="x".join(map(str, network.resolution)) if all(network.resolution) else "",
    )


_OF_FACTS = (
    *("model", "keep_mask", "padding", "method", "recipe", "seed"),
    *("accuracy_percent", "validation_images", "data"),
)
_OF_CONDITIONS = (
    *("device", "runtime", "precision", "batch", "threads"),
    *("clock", "statistic", "launch", "cache_mode"),
)
_OF_LATENCY = ("latency_ms", "low_ms", "high_ms")
_OF_MEASUREMENT = ("median_ms", "enqueue_ms", "built_precision")
_THROUGHPUT = ("throughput_fps", "throughput_low_fps", "throughput_high_fps")


def _number(facts: Mapping[str, Any], name: str, unit: float) -> float | None:
    return None if facts.get(name) is None else float(facts[name]) / unit
