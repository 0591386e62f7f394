"""Two tables of one network, row by row: which pieces became faster, and is it significant?"""

from __future__ import annotations

from dataclasses import dataclass

from latency_tables.errors import LatencyTableError
from latency_tables.places import Place
from latency_tables.ranks import kendall_tau, spearman_rho
from latency_tables.schema import Row
from latency_tables.span_masks import Span
from latency_tables.table import LatencyTable

#: Two overlapping intervals say "same" when together they span no more than this.
SAME_PERCENT = 2.0

Key = tuple[Place, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowComparison:
    """One piece in both tables; ``ratio`` is b over a, the verdict speaks of b.

    "faster" and "slower": the 95 % intervals do not overlap. "same": they do, and together span at
    most 2 %. "ambiguous": they overlap but are too wide to call the rows the same. "unknown": one
    of the rows was published without an interval.
    """

    piece: str
    kind: str
    block: int | None
    span: Span | None
    a_ms: float
    b_ms: float
    ratio: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two tables side by side; ``kendall_tau`` and ``spearman_rho`` are over the common rows.

    Rows whose measurement failed, or was cut short, in either table are named in ``failed`` and
    compared nowhere.
    """

    rows: tuple[RowComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    failed: tuple[str, ...]
    differing_conditions: tuple[str, ...]
    kendall_tau: float | None
    spearman_rho: float | None

    def count(self, verdict: str) -> int:
        """How many rows have this verdict."""
        return sum(row.verdict == verdict for row in self.rows)


def compare(a: LatencyTable, b: LatencyTable) -> Comparison:
    """Compare the rows at the same place and measure the same piece (equal digest).

    Raises LatencyTableError where the tables have no piece in common.
    """
    rows_a, rows_b = _by_key(a), _by_key(b)
    common = [key for key in rows_a if key in rows_b]
    if not common:
        ours, theirs = (f"{each.model} at {'x'.join(map(str, each.resolution))}" for each in (a, b))
        raise LatencyTableError(
            f"the tables have no piece in common: {ours} and {theirs}; compare tables of one "
            "network at one resolution"
        )
    measured = [key for key in common if rows_a[key].is_measured and rows_b[key].is_measured]
    compared = tuple(_compare_rows(rows_a[key], rows_b[key]) for key in measured)
    a_ms, b_ms = [row.a_ms for row in compared], [row.b_ms for row in compared]
    return Comparison(
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


def _compare_rows(a: Row, b: Row) -> RowComparison:
    assert a.latency_ms is not None and b.latency_ms is not None
    return RowComparison(
        piece=a.piece,
        kind=a.kind,
        block=a.block,
        span=a.span,
        a_ms=a.latency_ms,
        b_ms=b.latency_ms,
        ratio=b.latency_ms / a.latency_ms,
        verdict=_verdict(a, b),
    )


def _verdict(a: Row, b: Row) -> str:
    if a.low_ms is None or a.high_ms is None or b.low_ms is None or b.high_ms is None:
        return "unknown"
    a_low, a_high, b_low, b_high = a.low_ms, a.high_ms, b.low_ms, b.high_ms
    if b_high < a_low:
        return "faster"
    if b_low > a_high:
        return "slower"
    spans_percent = 100 * (max(a_high, b_high) / min(a_low, b_low) - 1)
    return "same" if spans_percent <= SAME_PERCENT else "ambiguous"
