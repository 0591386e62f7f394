"""Rank correlations: does a prediction order networks as the measurement does?"""

from __future__ import annotations

from collections.abc import Sequence

from latency_tables.errors import LatencyTableError


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b, which corrects for ties (Kendall 1945).

    None where it is not defined: fewer than two values, or one side all equal.
    """
    if not _is_defined(first, second):
        return None
    from scipy import stats

    return float(stats.kendalltau(first, second).statistic)


def spearman_rho(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho: the linear correlation of the ranks, ties at their mean rank.

    None where it is not defined: fewer than two values, or one side all equal.
    """
    if not _is_defined(first, second):
        return None
    from scipy import stats

    return float(stats.spearmanr(first, second).statistic)


def _is_defined(first: Sequence[float], second: Sequence[float]) -> bool:
    if len(first) != len(second):
        raise LatencyTableError(f"cannot correlate {len(first)} with {len(second)} values")
    return min(len(set(first)), len(set(second))) > 1
