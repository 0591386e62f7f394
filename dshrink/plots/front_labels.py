"""What a picture of fronts calls its series, their marks, and the subtitle.

A series is a method with a recipe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from dshrink.errors import PlotError
from dshrink.fronts import Front, FrontPoint
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
    fronts: Sequence[Front],
    published: Sequence[PublishedPoint],
    shared: Sequence[str],
    left_out: int,
) -> str:
    """What all panels share, and how to read the picture."""
    parts = [", ".join(shared)]
    if fronts:
        references = {front.reference_percent for front in fronts}
        above = f"{references.pop():.4g} %" if len(references) == 1 else "its lowest accuracy"
        parts += [
            *_noise([point for front in fronts for point in front.points]),
            "outlined: on the front",
            "percentages: share of the hypervolume of all points measured in a panel, above "
            f"{above} and 0 frames/s",
        ]
        halves = [front.series_hypervolume(one)[1] for front in fronts for one in front.series]
        if any(half is not None for half in halves):
            parts.append(
                "with ±: mean and 95 % interval over the volumes of single seeds, that of all "
                "points taken as exact"
            )
    if left_out:
        parts.append(f"{counted(left_out, 'result')} without accuracy or throughput not drawn")
    if published:
        parts.append(
            f"hollow and grey: published, not measured by us ({SOURCE}, {_batches(published)}; KD: "
            "self-distilled for 180 or 360 epochs)"
        )
    return "; ".join(part for part in parts if part)


def _noise(points: Sequence[FrontPoint]) -> list[str]:
    """What the bars are, and what it means that a point has none."""
    rules = ["t over seeds"] if any(len(point.of_seeds) > 1 for point in points) else []
    if any(point.validation_images for point in points):
        rules.append("Wilson's over the validation images")
    wider = "the wider of " if len(rules) > 1 else ""
    of_accuracy = f" (of accuracy: {wider}{' and '.join(rules)})" if rules else ""
    said = [f"bars: 95 % intervals{of_accuracy}"]
    if not all(point.has_accuracy_interval for point in points):
        said.append(
            "no bar of accuracy: one seed, number of images unknown, so that accuracy alone beats "
            "nothing and is not beaten"
        )
    return said
