"""Accuracy against throughput: a panel a set of conditions, with its Pareto front.

What others published is hollow and grey, and only ever in a panel of the device that they measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dshrink.errors import PlotError
from dshrink.front_results import CONDITION_COLUMNS
from dshrink.fronts import Front, FrontPoint, staircase
from dshrink.plots import style
from dshrink.plots.front_labels import MarkerStyle, marker_styles, subtitle
from latency_tables.published_accuracy import PublishedPoint

_PANEL_INCHES = 3.0
_LEGEND_LINE_INCHES = 0.17
_PUBLISHED_MARKERS = {"standard": "o", "kd180": "^", "kd360": "s"}
_PUBLISHED_LABELS = {"standard": "DS", "kd180": "DS, KD 180", "kd360": "DS, KD 360"}
_RIVAL_MARKER, _RIVAL_LABEL = "D", "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    title: str
    front: Front | None
    published: Sequence[PublishedPoint]


def front_figure(
    fronts: Sequence[Front], *, published: Sequence[PublishedPoint] = (), left_out: int = 0
) -> Figure:
    """A panel a front; ``published`` points are in those of their device, or in one of their own.

    Methods are named with their recipe where recipes differ. ``left_out`` results could not be
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
    legend_columns = (4 if columns == 1 else 2) // (2 if is_mixed else 1)
    handles = [_handles(panel, styles) for panel in panels]
    lines = max(-(-len(entries) // legend_columns) for entries in handles) + (columns > 1)
    height = 0.9 + rows * (_PANEL_INCHES + 0.9 * (columns == 1) + _LEGEND_LINE_INCHES * lines)
    if not is_mixed:
        shared += [f"recipe {recipe}" for recipe in recipes if recipe]
    below = subtitle(fronts, published, shared, left_out)
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
            _draw_series(axes, panel.front, series, styles[series])
        _draw_front(axes, panel.front)
    axes.set_xlabel("Throughput [frames/s]")
    axes.set_ylabel("Accuracy [%]")
    axes.grid()


def _draw_series(axes: Axes, front: Front, series: tuple[str, str], mark: MarkerStyle) -> None:
    for is_on in (False, True):
        points = [
            point
            for point, on_front in zip(front.points, front.on_front, strict=True)
            if point.series == series and on_front == is_on
        ]
        if points:
            _draw_points(axes, points, mark, is_on)


def _draw_points(axes: Axes, points: Sequence[FrontPoint], mark: MarkerStyle, is_on: bool) -> None:
    x, y = zip(*(point.mean for point in points), strict=True)
    alpha = 1.0 if is_on else 0.45
    axes.errorbar(
        x,
        y,
        xerr=style.error_lengths(point.throughput_fps.ends for point in points),
        yerr=style.error_lengths(point.accuracy_percent.ends for point in points),
        fmt="none",
        ecolor=mark.colour,
        elinewidth=0.9,
        capsize=2,
        alpha=alpha,
        label=f"_{mark.label} errors",
        zorder=3,
    )
    axes.scatter(
        x,
        y,
        s=80 if mark.marker == "*" else 38,
        marker=mark.marker,
        facecolors=mark.colour,
        edgecolors=style.BLACK if is_on else mark.colour,
        linewidths=1.0 if is_on else 0.0,
        alpha=alpha,
        label=f"_{mark.label}, {'on' if is_on else 'off'} the front",
        zorder=5 if is_on else 4,
    )


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
            mark, share = styles[series], _share(panel.front, series)
            size = 9 if mark.marker == "*" else 6
            label = mark.label + share
            handles.append(style.legend_mark(mark.marker, label, mark.colour, size=size))
        handles.append(Line2D([], [], color=style.BLACK, linewidth=1.1, label="Pareto front"))
    for label, marker in _published_kinds(panel.published).items():
        handles.append(style.legend_mark(marker, f"published: {label}", "none", edge=style.GREY))
    return handles


def _share(front: Front, series: tuple[str, str]) -> str:
    """ ", 88 ± 2 %"; nothing where no point lies above the reference."""
    if not front.hypervolume:
        return ""
    whole, (volume, half) = front.hypervolume / 100, front.series_hypervolume(series)
    spread = "" if half is None else f" ± {half / whole:.0f}"
    return f", {volume / whole:.0f}{spread} %"
