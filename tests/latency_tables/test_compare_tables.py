from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic_tables import CONDITIONS, synthetic_row, synthetic_table

from latency_tables.compare import WholeComparison, compare
from latency_tables.errors import LatencyTableError
from latency_tables.networks import Level, MeasuredNetwork
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
        (row(0, 1.0), row(0, 1.005), "equal"),
        (row(0, 1.0), row(0, 1.0), "equal"),
        # Clearly slower, by less than matters.
        (row(0, 1.0, 0.1), row(0, 1.01, 0.1), "equal"),
        (row(0, 1.0, 5), row(0, 1.05, 5), "unclear"),
        (row(0, 1.0, 5), row(0, 1.01, 5), "unclear"),
        # Their intervals overlap, that of the ratio (7.1 %) does not hold 1.
        (row(0, 1.0, 5), row(0, 1.08, 5), "slower"),
        # One measurement: its interval says nothing of a difference.
        (row(0, 1.0, 5), row(0, 1.0, 5), "equal"),
    ],
)
def test_a_verdict_speaks_only_where_intervals_allow(a: Row, b: Row, verdict: str) -> None:
    comparison = compare(with_rows(a), with_rows(b))
    assert [found.verdict for found in comparison.rows] == [verdict]
    found = comparison.rows[0]
    assert found.ratio == pytest.approx(b.latency_ms / a.latency_ms)
    assert found.ratio_low <= found.ratio <= found.ratio_high
    assert comparison.count(verdict) == 1


def test_the_interval_of_a_ratio_is_that_of_two_independent_latencies() -> None:
    rng = np.random.default_rng(0)
    a = 1 + 0.02 / 1.96 * rng.standard_normal(200_000)
    b = 3 + 3 * 0.03 / 1.96 * rng.standard_normal(200_000)
    low, high = np.percentile(b / a, [2.5, 97.5])
    (found,) = compare(with_rows(row(0, 1.0, 2)), with_rows(row(0, 3.0, 3))).rows
    assert found.ratio_low == pytest.approx(low, rel=0.002)
    assert found.ratio_high == pytest.approx(high, rel=0.002)


def in_network(latency_ms: float, half_percent: float, alone_percent: float) -> LatencyTable:
    known = {
        f"in_network_{end}ms": latency_ms * (1 + sign * half_percent / 100)
        for end, sign in (("low_", -1), ("", 0), ("high_", 1))
    }
    return with_rows(replace(row(0, 2 * latency_ms, alone_percent), **known))


def test_of_costs_in_the_network_and_alone_those_are_compared_that_are_known_better() -> None:
    (found,) = compare(in_network(1.0, 3, 20), in_network(1.1, 3, 20)).rows
    assert (found.cost, found.a_ms, found.b_ms) == ("in_network", 1.0, 1.1)
    assert found.verdict == "slower"
    (found,) = compare(in_network(1.0, 20, 3), in_network(1.1, 20, 3)).rows
    assert (found.cost, found.a_ms, found.verdict) == ("alone", 2.0, "slower")


def test_a_cost_in_the_network_that_may_be_nothing_has_no_ratio() -> None:
    (found,) = compare(in_network(1.0, 200, 90), in_network(1.1, 3, 90)).rows
    assert found.cost == "alone"


def networks_of(*measured: tuple[str, float], half: float = 0.01) -> tuple[MeasuredNetwork, ...]:
    return tuple(
        MeasuredNetwork(
            keep_mask=mask,
            padding="bias_map",
            role="fit",
            measured_ms=ms,
            low_ms=ms * (1 - half),
            high_ms=ms * (1 + half),
        )
        for mask, ms in measured
    )


def whole(factor: float, half: float = 0.01, level: Level | None = None) -> WholeComparison:
    table = replace(synthetic_table([1.0, 2.0], [0.5, 1.0]), level=level)
    masks = (("11", 5.0), ("10", 4.0), ("01", 4.5), ("00", 3.5))
    slower = [(mask, ms * factor) for mask, ms in masks]
    a = replace(table, networks=networks_of(*masks, half=half))
    return compare(a, replace(table, networks=networks_of(*slower, half=half))).whole


def test_whole_networks_say_whether_the_network_became_slower() -> None:
    found = whole(1.06)
    assert (found.networks, found.verdict) == (4, "slower")
    assert found.ratio == pytest.approx(1.06)
    assert found.ratio_low < 1.06 < found.ratio_high
    assert whole(0.9).verdict == "faster" and whole(1.001).verdict == "equal"


@pytest.mark.parametrize(
    ("factor", "half", "limit", "above"),
    [(1.06, 0.01, 5, True), (1.04, 0.01, 5, False), (0.9, 0.01, 5, False), (1.06, 0.2, 5, False)],
)
def test_a_limit_is_exceeded_by_a_ratio_that_is_known_to_be_above_1(
    factor: float, half: float, limit: float, above: bool
) -> None:
    assert whole(factor, half).is_above(limit) is above


def test_the_level_of_a_machine_is_an_error_that_all_networks_share() -> None:
    level = Level(
        level_percent_low=95.0,
        level_percent_high=105.0,
        spread_percent=5.0,
        moved_percent=1.0,
        processes=8,
    )
    assert whole(1.06).verdict == "slower"
    assert whole(1.06, level=level).verdict == "unclear"


def test_networks_of_the_same_mask_but_other_pieces_are_not_compared() -> None:
    table = synthetic_table([1.0, 2.0], [0.5, 1.0])
    rows = tuple(replace(r, digest="0" * 16) if r.block == 1 else r for r in table.rows)
    other = replace(table, rows=rows)
    found = compare(table, other).whole
    assert (found.networks, found.verdict, found.ratio_low) == (0, "unknown", None)


def test_a_table_beside_itself_is_equal_in_every_row() -> None:
    noisy = with_rows(row(0, 1.0, 30), row(1, 2.0, 30))
    found = compare(noisy, noisy)
    assert found.identical and found.count("equal") == 2
    table = synthetic_table([1.0, 2.0], [0.5, 1.0])
    assert compare(table, table).whole.verdict == "equal"


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
