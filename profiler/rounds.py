"""One round of a session: shuffled jobs in stretches between anchors, each outcome journalled.

What is left to do is always derived from the journal, never kept beside it, so a round that was
interrupted anywhere continues by the same code that an uninterrupted one uses. An agent that starts
in the middle of a round measures an anchor first: where the machine has changed meanwhile, the
stretch that was interrupted is measured again like any other that drifted.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from devices.connection import PushedFile
from devices.environment import Environment
from latency_tables.opspec import OpSpecError
from latency_tables.schema import Conditions
from profiler.drift import drift_percent
from profiler.errors import JournalError, SessionError
from profiler.jobs import AnyJob, JobPlan, measure_request, timeout_s
from profiler.journal import Journal, JournalState
from profiler.replies import Failure, Reply
from profiler.schedulers import Scheduler
from profiler.settings import Settings, drift_room_s
from profiler.workload_files import WorkloadFolder

#: report(number of jobs left in the round, label of the next one)
Report = Callable[[int, str], None]

#: So many jobs failing one after the other say something about the machine, not about the jobs.
FAILURES_IN_A_ROW = 5

#: Facts about a machine that no journal may mix.
IDENTITY = ("machine", "cpu_model", "cores", "agent_digest")


@dataclass(kw_only=True)
class RoundRunner:
    """Runs rounds of a plan into a journal. ``unbuildable`` jobs have no file, and the reason."""

    plan: JobPlan
    conditions: Conditions
    settings: Settings
    scheduler: Scheduler
    workloads: WorkloadFolder
    journal: Journal
    clock: Callable[[], float]
    unbuildable: dict[str, Failure] = field(default_factory=dict)
    _files: dict[str, PushedFile] = field(default_factory=dict)
    _failed_in_a_row: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._jobs = {job.id: job for job in self.plan.jobs}

    @property
    def _state(self) -> JournalState:
        return self.journal.state

    def run(self, number: int, names: Collection[str], report: Report) -> None:
        """Measure those of the jobs that have no accepted reply in this round yet."""
        redo = self._judge_stretch(number)
        pending = deque(self._ready(dict.fromkeys([*self._pending(number, names), *redo])))
        if not pending and not self._state.log(number).open:
            return
        self._ready(job.id for job in self.plan.anchors)
        self._start_agent(number)
        self._measure_anchor(number)
        pending.extend(self._ready(self._judge_stretch(number)))
        while pending:
            for _ in range(min(self.settings.anchor_every, len(pending))):
                name = pending.popleft()
                report(len(pending) + 1, self._jobs[name].label)
                if self._measure(name, number):
                    pending.append(name)
            self._measure_anchor(number)
            pending.extend(self._judge_stretch(number))

    def _pending(self, number: int, names: Collection[str]) -> list[str]:
        order = list(self._jobs)
        random.Random(f"{self.settings.seed}/round/{number}").shuffle(order)
        done = self._state.accepted
        return [name for name in order if name in names and (name, number) not in done]

    def _ready(self, names: Iterable[str]) -> list[str]:
        """The jobs whose files are on the device, after bringing there what was not."""
        jobs = {job.id: job for job in (*self.plan.jobs, *self.plan.anchors)}
        ready = []
        for name in names:
            if name not in self._files:
                try:
                    file = self.workloads.file(jobs[name])
                except OpSpecError as error:
                    self.unbuildable[name] = Failure(type="bad_model", message=str(error))
                    continue
                self._files[name] = self.scheduler.push(file)
            ready.append(name)
        return ready

    def _start_agent(self, number: int) -> None:
        environment = self.scheduler.start_round()
        self._check_runtime(environment)
        fingerprint = environment.fingerprint()
        for earlier in self._state.environments[:1]:
            for name in IDENTITY:
                if earlier.get(name) != fingerprint.get(name):
                    raise JournalError(
                        f"{self.journal.path} was begun where {name} is {earlier.get(name)}, here "
                        f"it is {fingerprint.get(name)}: go on there, choose another folder, or "
                        "delete the file"
                    )
        self.journal.environment(number, fingerprint)

    def _check_runtime(self, environment: Environment) -> None:
        wanted, version = self.conditions.runtime, self.conditions.runtime_version
        found = environment.runtimes.get(wanted)
        if found != version:
            raise SessionError(
                f"{self.conditions.device} has {wanted} {found or '(not installed)'}, the "
                f"conditions say {version}: install that one there, or profile the one it has"
            )

    def _execute(self, job: AnyJob, number: int, attempt: int) -> Reply:
        request = measure_request(job, self._files[job.id], self.conditions, self.settings.rule)
        start = self.clock()
        outcome = self.scheduler.execute(request, timeout_s(self.settings.rule))
        reply = Reply(
            job_id=job.id,
            round=number,
            attempt=attempt,
            outcome=outcome,
            took_s=round(self.clock() - start, 4),
        )
        samples = reply.samples
        if samples and self.conditions.clock == "thread_cpu" and samples.cpu_ns is None:
            raise SessionError(
                f"{self.conditions.device} reports no thread CPU time, which the conditions ask "
                'for: use the clock "wall"'
            )
        return reply

    def _measure(self, name: str, number: int) -> bool:
        """Run a job; True where it has to run again later in the round."""
        attempt = self._state.attempts.get((name, number), 0)
        reply = self._execute(self._jobs[name], number, attempt)
        self.journal.reply(reply)
        if reply.failure:
            self._note_failure(reply, reply.failure)
            return False
        self._failed_in_a_row.clear()
        slowed = reply.samples.throttled(self.conditions.clock) if reply.samples else ""
        if not slowed or attempt >= self.settings.repeats or not self._affordable([name], number):
            return False
        self.journal.discard(number, [name], cause="throttled", reason=slowed)
        return True

    def _note_failure(self, reply: Reply, failure: Failure) -> None:
        self._failed_in_a_row.append((reply.job_id, reply.round))
        if len(self._failed_in_a_row) < FAILURES_IN_A_ROW:
            return
        # They are not the jobs' fault, so the next run shall try them again.
        for name, number in self._failed_in_a_row:
            self.journal.discard(number, [name], cause="failures", reason=str(failure))
        raise SessionError(
            f"{FAILURES_IN_A_ROW} jobs failed one after the other on {self.conditions.device}, "
            f"the last one with {failure}" + (f"; {failure.advice}" if failure.advice else "")
        )

    def _measure_anchor(self, number: int) -> None:
        logs = self._state.rounds.values()
        broken = {reply.job_id for log in logs for reply in log.anchors if reply.failure}
        usable = self._files.keys() - broken
        for job in self.plan.anchors:
            if job.id in usable:
                attempt = len(self._state.log(number).anchors)
                self.journal.anchor(self._execute(job, number, attempt))
                return
        reason = f"no anchor could be measured: drift in round {number} is not known"
        self.journal.keep(number, reason)

    def _judge_stretch(self, number: int) -> list[str]:
        """Take back the stretch before the last anchor where the machine drifted meanwhile.

        It follows from the journal alone, so it may be asked again after a kill.
        """
        log = self._state.log(number)
        change = drift_percent(log.anchors, self.conditions, self.settings.drift_limit)
        if change is None or not log.closed:
            return []
        timed = [name for name in log.closed if self._state.accepted[name, number].samples]
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
                f"round {number}: {kept} measurements were kept although the anchor moved by "
                f"{change:+.1f} % around them",
            )
        return again

    def _affordable(self, names: Iterable[str], number: int) -> bool:
        cost_s = sum(self._state.accepted[name, number].took_s for name in names)
        return cost_s <= drift_room_s(self.plan, self.settings, self._state)
