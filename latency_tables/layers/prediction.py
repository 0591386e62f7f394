"""What a layer between measured ones takes: a Gaussian process on logarithms, with its interval.

Latency is smooth in the logarithms of sizes as long as the runtime computes alike, so layers of one
sort (family, stride, activation, ...) are fitted together and others have no say. A layer whose
channels hold fewer powers of two than any measured one is refused, as is one beyond the measured
sizes: nothing there says how fast it is. The interval is the process's own (``process``), widened
where layers that were held out lie outside of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency_tables.errors import MissingPieceError
from latency_tables.estimator import NORMAL_95
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.layers.process import (
    LatencyProcess,
    block_of,
    form_of,
    sizes_of,
)

#: With fewer layers of a sort nothing can be held out that would show how good predictions are.
LEAST_LAYERS = 12
#: Parts that held-out layers are taken in.
FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutLayers:
    """How predictions of ``count`` measured layers turned out that the fit did not know.

    ``mean_error_percent`` is the mean absolute error, ``coverage_percent`` how many lay in their
    95 % interval before it was widened by ``widened``.
    """

    count: int
    mean_error_percent: float
    worst_error_percent: float
    coverage_percent: float
    widened: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrediction:
    """A layer's latency and 95 % interval in ms, for a batch.

    ``held_out`` is None for a layer that was measured itself: then it is what was measured.
    ``fitted`` is from how many layers of its sort.
    """

    layer: Layer
    latency_ms: float
    low_ms: float
    high_ms: float
    fitted: int
    held_out: HeldOutLayers | None


def predict_layers(table: LayerTable, layers: Sequence[Layer]) -> list[LayerPrediction]:
    """The latencies of layers that are in the table, or between layers that are.

    Each sort of layer is fitted once. Raises MissingPieceError, with the reason, for one that is
    neither.
    """
    fits: dict[tuple[Any, ...], _Fit] = {}
    found = []
    for layer in layers:
        if (measured := _measured(table, layer)) is not None:
            found.append(measured)
            continue
        rows = same_sort(table, layer)
        _check_range(rows, layer)
        if sort_of(layer) not in fits:
            fits[sort_of(layer)] = _Fit(rows, LatencyProcess(rows), held_out_layers(rows))
        found.append(fits[sort_of(layer)].predict(layer))
    return found


def predict_layer(table: LayerTable, layer: Layer) -> LayerPrediction:
    """``predict_layers`` of one."""
    return predict_layers(table, [layer])[0]


def _measured(table: LayerTable, layer: Layer) -> LayerPrediction | None:
    row = table.by_layer.get(layer)
    if row is None or row.latency_ms is None or row.low_ms is None or row.high_ms is None:
        return None
    return LayerPrediction(
        layer=layer,
        latency_ms=row.latency_ms,
        low_ms=row.low_ms,
        high_ms=row.high_ms,
        fitted=1,
        held_out=None,
    )


def same_sort(table: LayerTable, layer: Layer) -> list[LayerRow]:
    """The measured layers that are computed like this one. Raises MissingPieceError for too few."""
    rows = [
        row for row in table.rows if row.low_ms is not None and sort_of(row.layer) == sort_of(layer)
    ]
    if not rows and table.origin is not None:
        raise MissingPieceError(
            f"{layer.name}: this table was published, without intervals, so no interval of a "
            "prediction follows from it: measure the layer with `dshrink profile --layers`, or "
            "read the published ones with `dshrink table show`"
        )
    if len(rows) < LEAST_LAYERS:
        raise MissingPieceError(
            f"{layer.name}: the table has {len(rows)} measured layers of its sort (equal kernel, "
            f"stride, padding, groups, activation, bias, residual), and {LEAST_LAYERS} are needed "
            "to predict one: measure the layer itself, or a grid around it, with "
            "`dshrink profile --grid`"
        )
    return rows


def sort_of(layer: Layer) -> tuple[Any, ...]:
    """What layers share that are fitted together: all but their sizes."""
    groups = "each" if layer.is_depthwise else layer.groups
    kernel = None if layer.kind == "global_pool" else layer.kernel
    return (
        *(layer.kind, kernel, layer.stride, layer.padding, layer.dilation, groups),
        *(layer.activation, layer.bias, layer.residual),
    )


def _check_range(rows: Sequence[LayerRow], layer: Layer) -> None:
    known = [_range_of(row.layer) for row in rows]
    for name, value in _range_of(layer).items():
        low, high = min(one[name] for one in known), max(one[name] for one in known)
        if not low <= value <= high:
            raise MissingPieceError(
                f"{layer.name}: {name} {value:.10g} is outside of the measured {low:.10g} to "
                f"{high:.10g}: measure a grid that holds it with `dshrink profile --grid`"
            )
    for name in ("in_channels", "out_channels"):
        channels = getattr(layer, name)
        least = min(block_of(getattr(row.layer, name)) for row in rows)
        if block_of(channels) < least:
            raise MissingPieceError(
                f"{layer.name}: all measured layers have {name} in multiples of {least}, and "
                f"{channels} is none: runtimes compute these with other kernels; measure some "
                "with `dshrink profile --grid`"
            )


def _range_of(layer: Layer) -> dict[str, float]:
    """What must be within that of measured layers: first what the user chose, then what follows."""
    sizes = sizes_of(layer)
    channels = {name: sizes[name] for name in ("input channels", "output channels")}
    return {**channels, "height / width of the output": form_of(layer), **sizes}


@dataclass(frozen=True, slots=True)
class _Fit:
    """The layers of a sort, their process, and how good its predictions are."""

    rows: Sequence[LayerRow]
    process: LatencyProcess
    held_out: HeldOutLayers

    def predict(self, layer: Layer) -> LayerPrediction:
        mean, error = self.process.predict([layer])
        half = NORMAL_95 * self.held_out.widened * float(error[0])
        return LayerPrediction(
            layer=layer,
            latency_ms=math.exp(mean[0]),
            low_ms=math.exp(mean[0] - half),
            high_ms=math.exp(mean[0] + half),
            fitted=len(self.rows),
            held_out=self.held_out,
        )


def held_out_layers(
    rows: Sequence[LayerRow], *, folds: int = FOLDS, seed: int = 0
) -> HeldOutLayers:
    """Predict each layer from a fit that does not know it; those at the edges are left out.

    An edge is a layer that the others would refuse: it is not between them.
    """
    parts = np.random.default_rng(seed).permutation(len(rows)) % folds
    errors: list[float] = []
    scores: list[float] = []
    for part in range(folds):
        known = [row for row, own in zip(rows, parts, strict=True) if own != part]
        asked = [
            row
            for row, own in zip(rows, parts, strict=True)
            if own == part and _is_inside(known, row)
        ]
        if not asked:
            continue
        mean, error = LatencyProcess(known).predict([row.layer for row in asked])
        measured = np.log([row.latency_ms or math.nan for row in asked])
        own = [(row.half_width_percent or 0.0) / 100.0 / NORMAL_95 for row in asked]
        errors += np.abs(np.expm1(mean - measured)).tolist()
        scores += (np.abs(mean - measured) / np.hypot(error, own)).tolist()
    if not errors:
        raise MissingPieceError(
            "no measured layer lies between others: nothing shows how good a prediction is; "
            "measure a finer grid with `dshrink profile --grid`"
        )
    inside = sum(score <= NORMAL_95 for score in scores)
    # So that 95 of 100 held-out layers would have been inside.
    widened = max(1.0, float(np.quantile(scores, 0.95)) / NORMAL_95)
    return HeldOutLayers(
        count=len(errors),
        mean_error_percent=100.0 * float(np.mean(errors)),
        worst_error_percent=100.0 * max(errors),
        coverage_percent=100.0 * inside / len(scores),
        widened=widened,
    )


def _is_inside(known: Sequence[LayerRow], row: LayerRow) -> bool:
    try:
        _check_range(known, row.layer)
    except MissingPieceError:
        return False
    return True
