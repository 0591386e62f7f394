"""Block latency before and after merging (DepthShrinker, Fig. 1 and 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.plots.style import (
    BLACK,
    KIND_COLOURS,
    KIND_LABELS,
    bar_offsets,
    block_axis_label,
    describe_table,
    house_style,
    legend_above,
    new_figure,
    present_kinds,
    set_block_axis,
    set_titles,
)
from latency_tables.forms import merged_kind
from latency_tables.masks import check_padding
from latency_tables.places import BLOCK_KINDS
from latency_tables.schema import Row
from latency_tables.table import LatencyTable

#: Numbers above the bars are upright where that many blocks share the width.
_CROWDED = 32


def blocks_figure(table: LatencyTable, *, padding: str = "bias_map") -> Figure:
    """Bars with 95 % intervals a block, and below what merging with ``padding`` saves in percent.

    Merged forms and dense counterparts are drawn where the table holds them; a failed row is
    marked. Raises MaskError for an unknown padding.
    """
    check_padding(padding)
    with house_style():
        figure = new_figure(4.8)
        latency, saving = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1.15)}
        )
        draw_block_latency(latency, table)
        _draw_saving(saving, table, padding)
        saving.set_xlabel(block_axis_label(table))
        set_titles(
            figure,
            "Latency of each block before and after merging"
            + ("" if table.origin else ", with 95 % intervals"),
            describe_table(table),
        )
        return figure


def draw_block_latency(axes: Axes, table: LatencyTable, kinds: Sequence[str] = BLOCK_KINDS) -> None:
    """One group of bars a block on ``axes``: the ``kinds`` that the table holds."""
    present = present_kinds(table, kinds)
    rows = {kind: [row for row in table.rows if row.kind == kind] for kind in present}
    width, offsets = bar_offsets(len(present))
    for kind, offset in zip(present, offsets, strict=True):
        _draw_bars(axes, kind, rows[kind], offset, width)
    _mark_doubtful(axes, [(r, o) for k, o in zip(present, offsets, strict=True) for r in rows[k]])
    set_block_axis(axes, table.block_count)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Latency [ms]")
    axes.grid(axis="y")
    legend_above(axes, columns=6)


def _place(row: Row) -> int:
    assert row.block is not None
    return row.block


def _draw_bars(axes: Axes, kind: str, rows: Sequence[Row], offset: float, width: float) -> None:
    heights, below, above = [], [], []
    for row in rows:
        latency_ms = row.latency_ms or 0.0
        heights.append(latency_ms)
        # Failed and published rows have no interval; a NaN draws none.
        below.append(math.nan if row.low_ms is None else latency_ms - row.low_ms)
        above.append(math.nan if row.high_ms is None else row.high_ms - latency_ms)
    axes.bar(
        [_place(row) + offset for row in rows],
        heights,
        width,
        yerr=(below, above),
        color=KIND_COLOURS[kind],
        label=KIND_LABELS[kind],
        error_kw={"elinewidth": 0.9, "capsize": 1.6, "ecolor": BLACK},
    )


def _mark_doubtful(axes: Axes, placed: Sequence[tuple[Row, float]]) -> None:
    failed = [(_place(row) + offset, 0.0) for row, offset in placed if not row.is_measured]
    noisy = [
        (_place(row) + offset, row.high_ms or 0.0)
        for row, offset in placed
        if row.is_measured and row.verdict not in ("ok", "published")
    ]
    by_host = any(row.verdict == "host_bound" for row, _ in placed)
    for points, marker, label in (
        (failed, "x", "failed"),
        (noisy, "v", "noisy, throttled or host-bound" if by_host else "noisy or throttled"),
    ):
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=22, marker=marker, color=BLACK, label=label, clip_on=False)


def _draw_saving(axes: Axes, table: LatencyTable, padding: str) -> None:
    axes.axhline(0, color=BLACK, linewidth=0.8)
    for kind in ("merged", "merged_bias_map"):
        savings = {
            block: saving
            for block in table.mergeable
            if merged_kind(table.by_place, block, padding) == kind
            if (saving := _saving_percent(table, block, kind)) is not None
        }
        if savings:
            bars = axes.bar(
                list(savings), list(savings.values()), 0.5, color=KIND_COLOURS[kind], label=kind
            )
            rotation = 90 if table.block_count > _CROWDED else 0
            axes.bar_label(bars, fmt="%.0f", padding=2, rotation=rotation)
    axes.margins(y=0.35)
    set_block_axis(axes, table.block_count)
    axes.set_ylabel("Saving [%]")
    axes.grid(axis="y")


def _saving_percent(table: LatencyTable, block: int, kind: str) -> float | None:
    if not {("original", block), (kind, block)} <= table.by_place.keys():
        return None
    before, after = table.row("original", block).latency_ms, table.row(kind, block).latency_ms
    return None if before is None or after is None else 100 * (1 - after / before)
