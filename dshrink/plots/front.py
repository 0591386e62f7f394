"""Accuracy against throughput: a panel a set of conditions, with its Pareto front.

The front is what the picture is about: points off it are small and pale, without intervals, and the
axes are cut to points, not to the widest interval. What others published is hollow and grey, and
only ever in a panel of the device that they measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dshrink.errors import PlotError
from dshrink.front_results import CONDITION_COLUMNS
from dshrink.fronts import Front, FrontPoint, MeanWithInterval, staircase
from dshrink.plots import style
from dshrink.plots.front_labels import MarkerStyle, marker_styles, subtitle
from dshrink.plots.point_labels import PointLabel, label_points, network_label
from latency_tables.published_accuracy import PublishedPoint

_PANEL_INCHES = 3.0
_LEGEND_LINE_INCHES = 0.17
#: Of what the points span, on each side.
_MARGIN = 0.12
_PUBLISHED_MARKERS = {"standard": "o", "kd180": "^", "kd360": "s"}
_PUBLISHED_LABELS = {"standard": "DS", "kd180": "DS, KD 180", "kd360": "DS, KD 360"}
_RIVAL_MARKER, _RIVAL_LABEL = "D", "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    title: str
    front: Front | None
    published: Sequence[PublishedPoint]

    @property
    def on_front(self) -> list[FrontPoint]:
        return [*compress(self.front.points, self.front.on_front)] if self.front else []

    @property
    def means(self) -> list[tuple[float, float]]:
        """Of all points, those that were published among them."""
        measured = [point.mean for point in self.front.points] if self.front else []
        return [*measured, *((one.throughput_fps, one.top1_percent) for one in self.published)]

    @property
    def spans(self) -> tuple[float, float]:
        """How far the points are apart, in frames/s and percent; 0 for one point."""
        x, y = zip(*self.means, strict=True)
        return max(x) - min(x), max(y) - min(y)


def front_figure(
    fronts: Sequence[Front], *, published: Sequence[PublishedPoint] = (), left_out: int = 0
) -> Figure:
    """A panel a front; ``published`` points are in those of their device, or in one of their own.

    Methods are named with their recipe where recipes differ, points where there is room. The
    hypervolumes are in the rows of ``front_results.front_rows``. ``left_out`` results could not be
    drawn, which the picture says. Raises PlotError for no point at all, and for more series than
    marks.
    """
    if not fronts and not published:
        raise PlotError("nothing to draw: give results of `dshrink bench`, or --published DEVICE")
    recipes = list(dict.fromkeys(recipe for front in fronts for _, recipe in front.series))
    is_mixed = len(recipes) > 1
    styles = marker_styles({one for front in fronts for one in front.series}, says_recipes=is_mixed)
    panels, shared = _panels(fronts, published)
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    legend_columns = (5 if columns == 1 else 2) // (2 if is_mixed else 1)
    handles = [_handles(panel, styles) for panel in panels]
    lines = max(-(-len(entries) // legend_columns) for entries in handles) + (columns > 1)
    height = 0.9 + rows * (_PANEL_INCHES + 0.9 * (columns == 1) + _LEGEND_LINE_INCHES * lines)
    if not is_mixed:
        shared += [f"recipe {recipe}" for recipe in recipes if recipe]
    points = [point for front in fronts for point in front.points]
    hidden = sum(_is_hidden(panel, point) for panel in panels for point in panel.on_front)
    below = subtitle(points, published, shared, hidden_bars=hidden, left_out=left_out)
    with style.new_figure(height, "Accuracy against throughput", below) as figure:
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, panel, entries in zip(grid, panels, handles, strict=False):
            _draw_panel(axes, panel, styles)
            style.legend_above(
                axes,
                columns=legend_columns,
                handles=entries,
                title=panel.title or None,
                title_fontproperties={"weight": "bold"},
                alignment="left",
                columnspacing=0.8,
                handletextpad=0.4,
            )
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
    with style.house_style():
        for axes, panel in zip(grid, panels, strict=False):
            label_points(figure, axes, _labels(panel, styles), panel.means)
    return figure


def _panels(
    fronts: Sequence[Front], published: Sequence[PublishedPoint]
) -> tuple[list[_Panel], list[str]]:
    """The panels, and what all measured ones share."""
    measured = {front.conditions[0] for front in fronts}
    lone_devices = dict.fromkeys(p.device for p in published if p.device not in measured)
    titles, shared = _titles(fronts, is_alone=len(fronts) + len(lone_devices) == 1)
    measured_at = [front.conditions[0] for front in fronts]
    drawn = [
        *zip(titles, fronts, measured_at, strict=True),
        *((f"{device}: published only", None, device) for device in lone_devices),
    ]
    panels = [
        _Panel(title=title, front=front, published=[p for p in published if p.device == device])
        for title, front, device in drawn
    ]
    return panels, shared


def _titles(fronts: Sequence[Front], *, is_alone: bool) -> tuple[list[str], list[str]]:
    if not fronts:
        return [], []
    # A digest is a name, of which the beginning does; images without one are not the others'.
    at = CONDITION_COLUMNS.index("data")
    digests = [front.conditions[at] for front in fronts]
    data = [f"data {digest[:8] or 'unknown'}" if any(digests) else "" for digest in digests]
    return style.series_labels(
        CONDITION_COLUMNS,
        [
            (*front.conditions[:at], name, *front.conditions[at + 1 :])
            for front, name in zip(fronts, data, strict=True)
        ],
        always=() if is_alone else ("device",),
    )


def _draw_panel(axes: Axes, panel: _Panel, styles: Mapping[tuple[str, str], MarkerStyle]) -> None:
    _draw_published(axes, panel.published)
    if panel.front:
        for series in panel.front.series:
            _draw_series(axes, panel, panel.front, series, styles[series])
        _cut_axes(axes, panel)
        _draw_front(axes, panel.front)
    axes.set_xlabel("Throughput [frames/s]")
    axes.set_ylabel("Accuracy [%]")
    axes.grid()


def _cut_axes(axes: Axes, panel: _Panel) -> None:
    """To the points: an interval may reach beyond."""
    x, y = zip(*panel.means, strict=True)
    across, upwards = panel.spans
    if across > 0:
        axes.set_xlim(max(min(x) - _MARGIN * across, 0.0), max(x) + _MARGIN * across)
    if upwards > 0:
        axes.set_ylim(min(y) - _MARGIN * upwards, max(y) + _MARGIN * upwards)


def _draw_series(
    axes: Axes, panel: _Panel, front: Front, series: tuple[str, str], mark: MarkerStyle
) -> None:
    for is_on in (False, True):
        points = [
            point
            for point, on_front in zip(front.points, front.on_front, strict=True)
            if point.series == series and on_front == is_on
        ]
        if points:
            _draw_points(axes, panel, points, mark, is_on)


def _draw_points(
    axes: Axes, panel: _Panel, points: Sequence[FrontPoint], mark: MarkerStyle, is_on: bool
) -> None:
    x, y = zip(*(point.mean for point in points), strict=True)
    if is_on:
        across, upwards = panel.spans
        axes.errorbar(
            x,
            y,
            xerr=style.error_lengths(_shown(one.throughput_fps, across) for one in points),
            yerr=style.error_lengths(_shown(one.accuracy_percent, upwards) for one in points),
            fmt="none",
            ecolor=mark.colour,
            elinewidth=0.8,
            alpha=0.6,
            label=f"_{mark.label} errors",
            zorder=3,
        )
    size = (80 if mark.marker == "*" else 38) * (1.0 if is_on else 0.5)
    axes.scatter(
        x,
        y,
        s=size,
        marker=mark.marker,
        facecolors=mark.colour,
        edgecolors=style.BLACK if is_on else mark.colour,
        linewidths=1.0 if is_on else 0.0,
        alpha=1.0 if is_on else 0.45,
        label=f"_{mark.label}, {'on' if is_on else 'off'} the front",
        zorder=5 if is_on else 4,
    )


def _is_wide(interval: MeanWithInterval, span: float) -> bool:
    """Whether a bar would cover what the picture is about; a lone point has nothing to cover."""
    return span > 0 and interval.high - interval.low > span / 4


def _is_hidden(panel: _Panel, point: FrontPoint) -> bool:
    measured = (point.throughput_fps, point.accuracy_percent)
    return any(_is_wide(one, span) for one, span in zip(measured, panel.spans, strict=True))


def _shown(interval: MeanWithInterval, span: float) -> tuple[float, float, float]:
    """The ends of a bar; NaN draws none."""
    hidden = (math.nan, interval.mean, math.nan)
    return hidden if _is_wide(interval, span) else interval.ends


def _labels(panel: _Panel, styles: Mapping[tuple[str, str], MarkerStyle]) -> list[PointLabel]:
    """The names of points, in the order of their importance: the front's first."""
    on = panel.on_front
    off = [point for point in panel.front.points if point not in on] if panel.front else []
    measured = [
        PointLabel(*point.mean, network_label(point.network), styles[point.series].colour)
        for point in (*on, *off)
    ]
    # A network's name is beside its most accurate training.
    best: dict[str, PublishedPoint] = {}
    for one in panel.published:
        if one.name not in best or one.top1_percent > best[one.name].top1_percent:
            best[one.name] = one
    named = [
        PointLabel(one.throughput_fps, one.top1_percent, one.name, style.GREY)
        for one in best.values()
    ]
    return [*measured, *named]


