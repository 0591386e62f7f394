"""The whole of a profile as one call: plan, measure, and build the table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from latency_tables.pieces import NetworkPieces
from latency_tables.schema import Conditions
from latency_tables.span_masks import SpanChoice
from latency_tables.table import LatencyTable
from profiler.duration import DurationEstimate
from profiler.planning.profile_plan import (
    CHECK_NETWORKS,
    Compose,
    Operators,
    ProfilePlan,
    plan_jobs,
)
from profiler.profile_schedule import PIECE_ROUNDS, TARGET_PERCENT, ProfileSchedule, building
from profiler.runtimes import traits_of
from profiler.scheduling.serial import Scheduler
from profiler.session import Progress, Session, SessionResult
from profiler.settings import ProfileSettings
from profiler.table.audit import machine_warnings
from profiler.table.builder import build_table
from profiler.table.evidence import Weigher
from profiler.workload_files import BuildFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """What to profile, on what, and how thoroughly; ``folder`` keeps the journal.

    ``operators`` is whose the operators of the networks of ``compose`` are. ``spans`` are the spans
    that are profiled, None in a network of blocks: its widest merged kernel bounds what is
    measured, its mode is only kept. ``check`` networks take no part in the estimate. ``warnings``
    are said of the table.
    """

    pieces: NetworkPieces
    compose: Compose
    operators: Operators
    build: BuildFile
    conditions: Conditions
    folder: Path
    date: str
    dshrink_version: str
    check: int = CHECK_NETWORKS
    target_percent: float = TARGET_PERCENT
    time_limit_s: float = math.inf
    spans: SpanChoice | None = None
    settings: ProfileSettings = field(default_factory=ProfileSettings)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The table, and the session it was measured in."""

    request: ProfileRequest
    table: LatencyTable
    session: SessionResult


def plan_of(request: ProfileRequest) -> ProfilePlan:
    """What a request may measure."""
    conditions = request.conditions
    return plan_jobs(
        request.pieces,
        request.compose,
        request.operators,
        check=request.check,
        seed=request.settings.seed,
        # A compiled network has no operators left that could be identified.
        profiles=traits_of(conditions).layer_profiles and conditions.launch != "compiled",
        max_kernel=request.spans.max_kernel if request.spans else None,
    )


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
    conditions, plan = request.conditions, plan_of(request)
    schedule = ProfileSchedule(
        plan=plan,
        weigh=Weigher(plan, conditions),
        target_percent=request.target_percent,
        time_limit_s=request.time_limit_s,
    )
    with Session(
        plan=plan,
        conditions=conditions,
        scheduler=scheduler,
        build=request.build,
        folder=request.folder,
        schedule=building(schedule) if traits_of(conditions).builds else schedule,
        settings=replace(request.settings, rounds=PIECE_ROUNDS),
    ) as session:
        if on_start:
            on_start(session.estimate)
        result = session.run(*([progress] if progress else []))
        session.workloads.delete()
    fingerprint = result.environments[0] if result.environments else {}
    table = build_table(
        plan,
        result.measurements,
        conditions,
        dict(
            fingerprint=fingerprint,
            seed=request.settings.seed,
            date=request.date,
            dshrink_version=request.dshrink_version,
            spans=request.spans,
        ),
        warnings=(
            *request.warnings,
            *machine_warnings(fingerprint, conditions),
            *result.warnings,
        ),
        boards=result.boards,
    )
    return Profile(request=request, table=table, session=result)
