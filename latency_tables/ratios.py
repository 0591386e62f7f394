"""Ratios of latencies, b over a, and what they say of b: the words of all comparisons of tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, Self

from latency_tables.networks import Level
from latency_tables.ranks import kendall_tau, spearman_rho

#: Latencies are called equal where the 95 % interval of their ratio lies within this of 1.
EQUAL_PERCENT = 2.0

Verdict = Literal["equal", "faster", "slower", "unclear", "unknown"]


@dataclass(frozen=True, slots=True)
class Known:
    """A latency and its half width, relative, at 95 %; infinite where that is not known."""

    ms: float
    half: float

    @classmethod
    def of(cls, ms: float, low_ms: float | None, high_ms: float | None) -> Known:
        """From the ends of its interval."""
        if low_ms is None or high_ms is None:
            return cls(ms, math.inf)
        return cls(ms, (high_ms - low_ms) / 2 / ms)


def joint_half(ours: Known, theirs: Known) -> float:
    """Half the width of the interval of their ratio, relative."""
    return math.hypot(ours.half, theirs.half)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A latency of b over that of a; the verdict speaks of b.

    ``ratio_low`` to ``ratio_high`` is the 95 % interval of the ratio, None where what was compared
    was published without one. "equal": it lies within 2 % of 1. "faster" and "slower": it does not
    hold 1. "unclear": it is too wide to say either. "unknown": there is none.
    """

    ratio: float
    ratio_low: float | None
    ratio_high: float | None
    verdict: Verdict

    @classmethod
    def of(cls, ratio: float, half: float, **more: Any) -> Self:
        """Of a ratio whose logarithm has this half width; infinite: there is no interval.

        So b over a says what a over b does.
        """
        if not math.isfinite(half):
            return cls(ratio=ratio, ratio_low=None, ratio_high=None, verdict="unknown", **more)
        low, high = ratio * math.exp(-half), ratio * math.exp(half)
        return cls(ratio=ratio, ratio_low=low, ratio_high=high, verdict=_verdict(low, high), **more)

    def is_above(self, percent: float) -> bool:
        """Whether b is slower than a by more than so many per cent, and not only by chance."""
        chance = self.ratio_low is not None and self.ratio_low <= 1.0
        return self.ratio > 1.0 + percent / 100.0 and not chance


def _verdict(low: float, high: float) -> Verdict:
    within = 1.0 + EQUAL_PERCENT / 100.0
    if 1.0 / within <= low and high <= within:
        return "equal"
    if high < 1.0:
        return "faster"
    return "slower" if low > 1.0 else "unclear"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRatio(Ratio):
    """The latencies that one row of each table has."""

    a_ms: float
    b_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Two tables side by side; ``kendall_tau`` and ``spearman_rho`` are over the common rows.

    ``identical`` tables hold the same measurements. Rows whose measurement failed, or was cut
    short, in either table are named in ``failed`` and compared nowhere.
    """

    identical: bool
    whole: Ratio
    median_ratio: float
    rows: tuple[RowRatio, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    failed: tuple[str, ...]
    differing_conditions: tuple[str, ...]
    kendall_tau: float | None
    spearman_rho: float | None

    def count(self, verdict: Verdict) -> int:
        """How many rows have this verdict."""
        return sum(row.verdict == verdict for row in self.rows)


def over_rows(rows: tuple[RowRatio, ...]) -> Mapping[str, Any]:
    """What all rows together say, by the names of ``SideBySide``."""
    a_ms, b_ms = [row.a_ms for row in rows], [row.b_ms for row in rows]
    return {
        "rows": rows,
        "median_ratio": median(row.ratio for row in rows),
        "kendall_tau": kendall_tau(a_ms, b_ms),
        "spearman_rho": spearman_rho(a_ms, b_ms),
    }


def level_halves(levels: Iterable[Level | None]) -> list[float]:
    """How well each run's machine is known, relative, which all that it measured shares."""
    return [level.known_percent / 100.0 if level else 0.0 for level in levels]
