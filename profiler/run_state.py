"""What the rounds of a run share: its records, and what is known of files, engines and boards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from devices.connection import PushedFile
from latency_tables.opspec import OpSpecError
from latency_tables.schema import Conditions
from profiler.builds import Builds
from profiler.errors import ProfilerError
from profiler.journal import Journal, JournalState
from profiler.journal_lines import Cause
from profiler.planning.jobs import AnyJob, JobPlan
from profiler.replies import Failure, Reply
from profiler.scheduling.work_queue import WorkQueue
from profiler.settings import ProfileSettings
from profiler.workload_files import WorkloadFolder

#: report(number of jobs left in the round, label of the next one)
Report = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One pass over jobs, in their order in ``queue``."""

    number: int
    queue: WorkQueue
    report: Report


@dataclass(slots=True)
class BoardState:
    """What a run knows of a board: the files there, by job, and its last jobs that all failed."""

    files: dict[str, PushedFile] = field(default_factory=dict)
    failed_in_a_row: list[Reply] = field(default_factory=list)


@dataclass(kw_only=True)
class RunState:
    """A plan being measured into a journal.

    ``unbuildable`` jobs have no file, and the reason. ``excluded`` boards get no more jobs; they
    are in the order of their exclusion, with the reason.
    """

    plan: JobPlan
    conditions: Conditions
    settings: ProfileSettings
    workloads: WorkloadFolder
    journal: Journal
    clock: Callable[[], float]
    unbuildable: dict[str, Failure] = field(default_factory=dict)
    excluded: dict[str, ProfilerError] = field(default_factory=dict)
    boards: dict[str, BoardState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.jobs: dict[str, AnyJob] = {job.id: job for job in self.plan.jobs}
        self.builds = Builds(
            conditions=self.conditions, workloads=self.workloads.folder, jobs=self.jobs
        )
        known = self.known
        self.builds.note([*known.discarded, *known.accepted.values(), *known.shared.values()])

    @property
    def known(self) -> JournalState:
        """What the journal holds."""
        return self.journal.state

    def board(self, name: str) -> BoardState:
        return self.boards.setdefault(name, BoardState())

    def file(self, job: AnyJob) -> Path | None:
        """The job's file, written where it is missing; None where it cannot be."""
        if job.id not in self.unbuildable:
            try:
                return self.workloads.file(job)
            except OpSpecError as error:
                self.unbuildable[job.id] = Failure(type="bad_model", message=str(error))
        return None

    def take_back_disturbed(self, reply: Reply) -> bool:
        """Take back a reply that was throttled or disturbed, unless it was repeated often enough.

        It follows from the journal alone, so it may be asked again after a kill.
        """
        if reply.samples is None or reply.attempt >= self.settings.repeats:
            return False
        cause: Cause = "throttled"
        reason = reply.samples.throttled(self.conditions.clock)
        if not reason and not reply.samples.undisturbed:
            cause = "disturbed"
            reason = f"{reply.samples.disturbed} of {len(reply.samples.wall_ns)} samples disturbed"
        if reason:
            self.journal.discard(reply.round, [reply.job_id], cause=cause, reason=reason)
        return bool(reason)
