"""What a picture of fronts calls its series, their marks, and the subtitle.

A series is a method with a recipe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from dshrink.errors import PlotError
from dshrink.fronts import FrontPoint
from dshrink.plots import style
from latency_tables.published_accuracy import SOURCE, PublishedPoint
from latency_tables.wording import counted

#: Of a recipe behind a method's name: two such labels are side by side.
_RECIPE_COLUMNS = 18
#: A method has the same mark in every picture; other ones get what is left.
METHOD_STYLES: Mapping[str, tuple[str, str]] = {
    "original": (style.BLACK, "*"),
    "searched": (style.BLUE, "o"),
    "random": (style.ORANGE, "s"),
    "layer_pruning": (style.VERMILLION, "v"),
    "width": (style.GREEN, "D"),
    "scratch": (style.PURPLE, "X"),
    "no_free_activation": (style.PURPLE, "^"),
    "distilled": (style.SKY, "P"),
    "dp": (style.GREEN, "h"),
    "greedy": (style.SKY, "<"),
    "": (style.BLUE, "p"),
}
#: Neighbours differ in colour and mark.
_OTHER_STYLES = [
    mark
    for marker, colour in product("^Dv<so", (*style.SERIES_COLOURS, style.ORANGE))
    if (mark := (colour, marker)) not in METHOD_STYLES.values()
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkerStyle:
    """What a series is called, and its mark."""

    label: str
    colour: str
    marker: str


def marker_styles(
    series: Collection[tuple[str, str]], *, says_recipes: bool
) -> dict[tuple[str, str], MarkerStyle]:
    """A method's first recipe has the method's own mark, further ones others of its colour."""
    spare, marks = list(_OTHER_STYLES), dict[tuple[str, str], tuple[str, str]]()
    for method, recipe in sorted(series):
        mark = METHOD_STYLES.get(method)
        if mark is None or mark in marks.values():
            if not spare:
                raise PlotError(
                    f"{len(series)} methods and recipes are too many for one picture (at most "
                    f"{len(_OTHER_STYLES)} beside the first recipe of each known method): draw "
                    "them apart"
                )
            alike = [one for one in spare if mark and one[0] == mark[0]]
            mark = (alike or spare)[0]
            spare.remove(mark)
        marks[method, recipe] = mark
    return {
        (method, recipe): MarkerStyle(
            label=_label(method, recipe if says_recipes else ""), colour=colour, marker=marker
        )
        for (method, recipe), (colour, marker) in marks.items()
    }


def _label(method: str, recipe: str) -> str:
    named = style.shortened(method.replace("_", " ") or "measured")
    if len(recipe) > _RECIPE_COLUMNS:
        recipe = f"...{recipe[3 - _RECIPE_COLUMNS :]}"
    return f"{named} ({recipe})" if recipe else named


def _batches(points: Sequence[PublishedPoint]) -> str:
    """ "batch 128 (v100), 64 (tx2)"."""
    by_batch: dict[int, dict[str, None]] = {}
    for point in points:
        by_batch.setdefault(point.batch, {})[point.device] = None
    listed = [f"{batch} ({', '.join(devices)})" for batch, devices in by_batch.items()]
    return f"batch {', '.join(listed)}"


def subtitle(
    points: Sequence[FrontPoint],
    published: Sequence[PublishedPoint],
    shared: Sequence[str],
    *,
    hidden_bars: int,
    left_out: int,
) -> str:
    """What all panels share, in a line, and how to read the picture, in another."""
    reading: list[str] = []
    if points:
        reading.append("outlined: on the front (not clearly beaten), with 95 % intervals")
        if not all(point.has_accuracy_interval for point in points):
            reading.append("no bar of accuracy where its noise is unknown")
    if hidden_bars:
        reading.append(
            f"{counted(hidden_bars, 'interval')} wider than a quarter of the points' range left out"
        )
    if left_out:
        reading.append(f"{counted(left_out, 'result')} without accuracy or throughput not drawn")
    lines = [", ".join(shared), "; ".join(reading)]
    if published:
        lines.append(f"hollow: published, not measured by us ({SOURCE}, {_batches(published)})")
    return "\n".join(line for line in lines if line)
