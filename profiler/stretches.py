"""What becomes of a stretch of jobs between two anchors: accepted, or measured again."""

from __future__ import annotations

from profiler.drift import drift_percent
from profiler.run_state import Round, RunState


def repeat_drifted(run: RunState, board: str, current: Round) -> list[str]:
    """Take back the stretch before the last anchor where the machine drifted meanwhile.

    Returns the jobs that have to run again. It follows from the journal alone, so it may be asked
    again after a kill.
    """
    number, known = current.number, run.known
    log = known.log(number, board)
    change = drift_percent(log.anchors, run.conditions, run.settings.drift_limit)
    if change is None or not log.closed:
        return []
    timed = [name for name in log.closed if known.accepted[name, number].failure is None]
    again = [name for name in timed if known.attempts[name, number] <= run.settings.repeats]
    if not run.affordable(again, current):
        again = []
    if again:
        reason = f"the anchor moved by {change:+.1f} %"
        run.journal.discard(number, again, cause="drift", reason=reason)
    if kept := len(timed) - len(again):
        run.journal.keep(
            number,
            board,
            f"round {number}: {kept} measurements were kept although the anchor moved by "
            f"{change:+.1f} % around them",
        )
    return again


def keep_open(run: RunState, number: int) -> None:
    """Accept what boards that went away measured last: no anchor will close it."""
    for board, log in run.known.logs_of(number).items():
        if log.open:
            run.journal.keep(
                number,
                board,
                f"round {number}: {board} went away; its last {len(log.open)} measurements "
                "were kept without an anchor behind them",
            )
