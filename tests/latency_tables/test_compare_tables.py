from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_tables import CONDITIONS, synthetic_row, synthetic_table

from latency_tables.compare import compare
from latency_tables.errors import LatencyTableError
from latency_tables.schema import Row
from latency_tables.table import LatencyTable


def with_rows(*rows: Row) -> LatencyTable:
    table = synthetic_table([1.0, 2.0], [0.5, 1.0])
    return replace(table, rows=rows, networks=())


def row(block: int, latency_ms: float | None, half_width_percent: float = 0.5) -> Row:
    return synthetic_row(
        "original", block, latency_ms=latency_ms, half_width_percent=half_width_percent
    )


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (row(0, 1.0), row(0, 1.1), "slower"),
        (row(0, 1.0), row(0, 0.9), "faster"),
        (row(0, 1.0), row(0, 1.005), "same"),
        (row(0, 1.0), row(0, 1.0), "same"),
        (row(0, 1.0, 5), row(0, 1.05, 5), "ambiguous"),
        (row(0, 1.0, 5), row(0, 1.0, 5), "ambiguous"),
        (row(0, 1.0, 5), row(0, 1.2, 5), "slower"),
    ],
)
def test_a_verdict_speaks_only_where_intervals_allow(a: Row, b: Row, verdict: str) -> None:
    comparison = compare(with_rows(a), with_rows(b))
    assert [found.verdict for found in comparison.rows] == [verdict]
    assert comparison.rows[0].ratio == pytest.approx(b.latency_ms / a.latency_ms)
    assert comparison.count(verdict) == 1


def test_rows_in_one_table_only_are_listed() -> None:
    comparison = compare(with_rows(row(0, 1.0), row(1, 2.0)), with_rows(row(0, 1.0)))
    assert comparison.only_a == ("block 1 original",)
    assert comparison.only_b == ()


def test_another_piece_at_the_same_place_is_not_compared() -> None:
    changed = replace(row(1, 2.0), digest="0" * 16)
    comparison = compare(with_rows(row(0, 1.0), row(1, 2.0)), with_rows(row(0, 1.0), changed))
    assert [found.piece for found in comparison.rows] == ["block 0 original"]
    assert comparison.only_a == comparison.only_b == ("block 1 original",)


def test_failed_rows_are_named_and_not_compared() -> None:
    comparison = compare(with_rows(row(0, 1.0), row(1, 2.0)), with_rows(row(0, 1.0), row(1, None)))
    assert comparison.failed == ("block 1 original",)
    assert len(comparison.rows) == 1


def test_rank_correlation_is_over_the_common_rows() -> None:
    stem, head = synthetic_row("stem", latency_ms=3.0), synthetic_row("head", latency_ms=0.5)
    a = with_rows(stem, row(0, 1.0), row(1, 2.0), head)
    b = with_rows(stem, row(0, 2.0), row(1, 1.0), synthetic_row("head", latency_ms=0.4))
    comparison = compare(a, b)
    # One of six pairs is swapped: tau (5 - 1) / 6; rho 1 - 6 * 2 / (4 * 15).
    assert comparison.kendall_tau == pytest.approx(4 / 6)
    assert comparison.spearman_rho == pytest.approx(0.8)


def test_tables_of_other_conditions_say_which() -> None:
    a = with_rows(row(0, 1.0))
    b = replace(a, conditions=replace(CONDITIONS, batch=8))
    assert compare(a, b).differing_conditions == ("batch: 1 / 8",)


def test_tables_without_a_common_piece_are_refused() -> None:
    with pytest.raises(LatencyTableError, match="no piece in common: synthetic at 224x224"):
        compare(with_rows(row(0, 1.0)), with_rows(row(1, 1.0)))
