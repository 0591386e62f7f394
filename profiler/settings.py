"""How thorough a profile is, and how long it will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from devices.agent.protocol import Rule
from latency_tables.schema import Conditions
from profiler.drift import DRIFT_LIMIT
from profiler.errors import PlanningError
from profiler.journal import JournalState
from profiler.measurement import HALF_WIDTH
from profiler.planning.jobs import PROFILE_RULE, JobPlan, expected_s, longest_s
from profiler.replies import Reply
from profiler.runtimes import GPU_HALF_WIDTH, GPU_RULE, processor_of, traits_of
from profiler.statistics import median

#: About what TensorRT takes to build a piece on a large GPU, and how many times as long a small one
#: takes. For the estimate before anything is known.
BUILD_S = 5.0
SLOW_BUILDS = 10.0
#: Files that are smaller together are not worth a word.
WORTH_SAYING_BYTES = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """``rounds`` for every job, then up to ``extra_rounds`` for those that are not settled.

    Everything measured again, because of drift or noise, takes at most ``extra_share`` of the time
    of the plan; what is measured again because of drift, at most ``drift_share``. ``build_s`` is
    about what building an engine takes, for the estimate alone.
    """

    rounds: int = 3
    extra_rounds: int = 12
    anchor_every: int = 20
    drift_limit: float = DRIFT_LIMIT
    repeats: int = 2
    extra_share: float = 0.3
    drift_share: float = 0.15
    half_width: float = HALF_WIDTH
    seed: int = 0
    rule: Rule = PROFILE_RULE
    build_s: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.anchor_every < 1:
            raise PlanningError(
                f"rounds ({self.rounds}) and anchor_every ({self.anchor_every}) must be 1 or more"
            )
        shares = (self.extra_share, self.drift_share, self.drift_limit)
        if min(self.extra_rounds, self.repeats, *shares) < 0:
            raise PlanningError(
                "extra_rounds, repeats, extra_share, drift_share and drift_limit must be 0 or more"
            )


def settings_for(conditions: Conditions, **chosen: Any) -> ProfileSettings:
    """The settings that suit what does the work; ``chosen`` are fields that are set otherwise."""
    if processor_of(conditions) == "gpu":
        # Of a GPU alone the power mode says "gpu ...", of a Jetson what nvpmodel calls it.
        is_jetson = not conditions.power_mode.startswith("gpu ")
        half_width = HALF_WIDTH if is_jetson else GPU_HALF_WIDTH
        chosen = {"rule": GPU_RULE, "half_width": half_width, **chosen}
    if traits_of(conditions).builds:
        chosen = {"build_s": BUILD_S, **chosen}
    return ProfileSettings(**chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationEstimate:
    """What a run has before it: measurements are (job, round) pairs; ``reused`` are done.

    ``file_bytes`` are about those of the files that it writes before it measures.
    """

    jobs: int
    rounds: int
    reused: int
    remaining: int
    remaining_s: float
    longest_s: float
    boards: int = 1
    file_bytes: int = 0

    def __str__(self) -> str:
        known = f", {self.reused} of them in the journal" if self.reused else ""
        known += f", on {self.boards} boards" if self.boards > 1 else ""
        large = self.file_bytes >= WORTH_SAYING_BYTES
        files = f"; about {self.file_bytes / 1e9:.1f} GB of files" if large else ""
        return (
            f"{self.jobs} jobs in {self.rounds} rounds: {self.jobs * self.rounds} "
            f"measurements{known}; about {self.remaining_s:.0f} s to go, up to "
            f"{self.longest_s:.0f} s on a busy machine{files}"
        )


def planned_s(
    plan: JobPlan, settings: ProfileSettings, state: JournalState, hopeless: Collection[str] = ()
) -> float:
    """Time of the whole plan without repetitions: what was taken, and what the rest will take.

    ``hopeless`` jobs get no more rounds than they had.
    """
    taken = _taken(settings, state)
    rounds_had = Counter(reply.job_id for reply in taken)
    left = sum(
        max(0, settings.rounds - rounds_had[job.id]) for job in plan.jobs if job.id not in hopeless
    )
    return sum(reply.took_s for reply in taken) + left * _job_s(settings, state)


def _taken(settings: ProfileSettings, state: JournalState) -> list[Reply]:
    planned = (reply for reply in state.accepted.values() if reply.round < settings.rounds)
    return [reply for reply in planned if reply.failure is None]


def _job_s(settings: ProfileSettings, state: JournalState) -> float:
    taken = [reply.took_s for reply in _taken(settings, state)]
    return median(taken) if taken else expected_s(settings.rule)


def extra_s(
    state: JournalState, settings: ProfileSettings, before_round: int | None = None
) -> float:
    """Time spent on measuring again, in rounds before ``before_round`` where that is given."""
    repeated = [
        *state.discarded,
        *(reply for reply in state.accepted.values() if reply.round >= settings.rounds),
    ]
    return sum(r.took_s for r in repeated if before_round is None or r.round < before_round)


def extra_room_s(
    plan: JobPlan,
    settings: ProfileSettings,
    state: JournalState,
    before_round: int | None = None,
    hopeless: Collection[str] = (),
) -> float:
    """How much more time may be spent on measuring again."""
    allowed = settings.extra_share * planned_s(plan, settings, state, hopeless)
    return allowed - extra_s(state, settings, before_round)


def drift_room_s(
    plan: JobPlan, settings: ProfileSettings, state: JournalState, hopeless: Collection[str] = ()
) -> float:
    """How much more time may be spent on replies that were taken back."""
    allowed = settings.drift_share * planned_s(plan, settings, state, hopeless)
    spent = sum(reply.took_s for reply in state.discarded)
    return min(allowed - spent, extra_room_s(plan, settings, state, hopeless=hopeless))


def estimate(
    plan: JobPlan,
    settings: ProfileSettings,
    state: JournalState,
    boards: int = 1,
    hopeless: Collection[str] = (),
    file_bytes: int = 0,
) -> DurationEstimate:
    """Count what is planned and what the journal already holds, and how long the rest takes.

    ``hopeless`` jobs get no more rounds.
    """
    boards = max(1, boards)
    planned = {(job.id, number) for job in plan.jobs for number in range(settings.rounds)}
    wanted = {key for key in planned if key in state.accepted or key[0] not in hopeless}
    reused = sum(key in state.accepted for key in wanted)
    remaining = len(wanted) - reused
    anchors = remaining / settings.anchor_every + (boards * settings.rounds if remaining else 0)
    built = {name for name, _ in state.accepted}
    building_s = sum(settings.build_s for job in plan.jobs if job.id not in built)
    job_s = _job_s(settings, state)
    longest_job_s = max(job_s, longest_s(settings.rule))
    longest_building_s = SLOW_BUILDS * building_s
    return DurationEstimate(
        jobs=len(plan.jobs),
        rounds=settings.rounds,
        reused=reused,
        remaining=remaining,
        remaining_s=((remaining + anchors) * job_s + building_s) / boards,
        longest_s=((remaining + anchors) * longest_job_s + longest_building_s)
        * (1.0 + settings.extra_share)
        / boards,
        boards=boards,
        file_bytes=file_bytes,
    )
