"""Importance against latency: the whole frontier of a search, and the plans of chosen budgets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.errors import PlotError
from dshrink.plots import style
from dshrink.plots.strips import (
    FRAME_INCHES,
    STRIP_INCHES,
    Strip,
    draw_strips,
    layers_label,
    with_original,
)
from latency_tables.csv_lines import CsvSource, load_lines
from latency_tables.errors import LatencyTableError
from latency_tables.mask_cells import as_text, check_lengths, mask_in
from latency_tables.span_masks import MERGED, SpanChain, check_span_mask
from latency_tables.wording import counted

COMMAND = "dshrink search dp ... --frontier FILE.csv"
_CURVES_INCHES = 3.4


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """The most important network of at most this latency; ``mask`` is empty where not known."""

    time_ms: float
    importance: float
    mask: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierCurve:
    """The points of one search, both latency and importance rising from point to point."""

    label: str
    points: tuple[FrontierPoint, ...]

    def best(self, budget_ms: float) -> FrontierPoint:
        """The most important point within a budget. Raises PlotError where there is none."""
        within = [point for point in self.points if point.time_ms <= budget_ms]
        if not within:
            raise PlotError(
                f"{self.label}: no network takes {budget_ms:g} ms or less, the fastest takes "
                f"{self.points[0].time_ms:.4g} ms: draw a larger --budget-ms"
            )
        return within[-1]


def load_frontier(path: Path, label: str) -> FrontierCurve:
    """Read the CSV that ``dshrink search --frontier`` writes, in any order of its lines.

    Raises PlotError.
    """
    source = CsvSource(where=str(path), error=PlotError, fix=f"write it with `{COMMAND}`")
    lines = load_lines(path, source, ("time_ms", "importance"))
    masks = [(line, mask_in(line, "mask")) for line in lines]
    check_lengths(masks, "mask")
    for line, mask in masks:
        if mask.endswith(MERGED):
            # A spreadsheet keeps 15 digits and writes zeros for the rest.
            raise line.error(
                f"mask {mask} ends with {MERGED}, which no span ends with ({as_text('mask')})"
            )
    points = (
        FrontierPoint(
            time_ms=line.number_in("time_ms", above=0),
            importance=line.number_in("importance"),
            mask=mask,
        )
        for line, mask in masks
    )
    return curve_of(points, label)


def curve_of(points: Iterable[FrontierPoint], label: str) -> FrontierCurve:
    """The curve of points in any order.

    Those that another one beats in latency and importance are left out: a frontier of several
    costs (memory beside latency) has some.
    """
    kept: list[FrontierPoint] = []
    for point in sorted(points, key=lambda point: (point.time_ms, -point.importance)):
        if not kept or point.importance > kept[-1].importance:
            kept.append(point)
    return FrontierCurve(label=label, points=tuple(kept))


def frontier_figure(
    frontiers: Sequence[FrontierCurve],
    *,
    budgets_ms: Sequence[float] = (),
    chain: SpanChain | None = None,
    source: str = "",
) -> Figure:
    """A step curve a frontier; below them a strip for each budget's plan, where masks are known.

    ``chain`` adds the original network's strip and the ends of its blocks; ``source`` is the
    subtitle. Raises PlotError where there are more frontiers than colours, where a budget cannot be
    met, or where a mask does not fit the chain.
    """
    if not frontiers:
        raise PlotError(f"no frontier to draw; write one with `{COMMAND}`")
    if len(frontiers) > len(style.SERIES_COLOURS):
        raise PlotError(
            f"{len(frontiers)} frontiers are too many for one picture (at most "
            f"{len(style.SERIES_COLOURS)})"
        )
    budgets = sorted(set(budgets_ms))
    chosen = [[frontier.best(budget) for frontier in frontiers] for budget in budgets]
    strips = [
        Strip(
            label=f"{budget:g} ms",
            mask=point.mask,
            summary=f"{layers_label(point.mask)}, {point.time_ms:.4g} ms",
            colour=style.SERIES_COLOURS[at] if len(frontiers) > 1 else style.BLACK,
        )
        for budget, points in zip(budgets, chosen, strict=True)
        for at, point in enumerate(points)
        if point.mask
    ]
    if chain is not None:
        _check_masks(strips, chain)
    if strips:
        strips = list(with_original(strips, chain))
    count = sum(len(frontier.points) for frontier in frontiers)
    subtitle = "; ".join(text for text in (source, counted(count, "point")) if text)
    strips_inches = FRAME_INCHES + STRIP_INCHES * len(strips)
    height = _CURVES_INCHES + (0.7 + strips_inches if strips else 0.9)
    with style.new_figure(height, "The best network for every latency budget", subtitle) as figure:
        if strips:
            ratios = (_CURVES_INCHES, strips_inches)
            curves, below = figure.subplots(2, 1, height_ratios=ratios)
            draw_strips(below, strips, chain)
        else:
            curves = figure.subplots()
        _draw_curves(curves, frontiers, budgets)
        _draw_budgets(curves, budgets, chosen)
    return figure


def _check_masks(strips: Sequence[Strip], chain: SpanChain) -> None:
    every_span = list(combinations(range(chain.length + 1), 2))
    for strip in strips:
        try:
            check_span_mask(strip.mask, chain, every_span)
        except LatencyTableError as error:
            raise PlotError(f"{strip.label}: {error}") from None


def _draw_curves(axes: Axes, frontiers: Sequence[FrontierCurve], budgets: Sequence[float]) -> None:
    start = min(frontier.points[0].time_ms for frontier in frontiers)
    end = max(*budgets, *(frontier.points[-1].time_ms for frontier in frontiers), start)
    end += 0.03 * (end - start or start)
    for frontier, colour in zip(frontiers, style.SERIES_COLOURS, strict=False):
        # What a budget between two points can keep is what the point before it keeps, and a budget
        # behind the last point is one of them.
        axes.step(
            [*(point.time_ms for point in frontier.points), end],
            [*(point.importance for point in frontier.points), frontier.points[-1].importance],
            where="post",
            color=colour,
            linewidth=1.4,
            label=style.shortened(frontier.label),
        )
    axes.set_xlabel("Latency [ms]")
    axes.set_ylabel("Importance (higher is better)")
    axes.margins(y=0.06)
    axes.set_xlim(start - (end - start) * 0.03, end)
    axes.grid()
    if len(frontiers) > 1:
        style.legend_above(axes, columns=3)


def _draw_budgets(
    axes: Axes, budgets: Sequence[float], chosen: Sequence[Sequence[FrontierPoint]]
) -> None:
    for budget in budgets:
        axes.axvline(budget, color=style.GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{budget:g} ms",
            (budget, 0),
            xycoords=axes.get_xaxis_transform(),
            # To the right of its line the curve is higher than to its left.
            xytext=(3, 5),
            textcoords="offset points",
            rotation=90,
            horizontalalignment="left",
            verticalalignment="bottom",
            color=style.GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    for at, points in enumerate(zip(*chosen, strict=True)):
        axes.scatter(
            [point.time_ms for point in points],
            [point.importance for point in points],
            s=30,
            color=style.SERIES_COLOURS[at],
            label=f"_chosen {at}",
            zorder=4,
        )
