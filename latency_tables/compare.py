"""Two tables of one network: which pieces became faster, and did the network?

What a piece costs in the network and what it takes alone are two measures of one piece: the one
whose ratio is known better is compared, and says by how much the piece changed. Costs in one
network are known together better than one by one (a piece that is estimated too dear makes its
neighbours too cheap), so what the tables say of the whole is compared by the networks that both
measured, and not by adding up rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from latency_tables.errors import LatencyTableError
from latency_tables.estimator import NORMAL_95
from latency_tables.networks import MeasuredNetwork
from latency_tables.places import Place
from latency_tables.ranks import kendall_tau, spearman_rho
from latency_tables.schema import Row
from latency_tables.span_masks import Span
from latency_tables.table import LatencyTable

#: Latencies are called equal where the 95 % interval of their ratio lies within this of 1.
EQUAL_PERCENT = 2.0
#: A median of n is known less well than their mean, by the square root of pi / 2.
OF_MEDIAN = math.sqrt(math.pi / 2)

Key = tuple[Place, str]
Cost = Literal["in_network", "alone"]
Verdict = Literal["equal", "faster", "slower", "unclear", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowComparison:
    """One piece in both tables; ``ratio`` is b over a, the verdict speaks of b.

    ``cost`` says what was compared: "in_network" or "alone". ``ratio_low`` to ``ratio_high`` is the
    95 % interval of the ratio, None where a row was published without one. "equal": it lies within
    2 % of 1. "faster" and "slower": it does not hold 1. "unclear": it is too wide to say either.
    "unknown": there is none.
    """

    piece: str
    kind: str
    block: int | None
    span: Span | None
    cost: Cost
    a_ms: float
    b_ms: float
    ratio: float
    ratio_low: float | None
    ratio_high: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeComparison:
    """The ratio of whole networks, b over a, and what that says of b.

    It is the median over the ``networks`` that both tables measured; with none of them it is the
    ratio of the sums of the common rows, without an interval. The interval holds how well the level
    of each run's machine is known, which all of its networks share.
    """

    networks: int
    ratio: float
    ratio_low: float | None
    ratio_high: float | None
    verdict: Verdict

    def is_above(self, percent: float) -> bool:
        """Whether b is slower than a by more than so many per cent, and not only by chance."""
        chance = self.ratio_low is not None and self.ratio_low <= 1.0
        return self.ratio > 1.0 + percent / 100.0 and not chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two tables side by side; ``kendall_tau`` and ``spearman_rho`` are over the common rows.

    ``identical`` tables hold the same measurements. Rows whose measurement failed, or was cut
    short, in either table are named in ``failed`` and compared nowhere.
    """

    identical: bool
    whole: WholeComparison
    median_ratio: float
    rows: tuple[RowComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    failed: tuple[str, ...]
    differing_conditions: tuple[str, ...]
    kendall_tau: float | None
    spearman_rho: float | None

    def count(self, verdict: Verdict) -> int:
        """How many rows have this verdict."""
        return sum(row.verdict == verdict for row in self.rows)


def compare(a: LatencyTable, b: LatencyTable) -> Comparison:
    """Compare the rows at the same place and measure the same piece (equal digest).

    Raises LatencyTableError where the tables have no piece in common that both measured.
    """
    rows_a, rows_b = _by_key(a), _by_key(b)
    common = [key for key in rows_a if key in rows_b]
    measured = [key for key in common if rows_a[key].is_measured and rows_b[key].is_measured]
    if not measured:
        ours, theirs = (f"{each.model} at {'x'.join(map(str, each.resolution))}" for each in (a, b))
        what = "no piece in common that both measured" if common else "no piece in common"
        raise LatencyTableError(
            f"the tables have {what}: {ours} and {theirs}; compare tables of one network at one "
            "resolution"
        )
    compared = tuple(_compare_rows(rows_a[key], rows_b[key]) for key in measured)
    a_ms, b_ms = [row.a_ms for row in compared], [row.b_ms for row in compared]
    return Comparison(
        identical=a.digest == b.digest,
        whole=_compare_networks(a, b) or _sums(compared),
        median_ratio=median(row.ratio for row in compared),
        rows=compared,
        only_a=tuple(row.piece for key, row in rows_a.items() if key not in rows_b),
        only_b=tuple(row.piece for key, row in rows_b.items() if key not in rows_a),
        failed=tuple(rows_a[key].piece for key in common if key not in measured),
        differing_conditions=a.conditions.differences(b.conditions),
        kendall_tau=kendall_tau(a_ms, b_ms),
        spearman_rho=spearman_rho(a_ms, b_ms),
    )


def _by_key(table: LatencyTable) -> dict[Key, Row]:
    return {(row.place, row.digest): row for row in table.rows}


@dataclass(frozen=True, slots=True)
class _Known:
    """A latency and its half width, relative, at 95 %; infinite where that is not known."""

    ms: float
    half: float

    @classmethod
    def of(cls, ms: float, low_ms: float | None, high_ms: float | None) -> _Known:
        if low_ms is None or high_ms is None:
            return cls(ms, math.inf)
        return cls(ms, (high_ms - low_ms) / 2 / ms)


def _alone(row: Row) -> _Known:
    assert row.latency_ms is not None
    return _Known.of(row.latency_ms, row.low_ms, row.high_ms)


def _in_network(row: Row) -> _Known | None:
    """What it costs in the network, where that is known to be above 0: else it has no ratio."""
    low_ms, ms = row.in_network_low_ms, row.in_network_ms
    if ms is None or low_ms is None or low_ms <= 0:
        return None
    return _Known.of(ms, low_ms, row.in_network_high_ms)


def _half(ours: _Known, theirs: _Known) -> float:
    """Half the width of the interval of their ratio, relative."""
    return math.hypot(ours.half, theirs.half)


def _compare_rows(a: Row, b: Row) -> RowComparison:
    known: dict[Cost, tuple[_Known, _Known]] = {}
    before, after = _in_network(a), _in_network(b)
    if before is not None and after is not None:
        known["in_network"] = before, after
    known["alone"] = _alone(a), _alone(b)
    cost = min(known, key=lambda cost: _half(*known[cost]))
    ours, theirs = known[cost]
    half = 0.0 if a == b else _half(ours, theirs)  # one measurement is equal to itself
    ratio = theirs.ms / ours.ms
    low, high = _interval(ratio, half if math.isfinite(half) else None)
    return RowComparison(
        piece=a.piece,
        kind=a.kind,
        block=a.block,
        span=a.span,
        cost=cost,
        a_ms=ours.ms,
        b_ms=theirs.ms,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        verdict=_verdict(low, high),
    )


def _compare_networks(a: LatencyTable, b: LatencyTable) -> WholeComparison | None:
    """None where no network was measured in both."""
    ours, theirs = _networks(a), _networks(b)
    common = [key for key in ours if key in theirs and _pieces(a, key) == _pieces(b, key)]
    if not common:
        return None
    pairs = [(ours[key], theirs[key]) for key in common]
    ratio = median(y.measured_ms / x.measured_ms for x, y in pairs)
    half = 0.0
    if any(x != y for x, y in pairs):
        errors = [math.hypot(_error(x), _error(y)) for x, y in pairs]
        shrinks = OF_MEDIAN / math.sqrt(len(pairs)) if len(pairs) > 2 else 1.0
        levels = [each.level.known_percent / 100.0 if each.level else 0.0 for each in (a, b)]
        half = math.hypot(NORMAL_95 * fmean(errors) * shrinks, *levels)
    low, high = _interval(ratio, half)
    return WholeComparison(
        networks=len(common),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        verdict=_verdict(low, high),
    )


def _networks(table: LatencyTable) -> Mapping[tuple[str, str], MeasuredNetwork]:
    return {(one.keep_mask, one.padding): one for one in table.networks}


def _pieces(table: LatencyTable, network: tuple[str, str]) -> list[str]:
    """The digests of its pieces: tables of two networks may have equal masks."""
    return [table.by_place[place].digest for place in table.places(*network)]


def _error(network: MeasuredNetwork) -> float:
    return network.error_ms / network.measured_ms


def _sums(rows: tuple[RowComparison, ...]) -> WholeComparison:
    ratio = math.fsum(row.b_ms for row in rows) / math.fsum(row.a_ms for row in rows)
    return WholeComparison(
        networks=0, ratio=ratio, ratio_low=None, ratio_high=None, verdict="unknown"
    )


def _interval(ratio: float, half: float | None) -> tuple[float, float] | tuple[None, None]:
    """Of a ratio whose logarithm has this half width, so that b over a says what a over b does."""
    return (None, None) if half is None else (ratio * math.exp(-half), ratio * math.exp(half))


def _verdict(low: float | None, high: float | None) -> Verdict:
    if low is None or high is None:
        return "unknown"
    within = 1.0 + EQUAL_PERCENT / 100.0
    if 1.0 / within <= low and high <= within:
        return "equal"
    if high < 1.0:
        return "faster"
    return "slower" if low > 1.0 else "unclear"
