"""Tables of layers whose latencies follow a rule."""

from __future__ import annotations

from collections.abc import Callable

from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.layers.texts import parse_grid
from latency_tables.schema import Conditions

CONDITIONS = Conditions(device="here", runtime="onnxruntime", runtime_version="1.32")


def measured_row(layer: Layer, latency_ms: float, *, half_percent: float = 0.5) -> LayerRow:
    """A row as a measurement leaves it."""
    spread = half_percent / 100.0
    return LayerRow(
        layer=layer,
        digest=layer.spec.digest,
        latency_ms=latency_ms,
        low_ms=latency_ms * (1 - spread),
        high_ms=latency_ms * (1 + spread),
        **dict.fromkeys(("median_ms", "min_ms", "p90_ms", "p99_ms"), latency_ms),
        wall_latency_ms=latency_ms,
        iqr_ms=0.0,
        round_spread_percent=0.1,
        samples=20,
        rounds=4,
        macs=layer.spec.macs,
        parameters=layer.spec.parameters,
        peak_activations=layer.spec.peak_activations,
        verdict="ok",
    )


def table_of(grid: str, latency_ms: Callable[[Layer], float], **fields: object) -> LayerTable:
    """The table of a grid's layers."""
    rows = tuple(measured_row(layer, latency_ms(layer)) for layer in parse_grid(grid).layers)
    return LayerTable(rows=rows, conditions=CONDITIONS, **fields)  # type: ignore[arg-type]
