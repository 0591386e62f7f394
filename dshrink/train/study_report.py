"""The tables of a study, as Markdown: all rows, and the paper's Tab. 4 in its own layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dshrink.fronts import Estimate, estimate
from dshrink.train.recipes import ROWS

#: The columns of the paper's Tab. 4, and our rows of which they are.
TABLE_4 = {
    "from scratch": "scratch",
    "+ pre-trained": "no_free_activation",
    "+ free activation": "searched",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One network of a study: the place of its row ("keep11", "0.75"), and what was measured.

    ``throughput_fps`` is None where it could not be measured.
    """

    method: str
    place: str
    seed: int
    accuracy_percent: float
    throughput_fps: float | None
    macs: int
    differing: int | None = None
    validation_images: int | None = None


def report_lines(title: str, results: Sequence[RowResult]) -> list[str]:
    """A heading, the table of all rows, and Tab. 4 where its three rows are there."""
    lines = [f"# {title}", "", *_all_rows(results)]
    if any(r.method == "original" for r in results):
        lines += ["", "FPS ratios are to the original's."]
    if all(any(r.method == row for r in results) for row in TABLE_4.values()):
        lines += ["", "## As the paper's Tab. 4: accuracy in percent", "", *_table_4(results)]
    if agreed := [r for r in results if r.validation_images is not None]:
        wrong = sum(r.differing or 0 for r in agreed)
        images = sum(r.validation_images or 0 for r in agreed)
        lines += [
            "",
            f"Merged and unmerged networks told {images} images apart ({len(agreed)} networks), "
            f"{'all alike' if not wrong else f'{wrong} of them otherwise'}.",
        ]
    return lines


def _all_rows(results: Sequence[RowResult]) -> list[str]:
    original = [r.throughput_fps for r in results if r.method == "original" and r.throughput_fps]
    base = sum(original) / len(original) if original else None
    rows = []
    for place in _places(results):
        for method in ROWS:
            members = [r for r in results if (r.method, r.place) == (method, place)]
            if members:
                rows.append(_row(place, method, members, base))
    heads = ("network", "row", "runs", "accuracy %", "FPS", "ratio", "MACs (M)")
    return _table(heads, rows)


def _row(
    place: str, method: str, members: Sequence[RowResult], base_fps: float | None
) -> tuple[str, ...]:
    rates = [r.throughput_fps for r in members if r.throughput_fps]
    mean = sum(rates) / len(rates) if rates else None
    macs = sum(r.macs for r in members) / len(members)
    return (
        place or "whole",
        method,
        str(len(members)),
        _shown(estimate([r.accuracy_percent for r in members], highest=100.0), len(members)),
        f"{mean:.1f}" if mean else "",
        f"{mean / base_fps:.2f}" if mean and base_fps else "",
        f"{macs / 1e6:.2f}",
    )


def _table_4(results: Sequence[RowResult]) -> list[str]:
    rows = []
    for place in _places(results):
        means = []
        for method in TABLE_4.values():
            found = [r.accuracy_percent for r in results if (r.method, r.place) == (method, place)]
            means.append(sum(found) / len(found) if found else None)
        if None in means:
            continue
        first = means[0] or 0.0
        cells = [f"{mean:.2f} ({mean - first:+.2f})" for mean in means[1:] if mean is not None]
        rows.append((place, f"{first:.2f}", *cells))
    return _table(("network", *TABLE_4), rows)


def _places(results: Iterable[RowResult]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.place for r in results))


def _shown(value: Estimate, count: int) -> str:
    """The mean, and its 95 % interval where several runs tell one."""
    return f"{value.mean:.2f}" + (f" ({value.low:.2f} - {value.high:.2f})" if count > 1 else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown whose columns also stand under each other where it is printed."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    return [line(heads), line(["-" * width for width in widths]), *map(line, rows)]
