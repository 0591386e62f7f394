"""Whether the machine changed its speed between two anchors.

The same piece is measured before and after a stretch of jobs. A latency moves a little by chance
too, so a move counts only where it is above the limit and the two 95 % intervals do not meet:
otherwise the noise of short anchors alone would have stretches measured again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

from latency_tables.schema import STATISTICS, Conditions
from profiler.replies import Reply
from profiler.statistics import quantile, quantile_interval

#: Share of an anchor's latency.
DRIFT_LIMIT = 0.01


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
