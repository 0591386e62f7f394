"""The whole of a profile as one call: plan, measure, and build the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latency_tables.contexts import CONTEXTS
from latency_tables.pieces import NetworkPieces
from latency_tables.schema import Conditions
from latency_tables.span_masks import SpanChoice
from latency_tables.table import LatencyTable
from profiler.estimate import DurationEstimate
from profiler.planning.profile_plan import DUPLICATES, HOLD_OUT_NETWORKS, Compose, plan_jobs
from profiler.schedule import FixedRounds
from profiler.scheduling.serial import Scheduler
from profiler.session import Progress, Session, SessionResult
from profiler.settings import ProfileSettings
from profiler.table.audit import machine_warnings
from profiler.table.builder import build_tables
from profiler.workload_files import BuildFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """What to profile, on what, and how thoroughly; ``folder`` keeps the journal.

    ``contexts`` are those in which the pieces are costed; the one that predicts best is the table.
    ``spans`` are the spans that are profiled, None in a network of blocks: its widest merged kernel
    bounds what is measured, its mode is only kept.
    """

    pieces: NetworkPieces
    compose: Compose
    build: BuildFile
    conditions: Conditions
    folder: Path
    date: str
    dshrink_version: str
    hold_out: int = HOLD_OUT_NETWORKS
    duplicates: int = DUPLICATES
    contexts: Sequence[str] = CONTEXTS[:1]
    spans: SpanChoice | None = None
    settings: ProfileSettings = field(default_factory=ProfileSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The table, the tables of all its contexts, and the session they were measured in."""

    table: LatencyTable
    tables: Mapping[str, LatencyTable]
    session: SessionResult


def profile(
    request: ProfileRequest,
    scheduler: Scheduler,
    *,
    on_start: Callable[[DurationEstimate], None] | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure what the journal lacks and build the table, which the caller saves.

    ``on_start`` gets the estimate before the first job runs. Raises what ``Session`` raises.
    """
    plan = plan_jobs(
        request.pieces,
        request.compose,
        hold_out=request.hold_out,
        duplicates=request.duplicates,
        seed=request.settings.seed,
        contexts=request.contexts,
        max_kernel=request.spans.max_kernel if request.spans else None,
    )

    with Session(
        plan=plan,
        conditions=request.conditions,
        scheduler=scheduler,
        build=request.build,
        folder=request.folder,
        schedule=FixedRounds(rounds=request.settings.rounds),
        settings=request.settings,
    ) as session:
        if on_start:
            on_start(session.estimate)
        result = session.run(*([progress] if progress else []))
        session.workloads.delete()
    fingerprint = result.environments[0] if result.environments else {}
    made = build_tables(
        plan,
        result.measurements,
        request.conditions,
        dict(
            fingerprint=fingerprint,
            seed=request.settings.seed,
            date=request.date,
            dshrink_version=request.dshrink_version,
            spans=request.spans,
        ),
        warnings=(*machine_warnings(fingerprint, request.conditions), *result.warnings),
        boards=result.boards,
    )
    return Profile(table=made.table, tables=made.tables, session=result)
