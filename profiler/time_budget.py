"""How long a run takes, and how much of that may go into measuring again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from profiler.journal import JournalState
from profiler.planning.jobs import JobPlan, expected_s, longest_s
from profiler.replies import Reply
from profiler.settings import ProfileSettings
from profiler.statistics import median

#: Engines of a small GPU take so many times as long to build as those of a large one.
SLOW_BUILDS = 10.0
#: Files that are smaller together are not mentioned.
MENTIONED_BYTES = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationEstimate:
    """What is left of a run: measurements are (job, round) pairs; ``reused`` are done.

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
        large = self.file_bytes >= MENTIONED_BYTES
        files = f"; about {self.file_bytes / 1e9:.1f} GB of files" if large else ""
        return (
            f"{self.jobs} jobs in {self.rounds} rounds: {self.jobs * self.rounds} "
            f"measurements{known}; about {self.remaining_s:.0f} s to go, up to "
            f"{self.longest_s:.0f} s on a busy machine{files}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBudget:
    """The time of a plan, by what its journal holds; ``dropped`` jobs get no more rounds."""

    plan: JobPlan
    settings: ProfileSettings
    state: JournalState
    dropped: Collection[str] = ()

    @property
    def _taken(self) -> list[Reply]:
        rounds, accepted = self.settings.rounds, self.state.accepted.values()
        return [reply for reply in accepted if reply.round < rounds and reply.failure is None]

    @property
    def job_s(self) -> float:
        """About how long one job takes."""
        taken = [reply.took_s for reply in self._taken]
        return median(taken) if taken else expected_s(self.settings.rule)

    @property
    def planned_s(self) -> float:
        """The whole plan without repetitions: what was taken, and what the rest will take."""
        taken, rounds = self._taken, self.settings.rounds
        had = Counter(reply.job_id for reply in taken)
        wanted = (job.id for job in self.plan.jobs if job.id not in self.dropped)
        left = sum(max(0, rounds - had[name]) for name in wanted)
        return sum(reply.took_s for reply in taken) + left * self.job_s

    def extra_room_s(self, before_round: int | None = None) -> float:
        """How much more may go into measuring again, by the rounds before one where given."""
        extra = (r for r in self.state.accepted.values() if r.round >= self.settings.rounds)
        spent_s = sum(
            reply.took_s
            for reply in (*self.state.discarded, *extra)
            if before_round is None or reply.round < before_round
        )
        return self.settings.extra_share * self.planned_s - spent_s

    @property
    def drift_room_s(self) -> float:
        """How much more may go into replies that drift or throttling invalidates."""
        spent_s = sum(reply.took_s for reply in self.state.discarded)
        return min(self.settings.drift_share * self.planned_s - spent_s, self.extra_room_s())

    def estimate(self, boards: int = 1, file_bytes: int = 0) -> DurationEstimate:
        """Count what is planned and what is known already, and how long the rest takes."""
        settings, accepted = self.settings, self.state.accepted
        boards = max(1, boards)
        planned = {(job.id, number) for job in self.plan.jobs for number in range(settings.rounds)}
        wanted = {key for key in planned if key in accepted or key[0] not in self.dropped}
        reused = sum(key in accepted for key in wanted)
        remaining = len(wanted) - reused
        anchors = boards * settings.rounds + remaining / settings.anchor_every if remaining else 0
        built = {name for name, _ in accepted}
        building_s = sum(settings.build_s for job in self.plan.jobs if job.id not in built)
        longest_job_s = max(self.job_s, longest_s(settings.rule))
        longest = (remaining + anchors) * longest_job_s + SLOW_BUILDS * building_s
        return DurationEstimate(
            jobs=len(self.plan.jobs),
            rounds=settings.rounds,
            reused=reused,
            remaining=remaining,
            remaining_s=((remaining + anchors) * self.job_s + building_s) / boards,
            longest_s=longest * (1.0 + settings.extra_share) / boards,
            boards=boards,
            file_bytes=file_bytes,
        )
