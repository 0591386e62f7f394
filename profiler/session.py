"""Measure a plan into a folder, in rounds, and resume after a kill where the journal ends."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latency_tables.schema import Conditions
from profiler.errors import SessionError
from profiler.journal import JOURNAL_NAME, Journal, JournalState
from profiler.journal_lines import Header
from profiler.measurement import Measurement
from profiler.planning.jobs import JobPlan
from profiler.replies import Reply
from profiler.rounds import run_round
from profiler.run_state import RunState
from profiler.runtimes import file_precision, traits_of
from profiler.scheduling.board_comparison import BoardComparison, compare_boards
from profiler.scheduling.serial import Scheduler
from profiler.settings import ProfileSettings
from profiler.time_budget import DurationEstimate
from profiler.workload_files import BuildFile, WorkloadFolder

#: progress(done, total, label), called before each job and once at the end.
Progress = Callable[[int, int, str], None]
#: Chooses job ids by what is known so far.
Choice = Callable[[Mapping[str, Measurement]], Collection[str]]
#: Extra rounds for jobs so close to each other that another build could change which is faster.
REBUILDS = 2

WORKLOADS_NAME = "workloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """One measurement a job, by its id. The counts are (job, round) pairs, ``failed`` is jobs.

    ``measured`` is what this run did, ``remeasured`` the part of it that the plan alone would not
    have asked for. ``boards`` compares the boards where several shared the work, ``built`` is by
    job what the runtime built of its file first (empty where it builds nothing).
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


@dataclass(kw_only=True)
class Session:
    """A plan being measured; use it as a context manager.

    Opening it reads the journal, so that ``estimate`` knows what is already there, and locks it.
    ``suspects`` are the jobs whose measurements are inconsistent with others, to be measured once
    more; ``close_forms`` those that another build of their engine may decide; ``dropped`` those
    that are too slow to be worth another round.
    """

    plan: JobPlan
    conditions: Conditions
    scheduler: Scheduler
    build: BuildFile
    folder: Path
    settings: ProfileSettings = field(default_factory=ProfileSettings)
    suspects: Choice = lambda known: ()
    close_forms: Choice = lambda known: ()
    dropped: Choice = lambda known: ()
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
        boards = len(self.scheduler.boards())
        dropped = self.dropped(self._known_before(self.settings.rounds))
        return self._run.budget(dropped).estimate(boards, self._missing_bytes(dropped))

    def _missing_bytes(self, dropped: Collection[str]) -> int:
        """About what the files will take that the planned rounds still need."""
        rounds, accepted = range(self.settings.rounds), self._state.accepted
        left = [
            job
            for job in self.plan.jobs
            if job.id not in dropped and any((job.id, n) not in accepted for n in rounds)
        ]
        return self.workloads.missing_bytes([*left, *self.plan.anchors] if left else [])

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
        before = self._counts()
        try:
            self._run_all_rounds(progress)
            # A board that turned out to be unlike the others may have left gaps in earlier rounds.
            self._run_all_rounds(progress)
            last = self.settings.rounds + self.settings.extra_rounds
            for number in range(self.settings.rounds, last):
                self._run_extra_round(number, progress)
        finally:
            self.scheduler.close()
        measurements = {job.id: self.measurement(job.id) for job in self.plan.jobs}
        accepted, discarded, extra = self._counts()
        progress(accepted + discarded, accepted + discarded, "done")
        return SessionResult(
            measurements=measurements,
            reused=before[0],
            measured=accepted + discarded - before[0] - before[1],
            remeasured=discarded + extra - before[1] - before[2],
            failed=sum(measurement.failed for measurement in measurements.values()),
            warnings=tuple(dict.fromkeys(self._state.warnings)),
            environments=tuple(self._state.environments),
            boards=compare_boards(self._state, self.conditions),
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

    def _counts(self) -> tuple[int, int, int]:
        """Replies accepted, replies taken back, and how many of the accepted are extra."""
        accepted = self._state.accepted
        extra = sum(number >= self.settings.rounds for _, number in accepted)
        return len(accepted), len(self._state.discarded), extra

    def _run_round(
        self,
        number: int,
        names: Collection[str],
        progress: Progress,
        dropped: Collection[str],
        rebuilt: Collection[str] = (),
    ) -> None:
        rounds_left = max(0, self.settings.rounds - 1 - number)
        jobs_left = sum(job.id not in dropped for job in self.plan.jobs)

        def report(pending: int, label: str) -> None:
            done = self._state.replies_taken
            progress(done, done + pending + rounds_left * jobs_left, label)

        run_round(self._run, self.scheduler, number, names, report, rebuilt, dropped)

    def _run_all_rounds(self, progress: Progress) -> None:
        for number in range(self.settings.rounds):
            known = self._known_before(number)
            dropped = self.dropped(known)
            names = [n for n, m in known.items() if not m.given_up and n not in dropped]
            self._run_round(number, names, progress, dropped)

    def _known_before(self, number: int) -> dict[str, Measurement]:
        return {job.id: self.measurement(job.id, number) for job in self.plan.jobs}

    def _run_extra_round(self, number: int, progress: Progress) -> None:
        """Measure again what has not converged, the worst first, as far as time allows.

        Before those the jobs that another build may decide, in the first of these rounds.
        """
        known = self._known_before(number)
        dropped = self.dropped(known)
        rebuilt: Collection[str] = ()
        if traits_of(self.conditions).builds and number < self.settings.rounds + REBUILDS:
            rebuilt = self.close_forms(known)
        noisy = sorted(
            (name for name, measurement in known.items() if not measurement.converged),
            key=lambda name: -_uncertainty(known[name]),
        )
        suspects = self.suspects(known) if number == self.settings.rounds else ()
        room_s = self._run.budget(dropped).extra_room_s(before_round=number)
        affordable = []
        for name in dict.fromkeys([*rebuilt, *noisy, *suspects]):
            cost_s = max((reply.took_s for reply in known[name].replies), default=0.0)
            worth_it = not known[name].given_up and name not in dropped
            if cost_s <= room_s and worth_it:
                affordable.append(name)
                room_s -= cost_s
        self._run_round(number, affordable, progress, dropped, rebuilt)


def _uncertainty(measurement: Measurement) -> float:
    return measurement.relative_half_width if measurement.parts else math.inf
