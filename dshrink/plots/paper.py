"""The paper's networks: speed-ups beside the published ones, masks beside the dynamic program."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.errors import PlotError
from dshrink.paper.experiments import UNMERGED, Experiment
from dshrink.paper.kim_masks import MaskComparison
from dshrink.paper.report import heading
from dshrink.paper.results import PaperResult
from dshrink.plots import style
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable

_ROW_INCHES = 0.27
_MARKERS = "^sDvP<>"


def speedups_figure(
    experiment: Experiment, conditions: Conditions, results: Sequence[PaperResult]
) -> Figure:
    """A row a network that was measured or published: speed-up over the first of its group.

    Filled with a 95 % interval: measured here; hollow and grey: published. Raises PlotError for
    nothing to draw.
    """
    drawn = [one for one in results if one.published or _speedup(one) is not None]
    if not drawn:
        raise PlotError(f"{experiment.name}: no network has a speed-up to draw")
    title = heading(experiment)
    below = f"{style.describe_conditions(conditions)}; hollow: published (DepthShrinker, ICML 2022)"
    with style.new_figure(1.3 + _ROW_INCHES * len(drawn), title, below) as figure:
        axes = figure.subplots()
        _draw_published(axes, experiment, drawn)
        _draw_measured(axes, drawn)
        axes.axvline(1.0, color=style.BLACK, linewidth=0.8, zorder=1)
        # Where a group ends.
        groups = [one.network.group for one in drawn]
        for row in range(1, len(drawn)):
            if groups[row] != groups[row - 1]:
                axes.axhline(row - 0.5, color=style.GREY, linewidth=0.6)
        axes.set_xscale("log")
        ticks = [tick for tick in _TICKS if _within(tick, drawn)]
        if ticks[-1] < _NARROW * ticks[0]:
            ticks = [tick for tick in _FINE_TICKS if _within(tick, drawn)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("Speed-up over the first network of the group (times, logarithmic)")
        axes.grid(axis="x")
        summaries = [_summary(one) for one in drawn]
        style.set_row_axis(axes, [one.network.name for one in drawn], summaries)
        style.legend_above(axes, columns=5)
    return figure


_TICKS = (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)

#: Where the largest tick is less than so many times the smallest, there is room for finer ones.
_NARROW = 2.5
_FINE_TICKS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4)


def _within(tick: float, drawn: Sequence[PaperResult]) -> bool:
    values = [value for one in drawn for value in (*one.published.values(), _speedup(one)) if value]
    return 0.9 * min(values) <= tick <= 1.1 * max(values) or tick == 1.0


def _speedup(one: PaperResult) -> float | None:
    return one.measured.speedup if one.measured else None


def _draw_published(axes: Axes, experiment: Experiment, drawn: Sequence[PaperResult]) -> None:
    for setting, marker in zip(experiment.settings, _MARKERS, strict=False):
        points = [
            (one.published[setting], row)
            for row, one in enumerate(drawn)
            if setting in one.published
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(
                x,
                y,
                s=32,
                marker=marker,
                facecolors="none",
                edgecolors=style.GREY,
                linewidths=0.9,
                label=setting.title,
                zorder=3,
            )


def _draw_measured(axes: Axes, drawn: Sequence[PaperResult]) -> None:
    for unmerged, colour, label in (
        (False, style.BLUE, "measured here"),
        (True, style.ORANGE, "measured here, not merged"),
    ):
        rows = [
            (row, one)
            for row, one in enumerate(drawn)
            if _speedup(one) is not None and (one.network.form == UNMERGED) == unmerged
        ]
        if rows:
            axes.errorbar(
                [_speedup(one) or 0.0 for _, one in rows],
                [row for row, _ in rows],
                xerr=style.error_lengths(_ends(one) for _, one in rows),
                fmt="o",
                color=colour,
                markersize=6,
                elinewidth=1.1,
                capsize=2.5,
                label=label,
                zorder=4,
            )


def _ends(one: PaperResult) -> tuple[float, float, float]:
    found = one.measured
    speedup = _speedup(one) or 0.0
    if found is None or found.speedup_low is None or found.speedup_high is None:
        return speedup, speedup, speedup
    return found.speedup_low, speedup, found.speedup_high


def _summary(one: PaperResult) -> str:
    found = one.measured
    if found is None or found.latency_ms is None:
        return "not measured"
    return f"{found.latency_ms:.2f} ms"


def kim_figure(table: LatencyTable, comparisons: Sequence[MaskComparison]) -> Figure:
    """Masks and what the dynamic program finds at their latency, and at their importance.

    Raises PlotError where no mask is a plan of the dynamic program.
    """
    priced = [one for one in comparisons if one.importance is not None]
    if not priced:
        raise PlotError(f"none of the {len(comparisons)} masks has an importance by this table")
    title = "Masks of blocks and the dynamic program, by one table and its importances"
    with style.new_figure(4.4, title, style.describe_table(table)) as figure:
        axes = figure.subplots()
        found = {
            (plan.predicted_ms, plan.importance)
            for one in priced
            for plan in (one.at_latency, one.at_importance)
            if plan is not None
        }
        x, y = zip(*sorted(found), strict=True)
        axes.plot(x, y, "o-", color=style.BLUE, markersize=4, label="dynamic program", zorder=3)
        axes.scatter(
            [one.predicted_ms or 0.0 for one in priced],
            [one.importance or 0.0 for one in priced],
            s=36,
            marker="s",
            color=style.VERMILLION,
            label="masks of blocks",
            zorder=4,
        )
        _name_masks(axes, priced)
        axes.set_xlabel("Predicted latency [ms]")
        axes.set_ylabel("Importance (sum of I)")
        axes.margins(x=0.12)
        axes.grid()
        style.legend_above(axes, columns=2)
    return figure


def _name_masks(axes: Axes, priced: Sequence[MaskComparison]) -> None:
    """Names to the right of the marks; to the left where the next mark's name is as high."""
    points = sorted((one.predicted_ms or 0.0, one.importance or 0.0, one.name) for one in priced)
    x, y = [point[0] for point in points], [point[1] for point in points]
    near = 0.15 * (max(x) - min(x)), 0.06 * (max(y) - min(y))
    for number, (ms, importance, name) in enumerate(points):
        is_left = any(
            later[0] - ms < near[0] and abs(later[1] - importance) < near[1]
            for later in points[number + 1 :]
        )
        axes.annotate(
            style.shortened(name),
            (ms, importance),
            xytext=(-5 if is_left else 5, -3),
            textcoords="offset points",
            horizontalalignment="right" if is_left else "left",
        )
