"""What series of results are called: what all of them share, and what sets each apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dshrink.plots.style import CLOCK_LABELS, LAUNCH_LABELS, threads_label

#: How results are measured if nothing else is said of them.
_UNSAID = ("", "plain", "hot")


def series_labels(
    columns: Sequence[str],
    series: Sequence[tuple[str, ...]],
    always: Collection[str] = (),
) -> tuple[list[str], list[str]]:
    """A label a series, of the columns that differ and of ``always``; and what all of them share.

    A series has one value a column; what is shared and as by default goes without saying.
    """
    values = list(zip(*series, strict=True))
    differing = [
        place for place, name in enumerate(columns) if name in always or len(set(values[place])) > 1
    ]
    shared = [
        phrase(name, values[place][0])
        for place, name in enumerate(columns)
        if place not in differing and values[place][0] not in _UNSAID
    ]
    labels = [
        ", ".join(phrase(columns[place], key[place]) for place in differing if key[place])
        for key in series
    ]
    return labels, shared


def phrase(column: str, value: str) -> str:
    """A value as it is read out: "batch 8", "2 threads", "wall time"."""
    if column == "batch":
        return f"batch {value}"
    if column == "threads":
        return threads_label(value)
    if column == "cache_mode":
        return f"{value} cache"
    if column == "launch":
        return LAUNCH_LABELS.get(value, value)
    return CLOCK_LABELS.get(value, value) if column == "clock" else value
