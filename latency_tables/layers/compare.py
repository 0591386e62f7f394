"""Two tables of layers: which layers became faster, and did all of them together?

Ratios of layers differ (another runtime has faster 3x3 kernels and the same 1x1 ones), so together
they are their geometric mean: its error follows from theirs whether or not they are alike, and no
large layer hides the small ones, as it would in a sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from latency_tables.errors import LatencyTableError
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.ratios import (
    Known,
    Ratio,
    RowRatio,
    SideBySide,
    joint_half,
    level_halves,
    over_rows,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison(RowRatio):
    """One layer in both tables, alone; ``ratio`` is b over a, the verdict speaks of b.

    ``name`` is what the list of table a calls it, else that of b, else its description.
    """

    name: str
    layer: Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class AllLayersComparison(Ratio):
    """The geometric mean of the ratios of all ``layers`` that both tables measured.

    Its interval holds how well the level of each run's machine is known, which all layers of a run
    share; there is none where a layer was published without.
    """

    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersComparison(SideBySide):
    """Two tables of layers side by side.

    ``identical`` tables hold the same measurements. Layers whose measurement failed, or was cut
    short, in either table are named in ``failed`` and compared nowhere.
    """

    whole: AllLayersComparison
    rows: tuple[LayerComparison, ...]


def compare_layers(a: LayerTable, b: LayerTable) -> LayersComparison:
    """Compare the rows of equal layers, in the order of ``a``.

    Raises LatencyTableError where the tables have no layer in common that both measured.
    """
    ours, theirs = a.by_layer, b.by_layer
    common = [layer for layer in ours if layer in theirs]
    known_a, known_b = _known(a), _known(b)
    measured = [layer for layer in common if layer in known_a and layer in known_b]
    if not measured:
        what = "no layer in common that both measured" if common else "no layer in common"
        raise LatencyTableError(
            f"the tables have {what}: A begins with {a.rows[0].layer.name}, B with "
            f"{b.rows[0].layer.name}; compare tables of one list or grid"
        )
    halves = [
        0.0 if ours[layer] == theirs[layer] else joint_half(known_a[layer], known_b[layer])
        for layer in measured
    ]
    rows = tuple(
        LayerComparison.of(
            known_b[layer].ms / known_a[layer].ms,
            half,
            name=_name(ours[layer], theirs[layer]),
            layer=layer,
            a_ms=known_a[layer].ms,
            b_ms=known_b[layer].ms,
        )
        for layer, half in zip(measured, halves, strict=True)
    )
    levels = [] if not any(halves) else level_halves((a.level, b.level))
    return LayersComparison(
        identical=a.rows_digest == b.rows_digest,
        whole=_together(rows, halves, levels),
        only_a=tuple(row.name for layer, row in ours.items() if layer not in theirs),
        only_b=tuple(row.name for layer, row in theirs.items() if layer not in ours),
        failed=tuple(ours[layer].name for layer in common if layer not in measured),
        differing_conditions=a.conditions.differences(b.conditions),
        **over_rows(rows),
    )


def _known(table: LayerTable) -> Mapping[Layer, Known]:
    """The latencies of those that were measured to the end."""
    return {
        row.layer: Known.of(row.latency_ms, row.low_ms, row.high_ms)
        for row in table.rows
        if row.latency_ms is not None and row.verdict != "bounded"
    }


def _name(ours: LayerRow, theirs: LayerRow) -> str:
    return (ours if ours.names else theirs).name


def _together(
    rows: Sequence[LayerComparison], halves: Sequence[float], levels: Sequence[float]
) -> AllLayersComparison:
    # The mean of independent logarithms: their errors add up in squares.
    half = math.hypot(math.hypot(*halves) / len(halves), *levels)
    return AllLayersComparison.of(geometric_mean(row.ratio for row in rows), half, layers=len(rows))
