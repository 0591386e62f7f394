"""Whether the machine changed its speed between two anchors, and what becomes of the stretch.

The same piece is measured before and after a stretch of jobs. A latency moves a little by chance
too, so a move counts only where it is above the limit and the two 95 % intervals do not meet:
otherwise the noise of short anchors alone would have stretches measured again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

from latency_tables.schema import STATISTICS, Conditions
from profiler.replies import Reply
from profiler.run_state import Round, RunState
from profiler.settings import DRIFT_LIMIT
from profiler.statistics import quantile, quantile_interval


def drift_percent(
    anchors: Sequence[Reply], conditions: Conditions, limit: float = DRIFT_LIMIT
) -> float | None:
    """By how much the last two anchors differ, in percent; None where that is within noise.

    Anchors of different pieces, and anchors that failed, cannot be compared.
    """
    if len(anchors) < 2 or anchors[-2].job_id != anchors[-1].job_id:
        return None
    before, after = anchors[-2].samples, anchors[-1].samples
    if before is None or after is None:
        return None
    share, _ = STATISTICS[conditions.statistic]
    first, second = (sorted(part.times_ns(conditions.clock)) for part in (before, after))
    change = quantile(second, share) / quantile(first, share) - 1.0
    if abs(change) <= limit or _intervals_meet(first, second, share):
        return None
    return 100.0 * change


def _intervals_meet(first: Sequence[float], second: Sequence[float], share: float) -> bool:
    first_low, first_high = quantile_interval(first, share)
    second_low, second_high = quantile_interval(second, share)
    return first_low <= second_high and second_low <= first_high


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
    """Accept what lost boards measured last: no anchor will close it."""
    for board, log in run.known.logs_of(number).items():
        if log.open:
            run.journal.keep(
                number,
                board,
                f"round {number}: {board} was lost; its last {len(log.open)} measurements "
                "were kept without an anchor after them",
            )
