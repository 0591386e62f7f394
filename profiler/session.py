"""Measure a plan into a folder, in rounds, and resume after a kill where the journal ends.

Where the memory of a process lies moves a latency by a per cent, and a shared machine has stretches
in which everything is slower. So a session is many short rounds, each in a fresh process, and what
a round measures is a ``schedule``'s choice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latency_tables.schema import Conditions
from latency_tables.wording import counted
from profiler.duration import DurationEstimate, job_s
from profiler.errors import SessionError
from profiler.journal import JOURNAL_NAME, Journal, JournalState
from profiler.journal_lines import Header
from profiler.measurement import Measurement
from profiler.planning.jobs import JobPlan
from profiler.replies import BAD_REPLY, Reply
from profiler.rounds import run_round
from profiler.run_state import Report, RunState
from profiler.runtimes import file_precision
from profiler.schedule import Known, Schedule
from profiler.scheduling.board_comparison import BoardComparison, compare_boards
from profiler.scheduling.serial import Scheduler
from profiler.settings import ProfileSettings
from profiler.workload_files import BuildFile, WorkloadFolder

#: progress(done, total, label), called before each job and once at the end.
Progress = Callable[[int, int, str], None]

WORKLOADS_NAME = "workloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """One measurement a job, by its id. The counts are (job, round) pairs, ``failed`` is jobs.

    ``measured`` is what this run did, ``remeasured`` the part of it that was taken back.
    ``boards`` compares the boards where several shared the work, ``built`` is by job what the
    runtime built of its file first (empty where it builds nothing).
    """

    measurements: Mapping[str, Measurement]
    reused: int
    measured: int
    remeasured: int
    failed: int
    warnings: tuple[str, ...]
    environments: tuple[Mapping[str, Any], ...]
    boards: tuple[BoardComparison, ...]
    built: Mapping[str, Mapping[str, Any]]

    @property
    def counts(self) -> str:
        """How much was measured, reused and lost, in one line."""
        return (
            f"{counted(self.measured, 'measurement')} made ({self.remeasured} of them again), "
            f"{self.reused} reused from the journal, {counted(self.failed, 'job')} failed"
        )


@dataclass(kw_only=True)
class Session:
    """A plan being measured; use it as a context manager.

    Opening it reads the journal, so that ``estimate`` knows what is already there, and locks it.
    """

    plan: JobPlan
    conditions: Conditions
    scheduler: Scheduler
    build: BuildFile
    folder: Path
    schedule: Schedule
    settings: ProfileSettings = field(default_factory=ProfileSettings)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        header = Header(
            conditions=self.conditions.to_json(),
            seed=self.settings.seed,
            plan=self.plan.digest,
            rule=dict(self.settings.rule._asdict()),
        )
        self.workloads = WorkloadFolder(
            folder=self.folder / WORKLOADS_NAME,
            build=self.build,
            batch=self.conditions.batch,
            precision=file_precision(self.conditions),
        )
        self._journal = Journal(self.folder / JOURNAL_NAME, header)
        self._run = RunState(
            plan=self.plan,
            conditions=self.conditions,
            settings=self.settings,
            workloads=self.workloads,
            journal=self._journal,
            clock=self.clock,
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self._journal.close()

    @property
    def _state(self) -> JournalState:
        return self._journal.state

    @property
    def estimate(self) -> DurationEstimate:
        """What is left to do, and how long it will take."""
        accepted, boards = self._state.accepted, max(1, len(self.scheduler.boards()))
        number, names = self._open_round()
        left = self.schedule.estimate(number, self._known(number))[0] if names else 0
        remaining = max(0, left - sum((name, number) in accepted for name in names))
        each_s = job_s(self.settings, accepted.values())
        return DurationEstimate(
            jobs=len(self.schedule.next_round(0, self._known(0))),
            reused=len(accepted),
            remaining=remaining,
            remaining_s=remaining * each_s / boards,
            boards=boards,
            file_bytes=self.workloads.missing_bytes(self._run.jobs[name] for name in names),
        )

    def _open_round(self) -> tuple[int, Collection[str]]:
        """The first round that the journal does not hold all of, and its jobs."""
        number = 0
        while names := self.schedule.next_round(number, self._known(number)):
            if any((name, number) not in self._state.accepted for name in names):
                break
            number += 1
        return number, names

    def _check_disk(self) -> None:
        needed, free = self.estimate.file_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise SessionError(
                f"{self.folder} has {free / 1e9:.1f} GB free, the files to measure take about "
                f"{needed / 1e9:.1f} GB: make room, choose another folder, or, of spans, measure "
                "fewer (--max-kernel)"
            )

    def run(self, progress: Progress = lambda done, total, label: None) -> SessionResult:
        """Measure what the journal does not hold yet.

        Raises SessionError where nothing can be measured at all, JournalError where the journal
        was begun on another machine. What was measured until then stays in the journal.
        """
        self._check_disk()
        self._take_back_bad_replies()
        before = self._counts()
        try:
            self._run_rounds(progress)
        finally:
            self.scheduler.close()
        measurements = {job.id: self.measurement(job.id) for job in self.plan.jobs}
        accepted, discarded = self._counts()
        progress(accepted, accepted, "done")
        return SessionResult(
            measurements=measurements,
            reused=before[0],
            measured=accepted + discarded - before[0] - before[1],
            remeasured=discarded - before[1],
            failed=sum(one.failed for one in measurements.values() if one.replies),
            warnings=tuple(dict.fromkeys(self._state.warnings)),
            environments=tuple(self._state.environments),
            boards=compare_boards(self._state, self.conditions, self.plan.shared),
            built={job.id: self._run.builds.facts(job) for job in self.plan.jobs},
        )

    def measurement(self, job_id: str, before_round: int | None = None) -> Measurement:
        """What is known about a job, from the rounds before ``before_round`` where given."""
        replies = self._state.replies(job_id)
        if before_round is not None:
            replies = tuple(reply for reply in replies if reply.round < before_round)
        if failure := self._run.unbuildable.get(job_id):
            replies = (Reply(job_id=job_id, round=0, attempt=0, board="", outcome=failure),)
        return Measurement(
            job_id=job_id,
            replies=replies,
            clock=self.conditions.clock,
            statistic=self.conditions.statistic,
            rounds_wanted=self.settings.rounds,
            half_width=self.settings.half_width,
        )

    def _counts(self) -> tuple[int, int]:
        """Replies accepted, and replies taken back."""
        return len(self._state.accepted), len(self._state.discarded)

    def _known(self, before_round: int) -> Known:
        return Known(
            measurements={job.id: self.measurement(job.id, before_round) for job in self.plan.jobs},
            spent_s=self._state.spent_s(before_round),
        )

    def _take_back_bad_replies(self) -> None:
        """Ask again what an earlier run was answered without sense: it says nothing of the job."""
        for reply in list(self._state.accepted.values()):
            if reply.failure and reply.failure.type == BAD_REPLY:
                self._journal.discard(
                    reply.round, [reply.job_id], cause="failures", reason=str(reply.failure)
                )

    def _run_rounds(self, progress: Progress) -> None:
        number = 0
        while True:
            known = self._known(number)
            names = self.schedule.next_round(number, known)
            if not names:
                return
            excluded = len(self._run.excluded)
            report = self._report(number, known, progress)
            run_round(self._run, self.scheduler, number, names, report)
            # A board that turned out to be unlike the others may have left gaps in earlier rounds.
            number = 0 if len(self._run.excluded) > excluded else number + 1

    def _report(self, number: int, known: Known, progress: Progress) -> Report:
        left, label = self.schedule.estimate(number, known)
        total = left + sum(one < number for _, one in self._state.accepted)

        def report(pending: int, job: str) -> None:
            done = len(self._state.accepted)
            progress(done, max(total, done + pending), ", ".join(filter(None, (label, job))))

        return report
