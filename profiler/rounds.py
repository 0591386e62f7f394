"""One round of a session: shuffled jobs in stretches between anchors, each outcome journalled.

What is left to do is always derived from the journal, never kept beside it, so a round that was
interrupted anywhere continues by the same code that an uninterrupted one uses. Each board works in
a lane of its own, with its own anchors and stretches: drift is a board's. A run that goes on in the
middle of a round measures an anchor first: where the machine has changed meanwhile, the stretch
that was interrupted is measured again like any other that drifted. An agent that is lost and
replaced within a stretch is covered by the anchors around that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devices.connection import PushedFile
from devices.environment import Environment
from latency_tables.opspec import OpSpecError
from latency_tables.schema import Conditions
from profiler.boards import compare_boards
from profiler.builds import Builds
from profiler.drift import drift_percent
from profiler.errors import BoardLostError, JournalError, ProfilerError, SessionError
from profiler.jobs import AnyJob, JobPlan, measure_request, timeout_s
from profiler.journal import Journal, JournalState
from profiler.replies import Failure, Reply
from profiler.runtimes import processor_of, traits_of
from profiler.schedulers import Scheduler
from profiler.settings import Settings, drift_room_s
from profiler.steps import Begin, Execute, Lane, Push, Step
from profiler.work_queue import WorkQueue
from profiler.workload_files import WorkloadFolder

#: report(number of jobs left in the round, label of the next one)
Report = Callable[[int, str], None]
_Steps = Generator[Step, object, None]
_Facts = Mapping[str, Any]

#: So many jobs failing one after the other say something about the machine, not about the jobs.
FAILURES_IN_A_ROW = 5

#: So often boards may all go away without having measured anything.
STALLS_ALLOWED = 3

#: Facts about a machine that no journal may mix.
IDENTITY = ("machine", "cpu_model", "cores", "agent_digest")
#: The same about a GPU, where one does the work.
GPU_IDENTITY = ("name", "compute_capability", "memory_mib", "driver")


def _no_report(left: int, label: str) -> None:
    pass


@dataclass(kw_only=True)
class RoundRunner:
    """Runs rounds of a plan into a journal. ``unbuildable`` jobs have no file, and the reason.

    ``unfit`` are the boards of this run that take no more jobs, and why.
    """

    plan: JobPlan
    conditions: Conditions
    settings: Settings
    scheduler: Scheduler
    workloads: WorkloadFolder
    journal: Journal
    clock: Callable[[], float]
    unbuildable: dict[str, Failure] = field(default_factory=dict)
    unfit: dict[str, ProfilerError] = field(default_factory=dict)
    _queue: WorkQueue = field(default_factory=lambda: WorkQueue((), {}))
    _files: dict[tuple[str, str], PushedFile] = field(default_factory=dict)
    _failed_in_a_row: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    _report: Report = _no_report
    _hopeless: Collection[str] = ()

    def __post_init__(self) -> None:
        self._jobs = {job.id: job for job in self.plan.jobs}
        self._any_job = {job.id: job for job in (*self.plan.jobs, *self.plan.anchors)}
        self.builds = Builds(
            conditions=self.conditions,
            workloads=self.workloads.folder,
            jobs=self._any_job,
            rounds=self.settings.rounds,
        )
        self.builds.note(self._state.discarded)
        self.builds.note(self._state.accepted.values())
        for log in self._state.rounds.values():
            self.builds.note(log.anchors)

    @property
    def _state(self) -> JournalState:
        return self.journal.state

    def run(
        self,
        number: int,
        names: Collection[str],
        report: Report,
        rebuilt: Collection[str] = (),
        hopeless: Collection[str] = (),
    ) -> None:
        """Measure those of the jobs that have no accepted reply in this round yet.

        ``rebuilt`` are those whose engine is built anew in an extra round, ``hopeless`` those that
        get no more rounds.
        """
        self.builds.rebuilt = rebuilt
        self._hopeless = hopeless
        self._report = report
        self._queue = WorkQueue(self._pending(number, names), self._state.homes())
        for board in self._state.logs_of(number):
            self._queue.put(self._judge_stretch(board, number))
        self._queue.put(self._part_with_strangers(number))
        self._build_files()
        stalls = 0
        while self._queue or self._is_open(number):
            done = self._state.replies_taken
            self.scheduler.drive(lambda board: self._lane(board, number))
            self._check_able()
            self._queue.put(self._part_with_strangers(number))
            self._keep_open_stretches(number)
            stalls = stalls + 1 if self._state.replies_taken == done else 0
            if stalls > STALLS_ALLOWED:
                raise SessionError(
                    f"the boards of {self.conditions.device} come and go without measuring "
                    "anything: see what their workers log, then give the same command again"
                )

    def _pending(self, number: int, names: Collection[str]) -> list[str]:
        order = list(self._jobs)
        random.Random(f"{self.settings.seed}/round/{number}").shuffle(order)
        done, wanted = self._state.accepted, set(names)
        return [
            name
            for name in order
            if name in wanted and (name, number) not in done and name not in self.unbuildable
        ]

    def _is_open(self, number: int) -> bool:
        """Whether a stretch that an interrupted run left has no anchor behind it yet."""
        return any(log.open for log in self._state.logs_of(number).values())

    def _build_files(self) -> None:
        """Write the files before any clock runs."""
        self._queue.remove(name for name in self._queue.names if self._file(name) is None)

    def _lane(self, board: str, number: int) -> Lane:
        """One board's part in the round. It ends where nothing is left, or the board is unfit."""
        taken: list[str] = []
        if board in self.unfit:
            return
        try:
            yield from self._work(board, number, taken)
        except BoardLostError:
            self._forget(board)
        except (SessionError, JournalError) as error:
            self._forget(board)
            self.unfit[board] = error
            if self.scheduler.lanes > 1:
                self.journal.warn(board, f"{board} took no further part: {error}")
        finally:
            self._queue.put_back(taken)

    def _forget(self, board: str) -> None:
        """Whatever comes back under that name has none of the files."""
        for key in [key for key in self._files if key[0] == board]:
            del self._files[key]

    def _work(self, board: str, number: int, taken: list[str]) -> _Steps:
        if not self._take(board, taken) and not self._state.log(number, board).open:
            return
        yield from self._begin(board, number)
        if is_open := bool(self._state.log(number, board).open):
            yield from self._measure_anchors(board, number)
            self._queue.put(self._judge_stretch(board, number))
        if self.scheduler.lanes > 1:
            # By what all of them measure the boards are compared.
            yield from self._measure_anchors(board, number, len(self.plan.anchors))
        elif not is_open:
            yield from self._measure_anchors(board, number)
        while taken or self._take(board, taken):
            yield from self._push(board, taken)
            while taken:
                self._report(len(self._queue) + len(taken), self._jobs[taken[0]].label)
                yield from self._measure(board, taken, number)
            yield from self.builds.keep()
            yield from self._measure_anchors(board, number)
            self._queue.put(self._judge_stretch(board, number))

    def _take(self, board: str, taken: list[str]) -> bool:
        taken += self._queue.take(board, self.settings.anchor_every, self.scheduler.lanes)
        return bool(taken)

    def _begin(self, board: str, number: int) -> _Steps:
        environment = yield Begin()
        assert isinstance(environment, Environment)
        self._check_conditions(board, environment)
        fingerprint = environment.fingerprint()
        for earlier in self._state.environments[:1]:
            self._check_same(board, IDENTITY, earlier, fingerprint)
            if processor_of(self.conditions) == "gpu":
                gpus = (earlier.get("gpu") or {}, fingerprint.get("gpu") or {})
                self._check_same(board, GPU_IDENTITY, *gpus, of="the GPU's ")
        same_board = self._state.first_of_board.get(board, fingerprint)
        self._check_same(board, ["board"], same_board, fingerprint)
        self.journal.environment(number, board, fingerprint)
        yield from self.builds.begin(board, fingerprint)
        yield from self._push(board, [job.id for job in self.plan.anchors])

    def _check_same(
        self, board: str, names: Iterable[str], earlier: _Facts, now: _Facts, of: str = ""
    ) -> None:
        for name in names:
            if earlier.get(name) != now.get(name):
                raise JournalError(
                    f"{self.journal.path} was begun where {of}{name} is {earlier.get(name)}, on "
                    f"{board} it is {now.get(name)}: go on there, choose another "
                    "folder, or delete the file"
                )

    def _check_conditions(self, board: str, environment: Environment) -> None:
        wanted, version = self.conditions.runtime, self.conditions.runtime_version
        found = environment.runtimes.get(wanted)
        on_gpu = processor_of(self.conditions) == "gpu"
        mode = environment.gpu_clock_mode if on_gpu else environment.clock_mode
        if found != version:
            raise SessionError(
                f"{board} has {wanted} {found or '(not installed)'}, the "
                f"conditions say {version}: install that one there, or profile the one it has"
            )
        if mode != self.conditions.power_mode:
            raise SessionError(
                f"{board} is in power mode {mode}, the conditions say "
                f"{self.conditions.power_mode}: set that one there, or begin in another folder"
            )

    def _push(self, board: str, names: list[str]) -> _Steps:
        """Bring to the board the files of these jobs that it does not have yet."""
        wanted = ((name, self._file(name)) for name in names if (board, name) not in self._files)
        new = {name: file for name, file in wanted if file is not None}
        if new:
            pushed = yield Push(files=tuple(new.values()))
            assert isinstance(pushed, tuple)
            self._files.update(zip(((board, name) for name in new), pushed, strict=True))

    def _file(self, name: str) -> Path | None:
        """The job's file, written where it is missing; None where it cannot be."""
        if name not in self.unbuildable:
            try:
                return self.workloads.file(self._any_job[name])
            except OpSpecError as error:
                self.unbuildable[name] = Failure(type="bad_model", message=str(error))
        return None

    def _execute(
        self, board: str, jobs: Sequence[AnyJob], number: int, attempts: Sequence[int]
    ) -> Generator[Step, object, list[Reply]]:
        rule = self.settings.rule
        requests = (
            measure_request(
                job,
                self._files[board, job.id],
                self.conditions,
                rule,
                self.builds.options(board, job, number),
            )
            for job in jobs
        )
        start = self.clock()
        takes_long = traits_of(self.conditions).builds or self.conditions.launch == "compiled"
        limit_s = timeout_s(rule, builds=takes_long)
        outcomes = yield Execute(requests=tuple(requests), timeout_s=limit_s)
        assert isinstance(outcomes, tuple)
        # What was spent on broken links says nothing about what a repetition would cost.
        spent_s = self.clock() - start - sum(outcome.lost_s for outcome in outcomes)
        took_s = round(max(0.0, spent_s) / len(jobs), 4)
        replies = [
            Reply(
                job_id=job.id,
                round=number,
                attempt=attempt,
                board=board,
                outcome=outcome.result,
                took_s=took_s,
            )
            for job, attempt, outcome in zip(jobs, attempts, outcomes, strict=True)
        ]
        self._check_clock(replies)
        self.builds.note(replies)
        return replies

    def _check_clock(self, replies: Iterable[Reply]) -> None:
        wanted = self.conditions.clock
        for reply in replies:
            samples = reply.samples
            if wanted == "thread_cpu" and samples and samples.cpu_ns is None:
                raise SessionError(
                    f"{reply.board} reports no thread CPU time, which the conditions ask for: use "
                    'the clock "wall"'
                )
            if wanted == "cuda_events" and samples and samples.device_ns is None:
                raise SessionError(
                    f"{reply.board} reports no times of its GPU, which the conditions ask for: "
                    "bring host and agent to the same version of dshrink"
                )

    def _measure(self, board: str, taken: list[str], number: int) -> _Steps:
        """Run the first jobs of those taken; what has to run again goes back into the queue."""
        names = taken[: self.scheduler.jobs_at_once]
        attempts = [self._state.attempts.get((name, number), 0) for name in names]
        jobs = [self._jobs[name] for name in names]
        replies = yield from self._execute(board, jobs, number, attempts)
        self.journal.replies(replies)
        del taken[: len(names)]
        for reply in replies:
            if reply.failure:
                self._note_failure(reply, reply.failure)
            else:
                self._failed_in_a_row.pop(board, None)
                self._queue.put(self._if_throttled(reply))

    def _if_throttled(self, reply: Reply) -> list[str]:
        """Take the reply back where it was throttled; returns the job that has to run again."""
        slowed = reply.samples.throttled(self.conditions.clock) if reply.samples else ""
        again = [reply.job_id]
        if (
            not slowed
            or reply.attempt >= self.settings.repeats
            or not self._affordable(again, reply.round)
        ):
            return []
        self.journal.discard(reply.round, again, cause="throttled", reason=slowed)
        return again

    def _note_failure(self, reply: Reply, failure: Failure) -> None:
        failed = self._failed_in_a_row.setdefault(reply.board, [])
        failed.append((reply.job_id, reply.round))
        if len(failed) < FAILURES_IN_A_ROW:
            return
        # They are not the jobs' fault, so the next run shall try them again.
        for name, number in failed:
            self.journal.discard(number, [name], cause="failures", reason=str(failure))
        raise SessionError(
            f"{FAILURES_IN_A_ROW} jobs failed one after the other on {reply.board}, "
            f"the last one with {failure}" + (f"; {failure.advice}" if failure.advice else "")
        )

    def _measure_anchors(self, board: str, number: int, most: int = 1) -> _Steps:
        """Close the open stretch; the best anchor comes last, next to what it is compared with."""
        jobs = self._usable_anchors(board)[:most][::-1]
        if not jobs:
            reason = f"no anchor could be measured: drift in round {number} is not known"
            self.journal.keep(number, board, reason)
            return
        first = len(self._state.log(number, board).anchors)
        attempts = range(first, first + len(jobs))
        replies = yield from self._execute(board, jobs, number, attempts)
        for reply in replies:
            self.journal.anchor(reply)

    def _usable_anchors(self, board: str) -> list[AnyJob]:
        replies = (reply for log in self._state.rounds.values() for reply in log.anchors)
        broken = {reply.job_id for reply in replies if reply.failure}
        files = self._files
        return [j for j in self.plan.anchors if (board, j.id) in files and j.id not in broken]

    def _judge_stretch(self, board: str, number: int) -> list[str]:
        """Take back the stretch before the last anchor where the machine drifted meanwhile.

        It follows from the journal alone, so it may be asked again after a kill.
        """
        log = self._state.log(number, board)
        change = drift_percent(log.anchors, self.conditions, self.settings.drift_limit)
        if change is None or not log.closed:
            return []
        accepted = self._state.accepted
        timed = [name for name in log.closed if accepted[name, number].failure is None]
        repeats = self.settings.repeats
        again = [name for name in timed if self._state.attempts[name, number] <= repeats]
        if not self._affordable(again, number):
            again = []
        if again:
            reason = f"the anchor moved by {change:+.1f} %"
            self.journal.discard(number, again, cause="drift", reason=reason)
        if kept := len(timed) - len(again):
            self.journal.keep(
                number,
                board,
                f"round {number}: {kept} measurements were kept although the anchor moved by "
                f"{change:+.1f} % around them",
            )
        return again

    def _affordable(self, names: Iterable[str], number: int) -> bool:
        cost_s = sum(self._state.accepted[name, number].took_s for name in names)
        return cost_s <= drift_room_s(self.plan, self.settings, self._state, self._hopeless)

    def _part_with_strangers(self, number: int) -> list[str]:
        """Take back what a board measured that is not like the others; it takes no more jobs.

        One that changed in this round loses this round, one that is another altogether loses all.
        """
        again: list[str] = []
        for scope in (number, None):
            found = compare_boards(self._state, self.conditions, number=scope, without=self.unfit)
            for stranger in (one for one in found if not one.agrees):
                self.unfit[stranger.board] = SessionError(stranger.reason)
                for known, names in self._state.measured_by(stranger.board).items():
                    if scope is None or known == scope:
                        self.journal.discard(known, names, cause="board", reason=stranger.reason)
                        again += names if known == number else []
        return again

    def _keep_open_stretches(self, number: int) -> None:
        """Accept what boards that went away measured last: no anchor will close it."""
        for board, log in self._state.logs_of(number).items():
            if log.open:
                self.journal.keep(
                    number,
                    board,
                    f"round {number}: {board} went away; its last {len(log.open)} measurements "
                    "were kept without an anchor behind them",
                )

    def _check_able(self) -> None:
        """Raise what made the last board unfit where none is left."""
        if self.unfit and not set(self.scheduler.boards()) - self.unfit.keys():
            raise next(reversed(self.unfit.values()))
