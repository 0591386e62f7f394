"""Names beside points, where there is room for them.

A name is tried on all sides of its point, nearest first, and left out where it would cover a mark,
another name or the edge of the axes: the data are read first, and every name is in the CSV. Lines
are crossed where nothing else is left. Places are known only once the picture is laid out, so this
comes last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import pts_to_prestep
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from dshrink.plots import style

#: (x, y) of a name from its point, in points, and how it is aligned there.
_SIDES = (
    (6, 5, "left", "bottom"),
    (-6, 5, "right", "bottom"),
    (6, -5, "left", "top"),
    (-6, -5, "right", "top"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
)
#: Half the side of a mark, in points.
_MARK_POINTS = 4.5
_DARKER = 0.7
_SEED = re.compile(r"(?:^|[-_. ])seed[-_=]?\d+(?!\d)")
_PLACE = re.compile(r"(?:.*[-_/])?(?:keep(?P<keep>\d+)|(?P<budget>[\d.]+)ms)")


@dataclass(frozen=True, slots=True)
class PointLabel:
    """A name, and the point that it belongs to, in the data of the axes."""

    x: float
    y: float
    text: str
    colour: str = style.BLACK


def network_label(network: str) -> str:
    """What a network is called beside its point: "keep 2" for searched_keep2_seed0.onnx."""
    name = _SEED.sub("", network.removesuffix(".onnx"))
    if found := _PLACE.fullmatch(name):
        keep = found["keep"]
        return f"keep {keep}" if keep is not None else f"{found['budget']} ms"
    return style.shortened(name or network)


def label_points(
    figure: Figure,
    axes: Axes,
    labels: Sequence[PointLabel],
    marks: Iterable[tuple[float, float]],
) -> None:
    """Write the names that fit, the first ones first; ``marks`` are all points of the axes.

    The figure must be complete: nothing may move its axes afterwards.
    """
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    figure.draw_without_rendering()
    # matplotlib before 3.11 does not type it.
    renderer: Any = canvas.get_renderer()  # type: ignore[no-untyped-call, unused-ignore]
    half = _MARK_POINTS * figure.dpi / 72
    to_pixels = axes.transData.transform
    taken = [
        Bbox.from_extents(x - half, y - half, x + half, y + half)
        for x, y in (to_pixels(mark) for mark in marks)
    ]
    strokes = [Path(to_pixels(stroke)) for stroke in _strokes(axes)]
    inside = axes.get_window_extent(renderer)
    for label in labels:
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            color=_dark(label.colour),
            zorder=6,
        )
        text.set_in_layout(False)
        fitting: list[tuple[int, int, Bbox]] = []
        for number, side in enumerate(_SIDES):
            _put(text, side)
            box = text.get_window_extent(renderer)
            if _holds(inside, box) and not box.count_overlaps(taken):
                crossed = sum(stroke.intersects_bbox(box, filled=False) for stroke in strokes)
                fitting.append((crossed, number, box))
        if fitting:
            _, number, box = min(fitting, key=lambda one: one[:2])
            _put(text, _SIDES[number])
            taken.append(box)
        else:
            text.remove()


def _put(text: Annotation, side: tuple[int, int, str, str]) -> None:
    x, y, horizontal, vertical = side
    text.set(position=(x, y), horizontalalignment=horizontal, verticalalignment=vertical)


def _holds(outer: Bbox, box: Bbox) -> bool:
    across = outer.x0 <= box.x0 and box.x1 <= outer.x1
    return bool(across and outer.y0 <= box.y0 and box.y1 <= outer.y1)


def _strokes(axes: Axes) -> Iterator[Any]:
    """What is drawn as lines, in data coordinates: bars, and lines with their steps."""
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            # The bar of a hidden interval is empty.
            yield from (one for one in collection.get_segments() if len(one) > 1)
    for line in axes.lines:
        x, y = (np.asarray(one, dtype=float) for one in line.get_data())
        if len(x) > 1:
            if line.get_drawstyle() == "steps-pre":
                x, y = pts_to_prestep(x, y)
            yield np.column_stack((x, y))


def _dark(colour: str) -> tuple[float, ...]:
    """A colour that is readable as text on white."""
    return tuple(_DARKER * part for part in to_rgb(colour))
