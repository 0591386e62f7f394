"""The few statistics that latency needs: quantiles, and intervals that assume no distribution.

Latency is skewed to the slow side, so nothing here takes a mean or a standard deviation. Intervals
come from binomial order statistics. Samples of one process share its luck (where its memory landed,
what ran beside it), so an interval from pooled samples alone is too narrow; ``latency_interval``
also covers what separate rounds disagree about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from devices.agent.timing import median_interval
from profiler.errors import MeasurementError

#: Coverage asked of the interval between rounds: what the range of three round medians gives
#: (1 - 2 / 2**3). The same coverage lets further rounds outvote one that was disturbed.
ROUND_CONFIDENCE = 0.75


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the values lie, interpolated linearly."""
    if not values:
        raise MeasurementError("no values to take a quantile of")
    if not 0.0 <= share <= 1.0:
        raise MeasurementError(f"a quantile's share is between 0 and 1, got {share}")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def spread_percent(values: Sequence[float]) -> float:
    """Largest minus smallest, in percent of the median."""
    return 100.0 * (max(values) - min(values)) / median(values)


def round_interval(round_medians: Sequence[float]) -> tuple[float, float]:
    """What rounds disagree about: the range of three medians, and its equal for more of them."""
    low, high = median_interval(sorted(round_medians), ROUND_CONFIDENCE)
    return float(low), float(high)


def latency_interval(rounds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95 % interval of the pooled samples, widened to the interval between rounds."""
    pooled = sorted(value for samples in rounds for value in samples)
    within_low, within_high = median_interval(pooled, 0.95)
    between_low, between_high = round_interval([median(samples) for samples in rounds])
    return min(within_low, between_low), max(within_high, between_high)
