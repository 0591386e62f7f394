"""Rank correlations: does a prediction order networks as the measurement does?"""

from __future__ import annotations

from collections.abc import Sequence

from latency_tables.errors import LatencyTableError


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b, which corrects for ties (Kendall 1945); None where it is not defined."""
    return _correlation("kendalltau", first, second)


def spearman_rho(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho: the linear correlation of the ranks, ties at their mean rank; None where it
    is not defined."""
    return _correlation("spearmanr", first, second)


def _correlation(name: str, first: Sequence[float], second: Sequence[float]) -> float | None:
    """None for fewer than two values, or where one side is all equal."""
    if len(first) != len(second):
        raise LatencyTableError(f"cannot correlate {len(first)} with {len(second)} values")
    if min(len(set(first)), len(set(second))) < 2:
        return None
    from scipy import stats

    return float(getattr(stats, name)(first, second).statistic)
