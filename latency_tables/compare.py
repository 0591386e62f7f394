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
from latency_tables.ratios import (
    Known,
    Ratio,
    RowRatio,
    SideBySide,
    joint_half,
    level_halves,
    over_rows,
)
from latency_tables.schema import Row
from latency_tables.span_masks import Span
from latency_tables.table import LatencyTable

#: A median of n is known less well than their mean, by the square root of pi / 2.
OF_MEDIAN = math.sqrt(math.pi / 2)

Key = tuple[Place, str]
Cost = Literal["in_network", "alone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowComparison(RowRatio):
    """One piece in both tables; ``ratio`` is b over a, the verdict speaks of b.

    ``cost`` says what was compared: "in_network" or "alone".
    """

    piece: str
    kind: str
    block: int | None
    span: Span | None
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeComparison(Ratio):
    """The ratio of whole networks, b over a, and what that says of b.

    It is the median over the ``networks`` that both tables measured; with none of them it is the
    ratio of the sums of the common rows, without an interval. The interval holds how well the level
    of each run's machine is known, which all of its networks share.
    """

    networks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(SideBySide):
    """Two tables of one network side by side.

    ``identical`` tables hold the same measurements. Pieces whose measurement failed, or was cut
    short, in either table are named in ``failed`` and compared nowhere.
    """

    whole: WholeComparison
    rows: tuple[RowComparison, ...]


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
    return Comparison(
        identical=a.digest == b.digest,
        whole=_compare_networks(a, b) or _sums(compared),
        only_a=tuple(row.piece for key, row in rows_a.items() if key not in rows_b),
        only_b=tuple(row.piece for key, row in rows_b.items() if key not in rows_a),
        failed=tuple(rows_a[key].piece for key in common if key not in measured),
        differing_conditions=a.conditions.differences(b.conditions),
        **over_rows(compared),
    )


def _by_key(table: LatencyTable) -> dict[Key, Row]:
    return {(row.place, row.digest): row for row in table.rows}


def _alone(row: Row) -> Known:
    assert row.latency_ms is not None
    return Known.of(row.latency_ms, row.low_ms, row.high_ms)


def _in_network(row: Row) -> Known | None:
    """What it costs in the network, where that is known to be above 0: else it has no ratio."""
    low_ms, ms = row.in_network_low_ms, row.in_network_ms
    if ms is None or low_ms is None or low_ms <= 0:
        return None
    return Known.of(ms, low_ms, row.in_network_high_ms)


def _compare_rows(a: Row, b: Row) -> RowComparison:
    known: dict[Cost, tuple[Known, Known]] = {}
    before, after = _in_network(a), _in_network(b)
    if before is not None and after is not None:
        known["in_network"] = before, after
    known["alone"] = _alone(a), _alone(b)
    cost = min(known, key=lambda cost: joint_half(*known[cost]))
    ours, theirs = known[cost]
    half = 0.0 if a == b else joint_half(ours, theirs)  # one measurement is equal to itself
    return RowComparison.of(
        theirs.ms / ours.ms,
        half,
        piece=a.piece,
        kind=a.kind,
        block=a.block,
        span=a.span,
        cost=cost,
        a_ms=ours.ms,
        b_ms=theirs.ms,
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
        half = math.hypot(NORMAL_95 * fmean(errors) * shrinks, *level_halves((a.level, b.level)))
    return WholeComparison.of(ratio, half, networks=len(common))


def _networks(table: LatencyTable) -> Mapping[tuple[str, str], MeasuredNetwork]:
    return {(one.keep_mask, one.padding): one for one in table.networks}


def _pieces(table: LatencyTable, network: tuple[str, str]) -> list[str]:
    """The digests of its pieces: tables of two networks may have equal masks."""
    return [table.by_place[place].digest for place in table.places(*network)]


def _error(network: MeasuredNetwork) -> float:
    return network.error_ms / network.measured_ms


def _sums(rows: tuple[RowComparison, ...]) -> WholeComparison:
    ratio = math.fsum(row.b_ms for row in rows) / math.fsum(row.a_ms for row in rows)
    return WholeComparison.of(ratio, math.inf, networks=0)
