"""Two tables of layers side by side."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from layer_tables import measured_row, table_of

from latency_tables.errors import LatencyTableError
from latency_tables.layers.compare import LayersComparison, compare_layers
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerTable
from latency_tables.layers.texts import parse_layer
from latency_tables.networks import Level
from latency_tables.origin import Origin

GRID = "cin=8,16,24,32 cout=8,16 k=1,3 hw=14"


def rule(layer: Layer) -> float:
    return 0.01 + 1e-6 * layer.spec.macs


def slower_3x3(layer: Layer) -> float:
    return rule(layer) * (1.2 if layer.kernel == (3, 3) else 1.0)


def compared(latency_of_b=slower_3x3, **fields: object) -> LayersComparison:
    return compare_layers(table_of(GRID, rule), table_of(GRID, latency_of_b, **fields))


def test_each_layer_is_compared_with_itself_whatever_the_order_of_the_rows() -> None:
    a, b = table_of(GRID, rule), table_of(GRID, slower_3x3)
    shuffled = replace(b, rows=b.rows[::-1])
    found = compare_layers(a, shuffled)
    assert [row.layer for row in found.rows] == [row.layer for row in a.rows]
    for row in found.rows:
        wide = row.layer.kernel == (3, 3)
        assert row.ratio == pytest.approx(1.2 if wide else 1.0)
        assert row.verdict == ("slower" if wide else "equal")
        assert (row.a_ms, row.b_ms) == (rule(row.layer), slower_3x3(row.layer))
    assert (found.count("slower"), found.count("equal")) == (8, 8)
    assert found.median_ratio == pytest.approx(1.1)


def test_all_layers_together_are_known_as_repeated_measurements_of_both_tables_are() -> None:
    """Many pairs of tables are drawn whose layers differ in what became of them."""
    rng = np.random.default_rng(0)
    truth = np.array([1.2, 1.0, 0.8, 1.5, 1.0])
    halves = np.array([0.5, 1.0, 4.0, 2.0, 0.5]) / 100
    errors = halves / 1.96
    a = np.exp(errors * rng.standard_normal((20_000, 5)))
    b = truth * np.exp(errors * rng.standard_normal((20_000, 5)))
    drawn = np.exp(np.log(b / a).mean(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    layers = [parse_layer(f"cin={8 * n} cout=8 hw=7") for n in range(1, 6)]

    def table(latencies: np.ndarray) -> LayerTable:
        rows = tuple(
            measured_row(layer, float(ms), half_percent=100 * float(half))
            for layer, ms, half in zip(layers, latencies, halves, strict=True)
        )
        return replace(table_of(GRID, rule), rows=rows)

    whole = compare_layers(table(np.ones(5)), table(truth)).whole
    assert whole.layers == 5
    assert whole.ratio == pytest.approx(math.exp(np.log(truth).mean()))
    assert whole.ratio_low == pytest.approx(low, rel=0.001)
    assert whole.ratio_high == pytest.approx(high, rel=0.001)


def test_the_level_of_a_machine_is_an_error_that_all_layers_share() -> None:
    assert compared(lambda layer: 1.03 * rule(layer)).whole.verdict == "slower"
    level = Level(
        level_percent_low=95.0,
        level_percent_high=105.0,
        spread_percent=5.0,
        moved_percent=1.0,
        processes=8,
    )
    whole = compared(lambda layer: 1.03 * rule(layer), level=level).whole
    assert whole.verdict == "unclear" and not whole.is_above(1.0)


def test_a_table_beside_itself_is_equal_in_every_row() -> None:
    table = table_of(GRID, rule)
    found = compare_layers(table, table)
    assert found.identical and found.count("equal") == len(table.rows)
    assert (found.whole.verdict, found.whole.ratio_low) == ("equal", 1.0)


def test_layers_of_one_table_and_those_that_failed_are_named_and_not_compared() -> None:
    a, b = table_of(GRID, rule), table_of("cin=8,48 cout=8 k=1 hw=14", rule)
    other = replace(b.rows[1], names=("expand",))
    found = compare_layers(a, replace(b, rows=(replace(b.rows[0], names=("stem",)), other)))
    assert [row.name for row in found.rows] == ["stem"]
    assert found.only_b == ("expand",) and len(found.only_a) == 15
    bounded = replace(b.rows[0], verdict="bounded", reason="too slow")
    found = compare_layers(a, replace(a, rows=(bounded, *a.rows[1:])))
    assert found.failed == ("conv 1x1 8->8 at 14x14",) and len(found.rows) == 15


def test_published_layers_have_a_ratio_and_no_interval() -> None:
    table = table_of("cin=8,16 cout=8 hw=14", rule)
    published = tuple(
        type(row)(
            layer=row.layer,
            digest=row.digest,
            latency_ms=2 * (row.latency_ms or 0),
            macs=row.macs,
            parameters=row.parameters,
            peak_activations=row.peak_activations,
            verdict="published",
        )
        for row in table.rows
    )
    origin = Origin(source="them", licence="MIT")
    found = compare_layers(table, replace(table, rows=published, origin=origin))
    assert {row.verdict for row in found.rows} == {found.whole.verdict} == {"unknown"}
    assert found.whole.ratio == pytest.approx(2.0) and found.whole.ratio_low is None
    assert found.whole.is_above(50)


def test_tables_without_a_common_layer_are_refused() -> None:
    with pytest.raises(LatencyTableError, match="no layer in common: A begins with conv 1x1 8->8"):
        compare_layers(table_of("cin=8 cout=8 hw=14", rule), table_of("cin=8 cout=8 hw=7", rule))
