"""Predictions of layers against rules that are known."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from layer_tables import table_of

from latency_tables.errors import MissingPieceError
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow
from latency_tables.layers.prediction import LEAST_LAYERS, predict_layer, same_sort
from latency_tables.layers.texts import parse_layer
from latency_tables.origin import Origin

GRID = "cin=16,32,64,128 cout=16,32,64,128 k=3 hw=28,14"


def roofline_ms(layer: Layer) -> float:
    """Arithmetic, memory and a constant, one after the other."""
    spec = layer.spec
    numbers = math.prod(spec.input_shape) + math.prod(spec.output_shape) + spec.parameters
    return spec.macs / 4e7 + numbers / 4e6 + 0.003


def noisy_ms(layer: Layer) -> float:
    return roofline_ms(layer) * (1 + 0.004 * random.Random(layer.name).gauss(0, 1))


def test_layers_between_measured_ones_are_predicted_and_their_intervals_hold() -> None:
    table = table_of(GRID, noisy_ms)
    errors = []
    inside = 0
    asked = [
        parse_layer(f"cin={cin} cout={cout} k=3 hw={hw}")
        for cin in (48, 80, 112)
        for cout in (48, 96)
        for hw in (14, 20, 28)
    ]
    for layer in asked:
        found = predict_layer(table, layer)
        errors.append(abs(found.latency_ms / roofline_ms(layer) - 1))
        inside += found.low_ms <= roofline_ms(layer) <= found.high_ms
        assert found.low_ms < found.latency_ms < found.high_ms < 1.2 * found.low_ms
        assert found.held_out
    assert sum(errors) / len(errors) < 0.02
    assert inside >= 0.85 * len(asked)


def test_what_is_held_out_is_counted_and_close() -> None:
    held_out = predict_layer(table_of(GRID, noisy_ms), parse_layer("cin=48 cout=48 k=3 hw=28"))
    assert held_out.fitted == 32
    assert held_out.held_out
    assert 20 <= held_out.held_out.count <= 32
    assert held_out.held_out.mean_error_percent < 3
    assert held_out.held_out.worst_error_percent >= held_out.held_out.mean_error_percent
    assert held_out.held_out.widened >= 1


def test_a_measured_layer_is_what_was_measured() -> None:
    table = table_of(GRID, noisy_ms)
    row = table.rows[5]
    found = predict_layer(table, row.layer)
    assert (found.low_ms, found.latency_ms, found.high_ms) == (
        row.low_ms,
        row.latency_ms,
        row.high_ms,
    )
    assert found.held_out is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cin=64 cout=64 k=3 hw=56", "outside of the measured"),
        ("cin=256 cout=64 k=3 hw=28", "input channels 256 is outside of the measured 16 to"),
        ("cin=64 cout=64 k=3 h=14 w=28", "height / width of the output 0.5 is outside of"),
        ("cin=50 cout=64 k=3 hw=28", "in_channels in multiples of 16, and 50 is none"),
        ("cin=64 cout=64 k=5 hw=28", "the table has 0 measured layers of its sort"),
        ("cin=64 cout=64 k=3 hw=28 act=relu", "the table has 0 measured layers of its sort"),
        ("cin=64 cout=64 k=3 hw=28 s=2", "the table has 0 measured layers of its sort"),
    ],
)
def test_what_no_measured_layer_speaks_for_is_refused(text: str, says: str) -> None:
    with pytest.raises(MissingPieceError) as refused:
        predict_layer(table_of(GRID, noisy_ms), parse_layer(text))
    assert says in str(refused.value)
    assert "dshrink profile" in str(refused.value)


def test_a_published_table_has_no_intervals_to_predict_from() -> None:
    table = table_of(GRID, noisy_ms)
    rows = tuple(
        LayerRow(
            layer=row.layer,
            digest=row.digest,
            latency_ms=row.latency_ms,
            macs=row.macs,
            parameters=row.parameters,
            peak_activations=row.peak_activations,
            verdict="published",
        )
        for row in table.rows
    )
    published = replace(table, rows=rows, origin=Origin(source="them", licence="MIT"))
    with pytest.raises(MissingPieceError, match="was published, without intervals"):
        predict_layer(published, rows[0].layer)


def test_few_layers_predict_nothing() -> None:
    table = table_of("cin=16,32,64 cout=16,32,64 k=3 hw=28", noisy_ms)
    with pytest.raises(MissingPieceError, match=f"and {LEAST_LAYERS} are needed"):
        predict_layer(table, parse_layer("cin=48 cout=48 k=3 hw=28"))


def test_depthwise_layers_are_of_one_sort_whatever_their_channels() -> None:
    table = table_of("cin=16:256:16 cout=cin k=3 hw=28 g=dw", noisy_ms)
    assert len(same_sort(table, parse_layer("cin=40 cout=40 k=3 hw=28 g=dw"))) == 16
    found = predict_layer(
        table_of("cin=16:256:8 cout=cin k=3 hw=28 g=dw", noisy_ms),
        parse_layer("cin=144 cout=144 k=3 hw=28 g=dw"),
    )
    assert found.held_out is None  # 144 is in the grid