def _draw_front(axes: Axes, front: Front) -> None:
    """The edge of what the front's means are beaten by nowhere, from axis to axis."""
    corners = staircase([point.mean for point in compress(front.points, front.on_front)])
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    x, y = zip(*corners, strict=True)
    axes.step(
        [left, *x, x[-1]],
        [y[0], *y, bottom],
        where="pre",
        color=style.BLACK,
        linewidth=1.1,
        label="_front",
        zorder=2,
    )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _draw_published(axes: Axes, points: Sequence[PublishedPoint]) -> None:
    for label, marker in _published_kinds(points).items():
        of_kind = [point for point in points if _kind(point)[0] == label]
        axes.scatter(
            [point.throughput_fps for point in of_kind],
            [point.top1_percent for point in of_kind],
            s=30,
            marker=marker,
            facecolors="none",
            edgecolors=style.GREY,
            linewidths=0.9,
            label=f"_published: {label}",
            zorder=1.5,
        )
        if label != _RIVAL_LABEL:
            _join(axes, of_kind)


def _join(axes: Axes, points: Sequence[PublishedPoint]) -> None:
    """A line through the networks of one training that were made from one."""
    for model in dict.fromkeys(point.base_model for point in points):
        of_model = sorted(
            (point.throughput_fps, point.top1_percent)
            for point in points
            if point.base_model == model
        )
        axes.plot(
            *zip(*of_model, strict=True),
            color=style.GREY,
            linewidth=0.7,
            alpha=0.6,
            label="_published line",
            zorder=1.4,
        )


def _kind(point: PublishedPoint) -> tuple[str, str]:
    """What a published point is called, and its marker."""
    if not point.is_shrunk:
        return _RIVAL_LABEL, _RIVAL_MARKER
    return _PUBLISHED_LABELS[point.training], _PUBLISHED_MARKERS[point.training]


def _published_kinds(points: Sequence[PublishedPoint]) -> dict[str, str]:
    present = dict(_kind(point) for point in points)
    order = [*_PUBLISHED_LABELS.values(), _RIVAL_LABEL]
    return {label: present[label] for label in order if label in present}


def _handles(panel: _Panel, styles: Mapping[tuple[str, str], MarkerStyle]) -> list[Line2D]:
    handles = []
    if panel.front:
        for series in panel.front.series:
            mark = styles[series]
            size = 9 if mark.marker == "*" else 6
            handles.append(style.legend_mark(mark.marker, mark.label, mark.colour, size=size))
        handles.append(Line2D([], [], color=style.BLACK, linewidth=1.1, label="Pareto front"))
    for label, marker in _published_kinds(panel.published).items():
        handles.append(style.legend_mark(marker, f"published: {label}", "none", edge=style.GREY))
    return handles
