"""Tables of layers as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dshrink.cli.grids import Column, number, print_grid
from dshrink.cli.render import how_timed
from latency_tables.wording import counted, once_each

if TYPE_CHECKING:
    from latency_tables.layers.layer_table import LayerRow, LayerTable
    from latency_tables.layers.prediction import LayerPrediction


def print_layers(table: LayerTable, *, wide: bool = False) -> None:
    """Print a line for each layer."""
    c = table.conditions
    columns: list[Column[LayerRow]] = [
        Column("name", lambda row: ", ".join(row.names), rank=2, least=12),
        Column("layer", lambda row: row.layer.name, least=30),
        number("ms", lambda row: row.latency_ms, ".4f"),
        number("±", lambda row: row.half_width_percent, ".1f", suffix=" %"),
        number("beside ms", lambda row: row.beside_ms, ".4f"),
        Column("beside 95 %", _beside_interval, rank=3, is_number=True),
        Column("verdict", lambda row: row.verdict, rank=1),
        Column("note", lambda row: row.reason, rank=4, least=16, is_prose=True),
        number("MMAC", lambda row: row.macs / 1e6, ".2f", rank=5),
        number("GMAC/s", lambda row: _gmac_per_s(row, c.batch), ".1f", rank=6),
    ]
    timed = f"{c.precision}, batch {c.batch}, {how_timed(c)}, {c.statistic}"
    layers = counted(len(table.rows), "layer")
    title = f"{layers} on {c.device}, {c.runtime} {c.runtime_version}, {timed}"
    print_grid(columns, table.rows, title=title, wide=wide)


def _beside_interval(row: LayerRow) -> str:
    if row.beside_low_ms is None or row.beside_high_ms is None:
        return ""
    return f"{row.beside_low_ms:.4f} - {row.beside_high_ms:.4f}"


def _gmac_per_s(row: LayerRow, batch: int) -> float | None:
    return row.macs * batch / row.latency_ms / 1e6 if row.macs and row.latency_ms else None


def layer_summary(table: LayerTable) -> list[str]:
    """How many layers are known well, and the warnings, a line each."""
    count = len(table.rows)
    if table.origin is not None:
        lines = [f"{counted(count, 'layer')}, published by others: {table.origin.source}"]
    else:
        widths = sorted(
            row.half_width_percent for row in table.rows if row.half_width_percent is not None
        )
        lines = [
            f"{table.within_target} of {counted(count, 'layer')} known within "
            f"{table.target_percent:g} %"
            + (
                f" (95 % intervals; median {widths[len(widths) // 2]:.1f} %, widest "
                f"{widths[-1]:.1f} %)"
                if widths
                else ""
            )
        ]
    return [*lines, *(f"warning: {warning}" for warning in once_each(table.warnings))]


def prediction_lines(predictions: Sequence[LayerPrediction]) -> list[str]:
    """A line a layer; how good such predictions are is said once for each sort."""
    lines: dict[str, None] = {}
    for one in predictions:
        interval = f"(95 %: {one.low_ms:.4f} to {one.high_ms:.4f})"
        lines[f"{one.layer.name}: {one.latency_ms:.4f} ms {interval}"] = None
        if one.held_out is None:
            lines["measured, not predicted"] = None
            continue
        held = one.held_out
        lines[
            f"from {one.fitted} measured layers of its sort; of them {held.count} were predicted "
            f"from the others: off by {held.mean_error_percent:.1f} % on average, at most "
            f"{held.worst_error_percent:.1f} %; {held.coverage_percent:.0f} % lay in their interval"
            + (f", which is {held.widened:.2f} times as wide here" if held.widened > 1 else "")
        ] = None
    return list(lines)
