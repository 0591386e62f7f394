"""One board's part in a round: it takes jobs from the queue and measures them, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from profiler.board_checks import check_clock, check_conditions, check_identity
from profiler.errors import BoardLostError, DeviceMemoryError, JournalError, SessionError
from profiler.journal_lines import EnvironmentLine, SharedLine, WarningLine
from profiler.planning.jobs import AnyJob, measure_request, timeout_s
from profiler.replies import Failure, Reply
from profiler.run_state import Round, RunState
from profiler.runtimes import traits_of
from profiler.scheduling.board_protocol import Board
from profiler.scheduling.serial import Scheduler

#: So many failures in a row point to the machine, not to the jobs.
FAILURES_IN_A_ROW = 5
#: Jobs that a board takes at once: their files are brought to it together.
TAKEN_AT_ONCE = 20


@dataclass(kw_only=True)
class Lane:
    """A board at work on a round. It ends where nothing is left, or the board is excluded."""

    name: str
    board: Board
    round: Round
    run: RunState
    scheduler: Scheduler
    _taken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._state = self.run.board(self.name)

    async def measure(self) -> None:
        """Measure until the queue is empty; what was taken and not measured goes back there."""
        if self.name in self.run.excluded:
            return
        try:
            await self._work()
        except BoardLostError:
            # Whatever comes back under that name has none of the files.
            self._state.files.clear()
        except (SessionError, JournalError) as error:
            self._state.files.clear()
            self.run.excluded[self.name] = error
            if self.scheduler.lanes > 1:
                reason = f"{self.name} was excluded from the run: {error}"
                self.run.journal.record(WarningLine(board=self.name, reason=reason))
        finally:
            self.round.queue.put_back(self._taken)

    async def _work(self) -> None:
        if not self._take():
            return
        await self._begin()
        while self._taken or self._take():
            await self._measure_shared()
            await self._push([self.run.jobs[name] for name in self._taken])
            while self._taken:
                left = len(self.round.queue) + len(self._taken)
                self.round.report(left, self.run.jobs[self._taken[0]].label)
                await self._measure_next()
            await self.run.builds.keep(self.board)

    def _take(self) -> bool:
        self._taken += self.round.queue.take(TAKEN_AT_ONCE, self.scheduler.lanes)
        return bool(self._taken)

    async def _begin(self) -> None:
        environment = await self.board.begin()
        check_conditions(self.name, environment, self.run.conditions)
        fingerprint = environment.fingerprint()
        check_identity(self.name, fingerprint, self.run.journal, self.run.conditions)
        self.run.journal.record(
            EnvironmentLine(round=self.round.number, board=self.name, environment=fingerprint)
        )
        await self.run.builds.begin(self.name, self.board, fingerprint)

    async def _push(self, jobs: Sequence[AnyJob]) -> None:
        """Bring to the board the files of these jobs that it does not have yet."""
        wanted = ((job.id, self.run.file(job)) for job in jobs if job.id not in self._state.files)
        new = {name: file for name, file in wanted if file is not None}
        if new:
            # A network and the profile of its layers are one file.
            files = tuple(dict.fromkeys(new.values()))
            pushed = dict(zip(files, await self.board.push(files), strict=True))
            self._state.files.update({name: pushed[file] for name, file in new.items()})

    async def _execute(self, jobs: Sequence[AnyJob], attempts: Sequence[int]) -> list[Reply]:
        run, conditions, rule = self.run, self.run.conditions, self.run.settings.rule
        requests = [
            measure_request(
                job,
                self._state.files[job.id],
                conditions,
                rule,
                run.builds.options(self.name, job, self.round.number),
                resources=self.round.number < run.settings.resource_rounds,
            )
            for job in jobs
        ]
        takes_long = traits_of(conditions).builds or conditions.launch == "compiled"
        start = run.clock()
        outcomes = await self.board.execute(requests, timeout_s(rule, builds=takes_long))
        # Time spent on broken links is not part of what a visit costs.
        spent_s = run.clock() - start - sum(outcome.lost_s for outcome in outcomes)
        replies = [
            Reply(
                job_id=job.id,
                round=self.round.number,
                attempt=attempt,
                board=self.name,
                outcome=outcome.result,
                took_s=round(max(0.0, spent_s) / len(jobs), 4),
            )
            for job, attempt, outcome in zip(jobs, attempts, outcomes, strict=True)
        ]
        check_clock(replies, conditions)
        run.builds.note(replies)
        return replies

    async def _measure_next(self) -> None:
        """Run the first jobs of those taken; what has to run again goes back into the queue."""
        names = self._taken[: self.scheduler.jobs_at_once]
        attempts = [self.run.known.attempts.get((n, self.round.number), 0) for n in names]
        replies = await self._execute([self.run.jobs[name] for name in names], attempts)
        self.run.journal.record(*replies)
        del self._taken[: len(names)]
        for reply in replies:
            if reply.failure and self._take_back_missing(reply, reply.failure):
                self.round.queue.put([reply.job_id])
            elif reply.failure:
                self._note_failure(reply, reply.failure)
            else:
                self._state.failed_in_a_row.clear()
                if self.run.take_back_disturbed(reply):
                    self.round.queue.put([reply.job_id])

    def _take_back_missing(self, reply: Reply, failure: Failure) -> bool:
        """Take back that a file was missing: a worker that was restarted has none of them."""
        if failure.type != "missing_file" or reply.attempt >= self.run.settings.repeats:
            return False
        self._state.files.pop(reply.job_id, None)
        self.run.journal.discard(
            reply.round, [reply.job_id], cause="failures", reason=failure.message
        )
        return True

    def _note_failure(self, reply: Reply, failure: Failure) -> None:
        failed = self._state.failed_in_a_row
        failed.append(reply)
        if len(failed) < FAILURES_IN_A_ROW:
            return
        # They are not the jobs' fault, so the next run tries them again.
        for one in failed:
            self.run.journal.discard(one.round, [one.job_id], cause="failures", reason=str(failure))
        types = {one.failure.type for one in failed if one.failure}
        kind = DeviceMemoryError if types == {"out_of_memory"} else SessionError
        raise kind(
            f"{FAILURES_IN_A_ROW} jobs failed one after the other on {self.name}, "
            f"the last one with {failure}" + (f"; {failure.advice}" if failure.advice else "")
        )

    async def _measure_shared(self) -> None:
        """Measure what several boards are compared by, unless this one did in this round."""
        jobs = self._missing_shared() if self.scheduler.lanes > 1 else []
        await self._push(jobs)
        there = [job for job in jobs if job.id in self._state.files]
        if there:
            replies = await self._execute(there, [0] * len(there))
            self.run.journal.record(*map(SharedLine, replies))

    def _missing_shared(self) -> list[AnyJob]:
        """Those that this board lacks in this round; what failed on any board is left out."""
        known, number = self.run.known.shared, self.round.number
        failed = {reply.job_id for reply in known.values() if reply.failure}
        names = (name for name in self.run.plan.shared if name not in failed)
        return [self.run.jobs[name] for name in names if (name, number, self.name) not in known]
