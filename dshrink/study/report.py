"""The tables of a study, as Markdown: all rows, what separates them, and the paper's Tab. 4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dshrink.fronts import MeanWithInterval, mean_interval
from dshrink.study.comparison import AccuracyDifference, paired, welch
from dshrink.study.recipe import FROM_INITIAL, ROWS

#: The columns of the paper's Tab. 4, and our rows of which they are: those of a recipe whose merged
#: blocks have the free activation, and of one whose blocks have none.
TABLE_4 = {
    "from scratch": ("scratch", "scratch"),
    "+ pre-trained": ("no_free_activation", "searched"),
    "+ free activation": ("searched", "free_activation"),
}
#: What the searched row is compared with, seed by seed: all of these have its masks.
PAIRED = ("distilled", "free_activation", "no_free_activation", "scratch", "layer_pruning")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One network of a study: the place of its row ("keep11", "0.75"), and what was measured.

    ``epochs`` are all that its weights were trained for, the pre-training within the study
    included; ``throughput_fps`` is None where it could not be measured, ``differing`` where
    nothing was merged.
    """

    method: str
    place: str
    seed: int
    accuracy_percent: float
    throughput_fps: float | None
    macs: int
    epochs: int = 0
    differing: int | None = None
    validation_images: int | None = None


def report_lines(
    title: str,
    results: Sequence[RowResult],
    *,
    remarks: Sequence[str] = (),
    failures: Mapping[str, str] | None = None,
) -> list[str]:
    """A heading, what failed, the table of all rows, what separates them from the searched one.

    And Tab. 4 where its three rows are there. ``remarks`` are sentences that come behind the table.
    """
    lines = [f"# {title}", ""]
    for name, reason in (failures or {}).items():
        lines += [f"**Failed: {name}: {reason}**", ""]
    lines += _all_rows(results)
    if any(r.method == "original" for r in results):
        lines += ["", "FPS ratios are to the original's."]
    lines += [line for remark in (*remarks, *_on_seeds(results)) for line in ("", remark)]
    if comparison := _comparison(results):
        heading = "## The searched masks against the other rows"
        lines += ["", heading, "", *_COMPARISON_NOTES, "", *comparison]
    present = {r.method for r in results}
    for rows in zip(*TABLE_4.values(), strict=True):
        if present.issuperset(rows):
            heading = "## As the paper's Tab. 4: accuracy in percent"
            lines += ["", heading, "", *_table_4(results, rows)]
    if agreed := [r for r in results if r.differing is not None]:
        wrong = sum(r.differing or 0 for r in agreed)
        images = sum(r.validation_images or 0 for r in agreed)
        lines += [
            "",
            f"Top-1 agreement of merged with unmerged networks: on {images - wrong} of {images} "
            f"validation images ({len(agreed)} networks).",
        ]
    return lines


def _all_rows(results: Sequence[RowResult]) -> list[str]:
    original = [r.throughput_fps for r in results if r.method == "original" and r.throughput_fps]
    base = sum(original) / len(original) if original else None
    rows = []
    for place in _places(results):
        for method in ROWS:
            if members := _members(results, place, method):
                rows.append(_row(place, method, members, base))
    heads = ("network", "row", "runs", "epochs", "accuracy %", "FPS", "ratio", "MACs (M)")
    return _table(heads, rows)


def _on_seeds(results: Sequence[RowResult]) -> Iterable[str]:
    """What the spread over seeds does not cover."""
    if len({r.seed for r in results}) > 1 and any(r.method not in FROM_INITIAL for r in results):
        yield (
            "All seeds start from one pre-trained network, but for the rows from initial weights "
            f"({', '.join(FROM_INITIAL)}): intervals do not cover the chance of pre-training."
        )


_COMPARISON_NOTES = (
    "Accuracy of `searched` less the other row's, in percentage points, with its 95 % interval; "
    "clear is what leaves out 0.",
    "Rows with the searched masks: a paired t-interval over the seeds. Random draws: Welch's.",
    "The FPS ratio is `searched` over the other row.",
)


def _comparison(results: Sequence[RowResult]) -> list[str]:
    rows = []
    for place in _places(results):
        ours = _members(results, place, "searched")
        for method in (*PAIRED, "random"):
            theirs = _members(results, place, method)
            found = _difference(ours, theirs, method) if ours and theirs else None
            if found is not None:
                rows.append(
                    (
                        *(place, method, str(found.runs), str(found)),
                        "" if found.half_width is None else "yes" if found.is_clear else "no",
                        _ratio(_mean_fps(ours), _mean_fps(theirs)),
                    )
                )
    heads = ("network", "against", "runs", "points (95 %)", "clear", "FPS ratio")
    return _table(heads, rows) if rows else []


def _difference(
    ours: Sequence[RowResult], theirs: Sequence[RowResult], method: str
) -> AccuracyDifference | None:
    if method == "random":
        return welch([r.accuracy_percent for r in ours], [r.accuracy_percent for r in theirs])
    return paired(_by_seed(ours), _by_seed(theirs))


def _members(results: Iterable[RowResult], place: str, method: str) -> list[RowResult]:
    return [r for r in results if (r.method, r.place) == (method, place)]


def _by_seed(results: Iterable[RowResult]) -> dict[int, float]:
    return {r.seed: r.accuracy_percent for r in results}


def _mean_fps(results: Iterable[RowResult]) -> float | None:
    rates = [r.throughput_fps for r in results if r.throughput_fps]
    return sum(rates) / len(rates) if rates else None


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours and theirs else ""


def _row(
    place: str, method: str, members: Sequence[RowResult], base_fps: float | None
) -> tuple[str, ...]:
    mean = _mean_fps(members)
    macs = sum(r.macs for r in members) / len(members)
    return (
        place or "whole",
        method,
        str(len(members)),
        "/".join(map(str, sorted({r.epochs for r in members}))),
        _shown(mean_interval([r.accuracy_percent for r in members], highest=100.0), len(members)),
        f"{mean:.1f}" if mean else "",
        _ratio(mean, base_fps),
        f"{macs / 1e6:.2f}",
    )


def _table_4(results: Sequence[RowResult], methods: Sequence[str]) -> list[str]:
    rows = []
    for place in _places(results):
        columns = [_by_seed(_members(results, place, method)) for method in methods]
        gains = [paired(column, columns[0]) for column in columns[1:]]
        if all(columns) and None not in gains:
            first, *others = (sum(column.values()) / len(column) for column in columns)
            cells = [f"{mean:.2f} [{gain}]" for mean, gain in zip(others, gains, strict=True)]
            rows.append((place, f"{first:.2f}", *cells))
    return _table(("network", *TABLE_4), rows)


def _places(results: Iterable[RowResult]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.place for r in results))


def _shown(value: MeanWithInterval, count: int) -> str:
    """The mean, and its 95 % interval where there are several runs."""
    return f"{value.mean:.2f}" + (f" ({value.low:.2f} - {value.high:.2f})" if count > 1 else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown whose columns are aligned as plain text, too."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    return [line(heads), line(["-" * width for width in widths]), *map(line, rows)]
