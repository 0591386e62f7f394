"""One benchmark under one set of conditions: networks by turns in the same processes, and the rows.

Rounds go on until each network's latency and its ratio to its baseline are known well enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dshrink.operations.bench_networks import BenchmarkError, BenchNetwork
from dshrink.operations.bench_rows import (
    baselines,
    benchmark_result,
    check_baselines,
    predicted,
    standings,
)
from dshrink.operations.bench_types import readable
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.results import BenchmarkResult
from latency_tables.networks import Level
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable
from profiler.journal import JOURNAL_NAME
from profiler.levels import visits_of, without_levels
from profiler.measurement import Measurement
from profiler.planning.jobs import JobPlan
from profiler.ratios import PairedVisits, speedup
from profiler.schedule import FixedRounds
from profiler.scheduling.serial import Scheduler
from profiler.session import Session
from profiler.settings import settings_for
from profiler.workloads import build_onnx

#: Few networks can have many rounds: up to four times as long again until they have converged.
BENCH_ROUNDS = FixedRounds(rounds=6, most_rounds=46, effort=4.0)
#: From so many networks on that is too long: a study's wait for each other.
MANY_NETWORKS = 12
MANY_EFFORT = 1.0
#: Rounds that ask for memory and energy too: memory hardly differs, and each takes a second more.
RESOURCE_ROUNDS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a network's row comes from; ``measured_s`` is what its visits took, builds included."""

    processes: int
    samples: int
    measured_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRun:
    """The rows of a run, and where they come from: an ``Effort`` a row.

    ``fingerprint`` is what the device reports about itself, as in a table; ``level`` is None where
    nothing was measured. ``date`` is that of the last measurement.
    """

    conditions: Conditions
    results: tuple[BenchmarkResult, ...]
    efforts: tuple[Effort, ...]
    fingerprint: Mapping[str, Any]
    level: Level | None
    warnings: tuple[str, ...]
    seed: int
    date: str


def measure_run(
    networks: Sequence[BenchNetwork],
    conditions: Conditions,
    scheduler: Scheduler,
    folder: Path,
    *,
    tables: Sequence[LatencyTable] = (),
    seed: int = 0,
    effort: float | None = None,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> BenchmarkRun:
    """Measure the networks interleaved; the journal in ``folder`` lets the same call resume.

    What is not precise enough after the first rounds is measured for up to ``effort`` times as long
    again; by default that depends on how many networks there are.

    ``notice`` reports, before anything is measured, what a table cannot predict, and files that the
    runtime is given in other types.
    """
    if not networks:
        raise BenchmarkError("no network to measure")
    check_baselines(networks)
    networks = readable(networks, conditions, notice)
    predictions = [predicted(network, conditions, tables, notice) for network in networks]
    jobs = {network.job.id: network.job for network in networks}
    rounds = replace(
        BENCH_ROUNDS,
        effort=_effort_for(len(jobs)) if effort is None else effort,
        half_widths=_half_widths(networks, conditions),
    )
    with Session(
        plan=JobPlan(jobs=tuple(jobs.values()), shared=tuple(jobs)[:1]),
        conditions=conditions,
        scheduler=scheduler,
        build=build_onnx,
        folder=folder,
        schedule=rounds,
        settings=settings_for(
            conditions, rounds=rounds.rounds, seed=seed, resource_rounds=RESOURCE_ROUNDS
        ),
    ) as session:
        result = session.run(on_progress)
        session.workloads.delete()
    measured = result.measurements
    # A network that was given up may have been measured before.
    done = [one for one in measured.values() if not one.failed]
    visits = visits_of(done, conditions)
    fit = without_levels(visits) if visits else None
    latencies = fit.jobs if fit else {}
    every = visits_of(done, conditions, every=True)
    paired = PairedVisits.of(every, fit.undisturbed if fit else None)
    compared = standings(networks, paired, latencies)
    return BenchmarkRun(
        conditions=conditions,
        results=tuple(
            benchmark_result(
                network,
                measured[network.job.id],
                latencies.get(network.job.id),
                result.built[network.job.id],
                conditions,
                prediction,
                standing,
            )
            for network, prediction, standing in zip(networks, predictions, compared, strict=True)
        ),
        efforts=tuple(
            _effort(
                measured[network.job.id],
                latencies[network.job.id].processes if network.job.id in latencies else 0,
            )
            for network in networks
        ),
        fingerprint=result.environments[0] if result.environments else {},
        level=fit.level if fit else None,
        warnings=result.warnings,
        seed=seed,
        date=_date_of(folder / JOURNAL_NAME),
    )


def _effort_for(networks: int) -> float:
    return MANY_EFFORT if networks > MANY_NETWORKS else BENCH_ROUNDS.effort


def _half_widths(
    networks: Sequence[BenchNetwork], conditions: Conditions
) -> Callable[[Mapping[str, Measurement]], dict[str, float]]:
    """How well each network is known: its latency, and its ratio to its baseline.

    A ratio is of two latencies, so it may be the square root of 2 as wide. A baseline comes along
    where a network needs further processes: alone in a process it would say nothing of the ratio,
    and hardly anything of the latency.
    """

    def half_widths(measurements: Mapping[str, Measurement]) -> dict[str, float]:
        known = measurements.values()
        visits = visits_of(known, conditions)
        if not visits:
            return {}
        fit = without_levels(visits)
        latencies = fit.jobs
        widths = {name: one.half_width for name, one in latencies.items()}
        paired = PairedVisits.of(visits_of(known, conditions, every=True), fit.undisturbed)
        for network, baseline in zip(networks, baselines(networks, latencies), strict=True):
            if baseline is None or baseline.job.id == network.job.id:
                continue
            pair = (network.job.id, baseline.job.id)
            ratio = speedup(paired, latencies, *pair)
            if ratio is not None and math.isfinite(ratio.half_width):
                widest = max(widths[pair[0]], ratio.half_width / math.sqrt(2.0))
                widths[pair[0]] = widest
                widths[pair[1]] = max(widths[pair[1]], widest)
        return widths

    return half_widths


def _effort(measurement: Measurement, processes: int) -> Effort:
    return Effort(
        processes=processes,
        samples=measurement.samples if measurement.parts else 0,
        measured_s=math.fsum(reply.took_s for reply in measurement.replies),
    )


def _date_of(journal: Path) -> str:
    """When the last measurement was written, so that a run that measures nothing keeps its date."""
    return datetime.fromtimestamp(journal.stat().st_mtime, UTC).isoformat(timespec="seconds")
