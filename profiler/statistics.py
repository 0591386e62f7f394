"""The few statistics that latency needs: quantiles, and intervals that assume no distribution.

Latency is skewed to the slow side, so nothing here takes a mean or a standard deviation. Intervals
come from binomial order statistics. Samples of one process are correlated (by its place in memory,
by what ran at the same time), so processes are what is counted: ``latency_interval`` is about what
separate rounds disagree about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from profiler.errors import MeasurementError


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


def quantile_interval(ordered: Sequence[float], share: float) -> tuple[float, float]:
    """The distribution-free 95 % interval of a quantile: two of the sorted samples.

    Each end misses with a probability of at most 2.5 %; where the samples are too few for that, it
    is the smallest or the largest of them.
    """
    if not ordered:
        raise MeasurementError("no samples: a quantile of nothing has no interval")
    low, high = _interval_ranks(len(ordered), share)
    return ordered[low], ordered[high]


@lru_cache(maxsize=4096)
def _interval_ranks(count: int, share: float) -> tuple[int, int]:
    from scipy.stats import binom

    first, last = (binom.ppf(miss, count, share) for miss in (0.025, 0.975))
    return max(0, int(first) - 1), min(count - 1, int(last))


def latency(rounds: Sequence[Sequence[float]], shares: tuple[float, float]) -> float:
    """The quantile ``shares[1]`` over the rounds of the quantile ``shares[0]`` within each."""
    within, across = shares
    return quantile([quantile(samples, within) for samples in rounds], across)


#: With fewer values no two order statistics hold the median in 95 % of all cases.
LEAST_ROUNDS = 6


def latency_interval(
    rounds: Sequence[Sequence[float]], shares: tuple[float, float]
) -> tuple[float, float]:
    """The 95 % interval of ``latency``: the quantile over rounds, of one value a round.

    What samples within a round vary by is in these values already. Rounds that are too few to say
    how much they vary (less than LEAST_ROUNDS) span it, and the interval covers that of the
    quantile within their pooled samples as well.
    """
    within, across = shares
    values = sorted(quantile(samples, within) for samples in rounds)
    low, high = quantile_interval(values, across)
    if len(rounds) < LEAST_ROUNDS:
        pooled = sorted(value for samples in rounds for value in samples)
        pooled_low, pooled_high = quantile_interval(pooled, within)
        low, high = min(low, pooled_low), max(high, pooled_high)
    centre = quantile(values, across)
    return min(low, centre), max(high, centre)
