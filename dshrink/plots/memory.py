"""Memory of each block before and after merging (DepthShrinker, Fig. 5).

From the counts of the table's rows, for one image at 16 bit, as in the paper. A peak counts what is
alive while one convolution runs: its input, its output, and a residual that waits.
"""

from __future__ import annotations

from operator import attrgetter

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.plots import style
from latency_tables.table import LatencyTable

BYTES_A_NUMBER = 2
KIB, MIB = 1024, 1024**2
_KINDS = ("original", "merged", "merged_bias_map")


def memory_figure(table: LatencyTable) -> Figure:
    """Peak activations above, weights below, in KiB or MiB; bars as in the latency picture."""
    with style.new_figure(
        5.0,
        "Memory of each block at 16 bit, before and after merging",
        f"{style.describe_network(table)}, one image (batch 1); the same on every device and "
        "runtime",
    ) as figure:
        activations, weights = figure.subplots(2, 1, sharex=True)
        _draw(activations, table, "peak_activations", "Peak activations")
        _draw(weights, table, "parameters", "Weights")
        style.legend_above(activations, columns=3)
        weights.set_xlabel(style.block_axis_label(table))
    return figure


def _draw(axes: Axes, table: LatencyTable, column: str, what: str) -> None:
    size = attrgetter(column)
    largest = max((size(row) for row in table.rows if row.kind in _KINDS), default=0)
    divisor, unit = (MIB, "MiB") if BYTES_A_NUMBER * largest >= MIB else (KIB, "KiB")
    style.draw_bars(axes, table, _KINDS, lambda row: BYTES_A_NUMBER * size(row) / divisor)
    style.set_block_axis(axes, table.block_count)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{what} [{unit}]")
    axes.grid(axis="y")
