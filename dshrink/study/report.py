"""The tables of a study, as Markdown: all rows, what separates them, and the paper's Tab. 4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dshrink.fronts import mean_interval
from dshrink.markdown import markdown_table
from dshrink.study.comparison import AccuracyDifference, paired, welch
from dshrink.study.recipe import FROM_INITIAL, ROWS
from latency_tables.wording import counted

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


#: Results by their place, then by their row.
Groups = dict[str, dict[str, list[RowResult]]]


def report_lines(
    title: str,
    results: Sequence[RowResult],
    *,
    remarks: Sequence[str] = (),
    failures: Mapping[str, str] | None = None,
) -> list[str]:
    """A heading, what failed, the table of all rows, what separates them from the searched one.

    And Tab. 4 where its three rows are there. ``remarks`` are sentences that follow the table.
    """
    lines = [f"# {title}", ""]
    for name, reason in (failures or {}).items():
        lines += [f"**Failed: {name}: {reason}**", ""]
    groups = _grouped(results)
    present = {r.method for r in results}
    lines += _all_rows(groups)
    if "original" in present:
        remarks = ["FPS ratios are to the original's.", *remarks]
    if len({r.seed for r in results}) > 1 and not present.issubset(FROM_INITIAL):
        remarks = [*remarks, _ON_SEEDS]
    lines += [line for remark in remarks for line in ("", remark)]
    if comparison := _comparison(groups):
        heading = "## The searched masks against the other rows"
        lines += ["", heading, "", *_COMPARISON_NOTES, "", *comparison]
    for rows in zip(*TABLE_4.values(), strict=True):
        if present.issuperset(rows):
            heading = "## As the paper's Tab. 4: accuracy in percent"
            lines += ["", heading, "", *_table_4(groups, rows)]
    if agreed := [r for r in results if r.differing is not None]:
        wrong = sum(r.differing or 0 for r in agreed)
        images = sum(r.validation_images or 0 for r in agreed)
        lines += [
            "",
            f"Top-1 agreement of merged with unmerged networks: on {images - wrong} of {images} "
            f"validation images ({counted(len(agreed), 'network')}).",
        ]
    return lines


def _grouped(results: Iterable[RowResult]) -> Groups:
    groups: Groups = {}
    for result in results:
        groups.setdefault(result.place, {}).setdefault(result.method, []).append(result)
    return groups


def _all_rows(groups: Groups) -> list[str]:
    originals = [r for methods in groups.values() for r in methods.get("original", ())]
    base = _mean_fps(originals)
    rows = [
        _row(place, method, methods[method], base)
        for place, methods in groups.items()
        for method in ROWS
        if method in methods
    ]
    heads = ("network", "row", "runs", "epochs", "accuracy %", "FPS", "ratio", "MACs (M)")
    return markdown_table(heads, rows)


_ON_SEEDS = (
    "All seeds start from one pre-trained network, but for the rows from initial weights "
    f"({', '.join(FROM_INITIAL)}): intervals do not cover the variance of pre-training."
)
_COMPARISON_NOTES = (
    "Accuracy of `searched` minus that of the other row, in percentage points, with its 95 % "
    "interval; significant if it excludes 0.",
    "Rows with the searched masks: a paired t-interval over the seeds. Random draws: Welch's.",
    "The FPS ratio is `searched` over the other row.",
)


def _comparison(groups: Groups) -> list[str]:
    rows = []
    for place, methods in groups.items():
        ours = methods.get("searched", [])
        for method in (*PAIRED, "random"):
            theirs = methods.get(method, [])
            found = _difference(ours, theirs, method) if ours and theirs else None
            if found is not None:
                decided = "yes" if found.is_significant else "no"
                rows.append(
                    (
                        *(place, method, str(found.runs), str(found)),
                        "" if found.half_width is None else decided,
                        _ratio(_mean_fps(ours), _mean_fps(theirs)),
                    )
                )
    heads = ("network", "against", "runs", "points (95 %)", "significant", "FPS ratio")
    return markdown_table(heads, rows) if rows else []


def _difference(
    ours: Sequence[RowResult], theirs: Sequence[RowResult], method: str
) -> AccuracyDifference | None:
    if method == "random":
        return welch([r.accuracy_percent for r in ours], [r.accuracy_percent for r in theirs])
    return paired(_by_seed(ours), _by_seed(theirs))


def _by_seed(results: Iterable[RowResult]) -> dict[int, float]:
    return {r.seed: r.accuracy_percent for r in results}


def _mean_fps(results: Iterable[RowResult]) -> float | None:
    rates = [r.throughput_fps for r in results if r.throughput_fps]
    return fmean(rates) if rates else None


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours and theirs else ""


def _row(
    place: str, method: str, members: Sequence[RowResult], base_fps: float | None
) -> tuple[str, ...]:
    mean = _mean_fps(members)
    accuracy = mean_interval([r.accuracy_percent for r in members], highest=100.0)
    interval = f" ({accuracy.low:.2f} - {accuracy.high:.2f})" if len(members) > 1 else ""
    return (
        place or "whole",
        method,
        str(len(members)),
        "/".join(map(str, sorted({r.epochs for r in members}))),
        f"{accuracy.mean:.2f}{interval}",
        f"{mean:.1f}" if mean else "",
        _ratio(mean, base_fps),
        f"{fmean(r.macs for r in members) / 1e6:.2f}",
    )


def _table_4(groups: Groups, methods: Sequence[str]) -> list[str]:
    rows = []
    for place, members in groups.items():
        columns = [_by_seed(members.get(method, ())) for method in methods]
        gains = [paired(column, columns[0]) for column in columns[1:]]
        if all(columns) and None not in gains:
            first, *others = (fmean(column.values()) for column in columns)
            cells = [f"{mean:.2f} [{gain}]" for mean, gain in zip(others, gains, strict=True)]
            rows.append((place, f"{first:.2f}", *cells))
    return markdown_table(("network", *TABLE_4), rows)
