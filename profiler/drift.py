"""Whether the machine changed its speed between two anchors.

The same piece is measured before and after a stretch of jobs. A median moves a little by chance
too, so a move counts only where it is above the limit and the two 95 % intervals do not meet:
otherwise the noise of short anchors alone would have stretches measured again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

from profiler.replies import Reply, Samples
from profiler.statistics import latency_interval, median

#: Share of an anchor's latency.
DRIFT_LIMIT = 0.01


def drift_percent(anchors: Sequence[Reply], clock: str, limit: float = DRIFT_LIMIT) -> float | None:
    """By how much the last two anchors differ, in percent; None where that is within noise.

    Anchors of different pieces, and anchors that failed, say nothing.
    """
    if len(anchors) < 2 or anchors[-2].job_id != anchors[-1].job_id:
        return None
    before, after = anchors[-2].samples, anchors[-1].samples
    if before is None or after is None:
        return None
    change = _centre(after, clock) / _centre(before, clock) - 1.0
    if abs(change) <= limit or _intervals_meet(before, after, clock):
        return None
    return 100.0 * change


def _centre(samples: Samples, clock: str) -> float:
    return median(samples.times_ns(clock))


def _intervals_meet(first: Samples, second: Samples, clock: str) -> bool:
    first_low, first_high = latency_interval([first.times_ns(clock)])
    second_low, second_high = latency_interval([second.times_ns(clock)])
    return first_low <= second_high and second_low <= first_high
