"""The whole of a table of layers as one call: plan, measure, build the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.records import plain
from latency_tables.schema import Conditions
from latency_tables.wording import counted
from profiler.duration import DurationEstimate
from profiler.layers.plan import LayerPlan, plan_layers
from profiler.layers.schedule import LayerSchedule
from profiler.levels import JobLatency, judge, levelled, visits_of, without_levels
from profiler.measurement import Measurement
from profiler.runtimes import traits_of
from profiler.scheduling.serial import Scheduler
from profiler.session import Progress, Session, SessionResult
from profiler.settings import ProfileSettings
from profiler.table.audit import audit, machine_warnings
from profiler.table.rows import FACTS, STATISTICS_COLUMNS
from profiler.workload_files import BuildFile

TARGET_PERCENT = 2.0
#: Rounds for all layers, and the most for those that are not known well then.
LEAST_ROUNDS, MOST_ROUNDS = 4, 20
#: The same where a round builds engines, which takes long.
BUILDING_ROUNDS, MOST_BUILDING_ROUNDS = 3, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersRequest:
    """What to measure, on what, and how well; ``folder`` keeps the journal.

    ``names`` are what the user calls a layer. ``context`` "pair" measures each layer behind a
    neighbour too.
    """

    layers: Sequence[Layer]
    names: Mapping[Layer, tuple[str, ...]] = field(default_factory=dict)
    context: str = "alone"
    build: BuildFile
    conditions: Conditions
    folder: Path
    date: str
    dshrink_version: str
    target_percent: float = TARGET_PERCENT
    time_limit_s: float = math.inf
    settings: ProfileSettings = field(default_factory=ProfileSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersProfile:
    """The table, and the session it was measured in."""

    table: LayerTable
    session: SessionResult


def profile_layers(
    request: LayersRequest,
    scheduler: Scheduler,
    *,
    on_start: Callable[[DurationEstimate], None] | None = None,
    progress: Progress | None = None,
) -> LayersProfile:
    """Measure what the journal lacks and build the table, which the caller saves.

    ``on_start`` gets the estimate before the first layer runs. Raises what ``Session`` raises.
    """
    conditions = request.conditions
    plan = plan_layers(request.layers, context=request.context)
    builds = traits_of(conditions).builds
    schedule = LayerSchedule(
        weigh=lambda measured: levelled(_usable(measured), conditions),
        target_percent=request.target_percent,
        time_limit_s=request.time_limit_s,
        least_rounds=BUILDING_ROUNDS if builds else LEAST_ROUNDS,
        most_rounds=MOST_BUILDING_ROUNDS if builds else MOST_ROUNDS,
    )
    with Session(
        plan=plan,
        conditions=conditions,
        scheduler=scheduler,
        build=request.build,
        folder=request.folder,
        schedule=schedule,
        settings=replace(request.settings, rounds=schedule.least_rounds),
    ) as session:
        if on_start:
            on_start(session.estimate)
        result = session.run(*([progress] if progress else []))
        session.workloads.delete()
    return LayersProfile(table=_table(request, plan, result), session=result)


def _usable(measured: Mapping[str, Measurement]) -> list[Measurement]:
    """What was given up may have been measured before, and says nothing."""
    return [one for one in measured.values() if not one.failed]


def _table(request: LayersRequest, plan: LayerPlan, result: SessionResult) -> LayerTable:
    measured, conditions = result.measurements, request.conditions
    visits = visits_of(_usable(measured), conditions)
    fit = without_levels(visits) if visits else None
    latencies = fit.jobs if fit else {}
    rows = tuple(
        _row(layer, request, measured[layer.spec.digest], latencies, plan.pairs.get(layer))
        for layer in request.layers
    )
    environment = result.environments[0] if result.environments else {}
    warnings = (
        *machine_warnings(environment, conditions),
        *result.warnings,
        *_not_ok(rows),
        *audit(plan.jobs, measured, conditions),
    )
    return LayerTable(
        rows=rows,
        conditions=conditions,
        target_percent=request.target_percent,
        context=request.context,
        level=fit.level if fit else None,
        warnings=tuple(dict.fromkeys(warnings)),
        fingerprint=environment,
        boards=tuple(plain(board) for board in result.boards),
        seed=request.settings.seed,
        date=request.date,
        dshrink_version=request.dshrink_version,
    )


def _row(
    layer: Layer,
    request: LayersRequest,
    measurement: Measurement,
    latencies: Mapping[str, JobLatency],
    pair: tuple[str, str] | None,
) -> LayerRow:
    spec = layer.spec
    about: dict[str, Any] = {
        "layer": layer,
        "names": request.names.get(layer, ()),
        "digest": spec.digest,
        "macs": spec.macs,
        "parameters": spec.parameters,
        "peak_activations": spec.peak_activations,
    }
    facts = {name: getattr(measurement, name) for name in FACTS}
    known = latencies.get(spec.digest)
    if measurement.failed or known is None:
        return LayerRow(**about, **facts, verdict="failed")
    verdict, reason = judge(measurement, known, request.target_percent / 100.0)
    return LayerRow(
        **about,
        **{**facts, "reason": reason},
        **{name: getattr(measurement, name) for name in STATISTICS_COLUMNS},
        **_beside(latencies, pair),
        verdict=verdict,
        latency_ms=known.latency_ms,
        low_ms=known.low_ms,
        high_ms=known.high_ms,
    )


def _beside(latencies: Mapping[str, JobLatency], pair: tuple[str, str] | None) -> dict[str, Any]:
    """The difference that a layer makes behind its neighbour, and its interval."""
    if pair is None or not all(name in latencies for name in pair):
        return {}
    neighbour, both = (latencies[name] for name in pair)
    difference_ms = both.latency_ms - neighbour.latency_ms
    half_ms = math.hypot(both.high_ms - both.latency_ms, neighbour.high_ms - neighbour.latency_ms)
    return {
        "beside_ms": difference_ms,
        "beside_low_ms": difference_ms - half_ms,
        "beside_high_ms": difference_ms + half_ms,
    }


#: What to do about layers of a verdict.
_ADVICE = {
    "host_bound": "the host, not the device, sets their pace: use --launch cuda_graph or a larger "
    "batch",
    "noisy": "end other work on the machine and run again into another folder, or accept a wider "
    "interval (--target-error)",
    "throttled": "cool the device or lower its power mode, and run again into another folder",
    "failed": "`dshrink table show` gives the reasons",
}


def _not_ok(rows: Sequence[LayerRow]) -> list[str]:
    found = []
    for verdict, advice in _ADVICE.items():
        count = sum(row.verdict == verdict for row in rows)
        if count:
            found.append(f"{count} of {counted(len(rows), 'layer')} are {verdict}: {advice}")
    return found
