"""Accuracy against throughput: a panel a set of conditions, with its Pareto front.

What others published is hollow and grey, and only ever in a panel of the device that they measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dshrink.front_results import CONDITION_COLUMNS, OPTIONAL_CONDITIONS
from dshrink.fronts import Front, FrontPoint, staircase
from dshrink.plots.errors import PlotError
from dshrink.plots.series import series_labels
from dshrink.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SERIES_COLOURS,
    SKY,
    VERMILLION,
    house_style,
    legend_above,
    new_figure,
    set_titles,
    shortened,
)
from latency_tables.published_accuracy import SOURCE, PublishedPoint

_PANEL_INCHES = 3.0
_LEGEND_LINE_INCHES = 0.17
#: A method looks the same in every picture; other ones get what is left.
METHOD_STYLES: Mapping[str, tuple[str, str]] = {
    "original": (BLACK, "*"),
    "searched": (BLUE, "o"),
    "random": (ORANGE, "s"),
    "layer_pruning": (VERMILLION, "v"),
    "width": (GREEN, "D"),
    "scratch": (PURPLE, "X"),
    "no_free_activation": (PURPLE, "^"),
    "distilled": (SKY, "P"),
    "dp": (GREEN, "h"),
    "greedy": (SKY, "<"),
    "": (BLUE, "p"),
}
_OTHER_STYLES = [
    style for style in product(SERIES_COLOURS, "o^Dv<s") if style not in METHOD_STYLES.values()
]
_PUBLISHED_MARKERS = {"standard": "o", "kd180": "^", "kd360": "s"}
_PUBLISHED_LABELS = {"standard": "DS", "kd180": "DS, KD 180", "kd360": "DS, KD 360"}
_RIVAL_MARKER, _RIVAL_LABEL = "D", "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    title: str
    front: Front | None
    published: tuple[PublishedPoint, ...]


def front_figure(
    fronts: Sequence[Front], *, published: Sequence[PublishedPoint] = (), left_out: int = 0
) -> Figure:
    """A panel a front; ``published`` points stand in those of their device, or in one of their own.

    ``left_out`` results could not be drawn, which the picture says. Raises PlotError for no point
    at all, and for more methods than marks.
    """
    if not fronts and not published:
        raise PlotError("nothing to draw: give results of `dshrink bench`, or --published DEVICE")
    styles = _styles([method for front in fronts for method in front.methods])
    panels, shared = _panels(fronts, published)
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    legend_columns = 4 if columns == 1 else 2
    handles = [_handles(panel, styles) for panel in panels]
    lines = max(-(-len(entries) // legend_columns) for entries in handles) + (columns > 1)
    with house_style():
        height = 0.9 + rows * (_PANEL_INCHES + 0.9 * (columns == 1) + _LEGEND_LINE_INCHES * lines)
        figure = new_figure(height)
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, panel, entries in zip(grid, panels, handles, strict=False):
            _draw_panel(axes, panel, styles)
            legend_above(
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
        set_titles(
            figure,
            "Accuracy against throughput",
            _subtitle(fronts, published, shared, left_out),
        )
        return figure


def _styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    others = sorted(set(methods) - set(METHOD_STYLES))
    if len(others) > len(_OTHER_STYLES):
        raise PlotError(
            f"{len(others)} methods of other names are too many for one picture (at most "
            f"{len(_OTHER_STYLES)}): draw them apart"
        )
    return {**METHOD_STYLES, **dict(zip(others, _OTHER_STYLES, strict=False))}


def _panels(
    fronts: Sequence[Front], published: Sequence[PublishedPoint]
) -> tuple[list[_Panel], list[str]]:
    """The panels, and what all measured ones share."""
    measured = {front.conditions[0] for front in fronts}
    lone_devices = [
        device
        for device in dict.fromkeys(point.device for point in published)
        if device not in measured
    ]
    titles, shared = _titles(fronts, is_alone=len(fronts) + len(lone_devices) == 1)
    panels = [
        _Panel(title=title, front=front, published=_of_device(published, front.conditions[0]))
        for title, front in zip(titles, fronts, strict=True)
    ]
    for device in lone_devices:
        points = _of_device(published, device)
        panels.append(_Panel(title=f"{device}: published only", front=None, published=points))
    return panels, shared


def _titles(fronts: Sequence[Front], *, is_alone: bool) -> tuple[list[str], list[str]]:
    if not fronts:
        return [], []
    return series_labels(
        CONDITION_COLUMNS,
        [front.conditions for front in fronts],
        unsaid=("", *OPTIONAL_CONDITIONS.values()),
        always=() if is_alone else ("device",),
    )


def _of_device(points: Sequence[PublishedPoint], device: str) -> tuple[PublishedPoint, ...]:
    return tuple(point for point in points if point.device == device)


def _batches(points: Sequence[PublishedPoint]) -> str:
    """ "batch 128 (v100), 64 (tx2)"."""
    by_batch: dict[int, dict[str, None]] = {}
    for point in points:
        by_batch.setdefault(point.batch, {})[point.device] = None
    listed = [f"{batch} ({', '.join(devices)})" for batch, devices in by_batch.items()]
    return f"batch {', '.join(listed)}"


def _subtitle(
    fronts: Sequence[Front],
    published: Sequence[PublishedPoint],
    shared: Sequence[str],
    left_out: int,
) -> str:
    parts = [", ".join(shared)]
    if fronts:
        references = {front.reference_percent for front in fronts}
        above = f"{references.pop():.4g} %" if len(references) == 1 else "its lowest accuracy"
        parts += [
            "bars and ±: 95 % intervals (of accuracy: t over seeds, none for one seed)",
            "outlined: on the front",
            "percentages: share of the hypervolume of all points measured in a panel, above "
            f"{above} and 0 frames/s",
        ]
    if left_out:
        parts.append(f"{left_out} result(s) without accuracy or throughput not drawn")
    if published:
        parts.append(
            f"hollow and grey: published, not measured by us ({SOURCE}, {_batches(published)}; KD: "
            "self-distilled for 180 or 360 epochs)"
        )
    return "; ".join(part for part in parts if part)


def _draw_panel(axes: Axes, panel: _Panel, styles: Mapping[str, tuple[str, str]]) -> None:
    _draw_published(axes, panel.published)
    if panel.front:
        for method in panel.front.methods:
            _draw_method(axes, panel.front, method, *styles[method])
        _draw_front(axes, panel.front)
    axes.set_xlabel("Throughput [frames/s]")
    axes.set_ylabel("Accuracy [%]")
    axes.grid()


def _draw_method(axes: Axes, front: Front, method: str, colour: str, marker: str) -> None:
    for is_on in (False, True):
        points = [
            point
            for point, on_front in zip(front.points, front.on_front, strict=True)
            if point.method == method and on_front == is_on
        ]
        if points:
            _draw_points(axes, points, method, colour, marker, is_on)


def _draw_points(
    axes: Axes, points: Sequence[FrontPoint], method: str, colour: str, marker: str, is_on: bool
) -> None:
    fps = [point.throughput_fps for point in points]
    percent = [point.accuracy_percent for point in points]
    x, y = [one.mean for one in fps], [one.mean for one in percent]
    alpha = 1.0 if is_on else 0.45
    axes.errorbar(
        x,
        y,
        xerr=([one.mean - one.low for one in fps], [one.high - one.mean for one in fps]),
        yerr=([one.mean - one.low for one in percent], [one.high - one.mean for one in percent]),
        fmt="none",
        ecolor=colour,
        elinewidth=0.9,
        capsize=2,
        alpha=alpha,
        label=f"_{method} errors",
        zorder=3,
    )
    axes.scatter(
        x,
        y,
        s=80 if marker == "*" else 38,
        marker=marker,
        facecolors=colour,
        edgecolors=BLACK if is_on else colour,
        linewidths=1.0 if is_on else 0.0,
        alpha=alpha,
        label=f"_{method}, {'on' if is_on else 'off'} the front",
        zorder=5 if is_on else 4,
    )


def _draw_front(axes: Axes, front: Front) -> None:
    """The edge of what the front's means are beaten by nowhere, from axis to axis."""
    corners = staircase(
        [
            point.mean
            for point, on_front in zip(front.points, front.on_front, strict=True)
            if on_front
        ]
    )
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    x, y = zip(*corners, strict=True)
    axes.step(
        [left, *x, x[-1]],
        [y[0], *y, bottom],
        where="pre",
        color=BLACK,
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
            edgecolors=GREY,
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


def _handles(panel: _Panel, styles: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    handles = []
    if panel.front:
        for method in panel.front.methods:
            colour, marker = styles[method]
            label = shortened(method.replace("_", " ") or "measured")
            handles.append(_mark(marker, label + _share(panel.front, method), colour))
        handles.append(Line2D([], [], color=BLACK, linewidth=1.1, label="Pareto front"))
    for label, marker in _published_kinds(panel.published).items():
        handles.append(_mark(marker, f"published: {label}", "none", edge=GREY))
    return handles


def _share(front: Front, method: str) -> str:
    """ ", 88 ± 2 %"; nothing where no point lies above the reference."""
    if not front.hypervolume:
        return ""
    whole, half = front.hypervolume / 100, front.method_half_width(method)
    spread = "" if half is None else f" ± {half / whole:.0f}"
    return f", {front.method_hypervolume(method) / whole:.0f}{spread} %"


def _mark(marker: str, label: str, face: str, edge: str = BLACK) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        markersize=9 if marker == "*" else 6,
        markerfacecolor=face,
        markeredgecolor=edge,
        markeredgewidth=0.9,
        label=label,
    )
