"""Block latency before and after merging (DepthShrinker, Fig. 1 and 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.plots import style
from latency_tables.forms import merged_kind
from latency_tables.masks import check_padding
from latency_tables.places import BLOCK_KINDS
from latency_tables.schema import Row
from latency_tables.table import LatencyTable

#: Numbers above the bars are upright where that many blocks share the width.
_CROWDED = 32
_LEAST_SAVING = -100.0
_HATCH = "#FFFFFF99"


def blocks_figure(table: LatencyTable, *, padding: str = "bias_map") -> Figure:
    """Bars with 95 % intervals a block, and below what merging with ``padding`` saves in percent.

    Merged forms and dense counterparts are drawn where the table holds them; a failed row is
    marked. Raises MaskError for an unknown padding.
    """
    check_padding(padding)
    in_network = any(row.in_network_ms is not None for row in table.rows)
    where = "in the network " if in_network else ""
    title = f"Latency of each block {where}before and after merging"
    title += "" if table.origin else ", with 95 % intervals"
    with style.new_figure(4.8, title, style.describe_table(table)) as figure:
        latency, saving = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.15))
        draw_block_latency(latency, table)
        _draw_saving(saving, table, padding)
        saving.set_xlabel(style.block_axis_label(table))
    return figure


def dense_figure(table: LatencyTable) -> Figure:
    """Blocks beside their dense counterparts of equal MACs, each measured alone (Fig. 1).

    Alone, because no network contains a counterpart: its channels are none of the network's. Below
    is what it saves in percent. Raises PlotError for a table without them.
    """
    title = "Latency of each block, alone, and of its dense counterpart"
    with style.new_figure(4.8, title, style.describe_table(table)) as figure:
        latency, saving = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.15))
        kinds = ("original", "dense")
        placed = style.draw_bars(latency, table, kinds, _alone_ms, _alone)
        _mark_doubtful(latency, placed, _alone_ms)
        style.set_block_axis(latency, table.block_count)
        latency.set_ylim(bottom=0)
        latency.set_ylabel("Latency [ms]")
        latency.grid(axis="y")
        style.legend_above(latency, columns=4)
        savings = {
            row.block: 100 * (1 - row.latency_ms / original.latency_ms)
            for row in table.rows
            if row.kind == "dense" and row.block is not None and row.latency_ms
            if (original := table.row("original", row.block)).latency_ms
        }
        _draw_savings(saving, table, {"dense": savings})
        saving.set_xlabel(style.block_axis_label(table))
    return figure


def draw_block_latency(axes: Axes, table: LatencyTable, kinds: Sequence[str] = BLOCK_KINDS) -> None:
    """One group of bars a block on ``axes``: the ``kinds`` that the table holds."""
    placed = style.draw_bars(axes, table, kinds, _cost_ms, _interval)
    _mark_doubtful(axes, placed, _cost_ms)
    style.set_block_axis(axes, table.block_count)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Latency [ms]")
    axes.grid(axis="y")
    style.legend_above(axes, columns=6)


def _cost_ms(row: Row) -> float:
    return row.cost_ms or 0.0


def _alone_ms(row: Row) -> float:
    return row.latency_ms or 0.0


def _interval(row: Row) -> tuple[float, float, float]:
    """Failed and published rows have no interval; a NaN draws none."""
    low, high = (math.nan if end is None else end for end in row.cost_interval_ms)
    return low, row.cost_ms or 0.0, high


def _alone(row: Row) -> tuple[float, float, float]:
    low, high = (math.nan if end is None else end for end in (row.low_ms, row.high_ms))
    return low, row.latency_ms or 0.0, high


def _mark_doubtful(
    axes: Axes, placed: Sequence[tuple[Row, float]], height: Callable[[Row], float]
) -> None:
    failed = [(x, 0.0) for row, x in placed if not row.is_measured]
    noisy = [
        (x, height(row))
        for row, x in placed
        if row.is_measured and row.verdict not in ("ok", "published")
    ]
    by_host = any(row.verdict == "host_bound" for row, _ in placed)
    if failed:
        x, y = zip(*failed, strict=True)
        axes.scatter(x, y, s=22, marker="x", color=style.BLACK, label="failed", clip_on=False)
    if not noisy:
        return
    # Pale hatching: a mark on each bar would be all that is seen where most rows are noisy.
    with matplotlib.rc_context({"hatch.linewidth": 0.5}):
        axes.bar(
            [x for x, _ in noisy],
            [tall for _, tall in noisy],
            0.82 / len({row.kind for row, _ in placed}),
            fill=False,
            hatch="////",
            edgecolor=_HATCH,
            linewidth=0.0,
            label="_noisy",
        )
        # White lines are nothing in a legend: a bar without height stands for them.
        axes.bar(
            [0],
            [0],
            color=style.GREY,
            hatch="////",
            edgecolor="white",
            linewidth=0.0,
            label="noisy, throttled or host-bound" if by_host else "noisy or throttled",
        )


def _draw_saving(axes: Axes, table: LatencyTable, padding: str) -> None:
    savings = {
        kind: {
            block: saving
            for block in table.mergeable
            if merged_kind(table.by_place, block, padding) == kind
            if (saving := _saving_percent(table, block, kind)) is not None
        }
        for kind in ("merged", "merged_bias_map")
    }
    _draw_savings(axes, table, savings)


def _draw_savings(
    axes: Axes, table: LatencyTable, savings: Mapping[str, Mapping[int, float]]
) -> None:
    """Bars of savings in percent, by kind and block.

    A block that loses more than merging can ever save (100 %) is cut there, and has its number.
    """
    axes.axhline(0, color=style.BLACK, linewidth=0.8)
    for kind, of_kind in savings.items():
        if of_kind:
            bars = axes.bar(
                list(of_kind),
                [max(percent, _LEAST_SAVING) for percent in of_kind.values()],
                0.5,
                color=style.KIND_COLOURS[kind],
                label=kind,
            )
            rotation = 90 if table.block_count > _CROWDED else 0
            numbers = [
                f"{percent:.0f}" if percent >= _LEAST_SAVING else f"{percent:.0f} ↓"
                for percent in of_kind.values()
            ]
            axes.bar_label(bars, numbers, padding=2, rotation=rotation)
    axes.margins(y=0.35)
    style.set_block_axis(axes, table.block_count)
    axes.set_ylabel("Saving [%]")
    axes.grid(axis="y")


def _saving_percent(table: LatencyTable, block: int, kind: str) -> float | None:
    if not {("original", block), (kind, block)} <= table.by_place.keys():
        return None
    before, after = table.row("original", block).cost_ms, table.row(kind, block).cost_ms
    return 100 * (1 - after / before) if before and after is not None else None
