"""Masks in the cells of CSV files, which spreadsheets and pandas take for numbers.

0011 comes back as 11, and 17 characters as 1.1e+16 or with zeros for the last two. What was lost is
not guessed: a mask is refused where it cannot be one, and where masks of one network differ in
length.
"""

from __future__ import annotations

from collections.abc import Iterable

from latency_tables.csv_lines import CsvLine
from latency_tables.span_masks import ACTIVE, LINEAR, MERGED


def as_text(name: str) -> str:
    """How a column of masks stays what it is."""
    return (
        "read as a number by a spreadsheet or pandas? import the column as text, "
        f"dtype={{{name!r}: str}}"
    )


def mask_in(line: CsvLine, name: str) -> str:
    """The mask in a column, empty where there is none. Raises the source's error."""
    mask = line.text(name) if name in line.values else ""
    if set(mask) - {ACTIVE, LINEAR, MERGED}:
        raise line.error(
            f"{name} must hold one {ACTIVE}, {MERGED} or {LINEAR} a block or convolution, got "
            f"{mask} ({as_text(name)})"
        )
    return mask


def check_lengths(masks: Iterable[tuple[CsvLine, str]], name: str) -> None:
    """Raise the source's error unless masks of one network, each from its line, agree in length."""
    known = [(line, mask) for line, mask in masks if mask]
    if not known:
        return
    longest, whole = max(known, key=lambda one: len(one[1]))
    for line, mask in known:
        if len(mask) != len(whole):
            raise line.error(
                f"{name} {mask} has {len(mask)} characters, that of line {longest.number} has "
                f"{len(whole)} ({as_text(name)})"
            )
