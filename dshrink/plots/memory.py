"""Memory of each block before and after merging (DepthShrinker, Fig. 5).

From the counts of the table's rows, for one image at 16 bit, as in the paper. A peak counts what is
alive while one convolution runs: its input, its output, and a residual that waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.plots.style import (
    KIND_COLOURS,
    KIND_LABELS,
    bar_offsets,
    block_axis_label,
    describe_network,
    house_style,
    legend_above,
    new_figure,
    present_kinds,
    set_block_axis,
    set_titles,
)
from latency_tables.table import LatencyTable

BYTES_A_NUMBER = 2
KIB, MIB = 1024, 1024**2
_KINDS = ("original", "merged", "merged_bias_map")


def memory_figure(table: LatencyTable) -> Figure:
    """Peak activations above, weights below, in KiB or MiB; bars as in the latency picture."""
    with house_style():
        figure = new_figure(5.0)
        activations, weights = figure.subplots(2, 1, sharex=True)
        _draw(activations, table, "peak_activations", "Peak activations")
        _draw(weights, table, "parameters", "Weights")
        legend_above(activations, columns=3)
        weights.set_xlabel(block_axis_label(table))
        set_titles(
            figure,
            "Memory of each block at 16 bit, before and after merging",
            f"{describe_network(table)}, one image (batch 1); the same on every device and runtime",
        )
        return figure


def _draw(axes: Axes, table: LatencyTable, column: str, what: str) -> None:
    present = present_kinds(table, _KINDS)
    sizes = {
        kind: {
            row.block: BYTES_A_NUMBER * getattr(row, column)
            for row in table.rows
            if row.kind == kind and row.block is not None
        }
        for kind in present
    }
    divisor, unit = _unit([size for of_kind in sizes.values() for size in of_kind.values()])
    width, offsets = bar_offsets(len(present))
    for kind, offset in zip(present, offsets, strict=True):
        axes.bar(
            [block + offset for block in sizes[kind]],
            [size / divisor for size in sizes[kind].values()],
            width,
            color=KIND_COLOURS[kind],
            label=KIND_LABELS[kind],
        )
    set_block_axis(axes, table.block_count)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{what} [{unit}]")
    axes.grid(axis="y")


def _unit(sizes: Sequence[int]) -> tuple[int, str]:
    return (MIB, "MiB") if max(sizes, default=0) >= MIB else (KIB, "KiB")
