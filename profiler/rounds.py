"""Rounds of a session: shuffled jobs, a fresh agent on each board, each outcome journalled.

What is left to do is always derived from the journal, never stored separately, so a round that was
interrupted anywhere is resumed by the same code that runs an uninterrupted one. A visit that was
disturbed is repeated at the end of its round. Each board works in a lane of its own.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from profiler.errors import SessionError
from profiler.lane import Lane
from profiler.run_state import Report, Round, RunState
from profiler.scheduling.board_comparison import compare_boards
from profiler.scheduling.serial import Scheduler
from profiler.scheduling.work_queue import WorkQueue

#: So often all boards may be lost without a measurement.
STALLS_ALLOWED = 3


def run_round(
    run: RunState, scheduler: Scheduler, number: int, names: Collection[str], report: Report
) -> None:
    """Measure those of the jobs that have no accepted reply in this round yet.

    Raises SessionError where no board is left that can measure.
    """
    # A run that was killed may not have come to these two.
    for reply in [one for one in run.known.accepted.values() if one.round == number]:
        run.take_back_disturbed(reply)
    _exclude_outliers(run, number)
    queue = WorkQueue(_pending(run, number, names))
    current = Round(number=number, queue=queue, report=report)
    # Files are written before any clock runs.
    queue.remove([name for name in queue.names if run.file(run.jobs[name]) is None])
    stalls = 0
    while queue:
        done = run.known.replies_taken
        scheduler.drive(
            lambda name, board: Lane(
                name=name, board=board, round=current, run=run, scheduler=scheduler
            ).measure()
        )
        _check_boards_left(run, scheduler)
        queue.put(_exclude_outliers(run, number))
        stalls = stalls + 1 if run.known.replies_taken == done else 0
        if stalls > STALLS_ALLOWED:
            raise SessionError(
                f"the boards of {run.conditions.device} connect and disconnect without a "
                "measurement: see the logs of their workers, then run the same command again"
            )


def _pending(run: RunState, number: int, names: Collection[str]) -> list[str]:
    order = list(run.jobs)
    random.Random(f"{run.settings.seed}/round/{number}").shuffle(order)
    done, wanted = run.known.accepted, set(names)
    return [
        name
        for name in order
        if name in wanted and (name, number) not in done and name not in run.unbuildable
    ]


def _exclude_outliers(run: RunState, number: int) -> list[str]:
    """Take back what a board measured that differs from the others; it takes no more jobs.

    One that changed in this round loses this round, one that differs over all rounds loses all.
    Returns the jobs of this round that have to run again.
    """
    again: list[str] = []
    for scope in (number, None):
        found = compare_boards(
            run.known,
            run.conditions,
            run.plan.shared,
            number=scope,
            without=run.excluded,
        )
        for outlier in (one for one in found if not one.agrees):
            run.excluded[outlier.board] = SessionError(outlier.reason)
            for known, names in run.known.measured_by(outlier.board).items():
                if scope is None or known == scope:
                    run.journal.discard(known, names, cause="board", reason=outlier.reason)
                    again += names if known == number else []
    return again


def _check_boards_left(run: RunState, scheduler: Scheduler) -> None:
    """Raise what excluded the last board where none is left."""
    if run.excluded and not set(scheduler.boards()) - run.excluded.keys():
        raise next(reversed(run.excluded.values()))
