"""Rank correlations: does a prediction order networks as the measurement does?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from latency_tables.errors import LatencyTableError


def _check(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second):
        raise LatencyTableError(f"cannot correlate {len(first)} with {len(second)} values")


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b, which corrects for ties (Kendall 1945).

    None where it is not defined: fewer than two values, or one side all equal.
    """
    _check(first, second)
    agreement = untied_first = untied_second = 0
    for (a, c), (b, d) in combinations(zip(first, second, strict=True), 2):
        x, y = _sign(a - b), _sign(c - d)
        agreement += x * y
        untied_first += x != 0
        untied_second += y != 0
    if not untied_first or not untied_second:
        return None
    return agreement / math.sqrt(untied_first * untied_second)


def spearman_rho(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho: the linear correlation of the ranks, ties at their mean rank.

    None where it is not defined: fewer than two values, or one side all equal.
    """
    _check(first, second)
    x, y = _ranks(first), _ranks(second)
    # Ranks always have this mean, so it needs no sum.
    mean = (len(x) + 1) / 2
    covariance = sum((a - mean) * (b - mean) for a, b in zip(x, y, strict=True))
    spread = math.sqrt(sum((a - mean) ** 2 for a in x) * sum((b - mean) ** 2 for b in y))
    return covariance / spread if spread else None


def _ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value, from 1; equal values share their mean rank."""
    below = [sum(other < value for other in values) for value in values]
    equal = [values.count(value) for value in values]
    return [less + (same + 1) / 2 for less, same in zip(below, equal, strict=True)]
