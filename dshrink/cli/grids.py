"""Tables for a terminal of any width, and for a pipe.

Where a terminal is too narrow, texts are shortened and columns are left out, those of the highest
rank first; a number is never cut. A pipe gets all columns whole, one line a row, at least two
spaces apart (``awk -F '  +'``), and "-" for a cell without a value.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, TypeVar

from dshrink.cli.console import out

R = TypeVar("R")
GAP = "  "

#: The columns of a study's report that a narrow terminal does without, and their ranks.
_REPORT_RANKS = {"MACs (M)": 3, "epochs": 2, "runs": 1, "+ pre-trained": 1}


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """A column of a table of records.

    ``rank`` 0 is always shown. ``least`` is the width that a text may be shortened to, None: never;
    prose ends after a word then, a name lacks its middle.
    """

    header: str
    cell: Callable[[R], str]
    rank: int = 0
    least: int | None = None
    is_number: bool = False
    is_prose: bool = False


def number(
    header: str, value: Callable[[R], float | None], form: str, *, suffix: str = "", rank: int = 0
) -> Column[R]:
    """A column of numbers in the format ``form``; a cell is empty where there is None."""

    def cell(record: R) -> str:
        known = value(record)
        return "" if known is None else format(known, form) + suffix

    return Column(header, cell, rank=rank, is_number=True)


@dataclass(frozen=True, slots=True)
class _Filled:
    """A column's cells, and the width that it is shown in."""

    column: Column[Any]
    cells: tuple[str, ...]
    width: int

    @classmethod
    def of(cls, column: Column[R], records: Sequence[R]) -> _Filled:
        cells = tuple(" ".join(column.cell(record).split()) for record in records)
        return cls(column, cells, max(map(len, (column.header, *cells))))

    @property
    def least(self) -> int:
        allowed = self.width if self.column.least is None else self.column.least
        return min(self.width, max(allowed, len(self.column.header)))

    def aligned(self, text: str) -> str:
        if len(text) > self.width:
            shorten = _shortened_at_a_word if self.column.is_prose else _shortened_inside
            text = shorten(text, self.width)
        return f"{text:>{self.width}}" if self.column.is_number else f"{text:<{self.width}}"


def _shortened_inside(name: str, width: int) -> str:
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def _shortened_at_a_word(prose: str, width: int) -> str:
    return textwrap.shorten(prose, width, placeholder="…")


def screen_width() -> int | None:
    """The columns of the terminal; None where standard output is none."""
    return out.width if out.is_terminal else None


def print_grid(
    columns: Sequence[Column[R]], records: Sequence[R], *, title: str = "", wide: bool = False
) -> None:
    """Print a table with a line for each record; ``wide`` shows all of it on any terminal."""
    screen = screen_width()
    filled = [_Filled.of(column, records) for column in columns]
    shown, note = filled, ""
    if screen is not None and not wide:
        shown, note = _fitted([one for one in filled if any(one.cells) or not records], screen)
    if title:
        out.print(title, soft_wrap=screen is None)
    _print_row(shown, [one.column.header for one in shown], style="bold")
    if screen is not None:
        _print_row(shown, ["─" * one.width for one in shown])
    for cells in zip(*(one.cells for one in shown), strict=True):
        _print_row(shown, cells if screen is not None else [cell or "-" for cell in cells])
    if note:
        out.print(note, style="dim", soft_wrap=False)


def _print_row(shown: Sequence[_Filled], cells: Sequence[str], style: str | None = None) -> None:
    line = GAP.join(one.aligned(cell) for one, cell in zip(shown, cells, strict=True))
    out.print(line.rstrip(), style=style)


def _fitted(filled: Sequence[_Filled], room: int) -> tuple[list[_Filled], str]:
    """The columns that fit in, the names among them as wide as there is room; what that cost."""
    kept: list[_Filled] = []
    left = room + len(GAP)
    for one in sorted(filled, key=lambda one: one.column.rank):
        if one.column.rank == 0 or one.least + len(GAP) <= left:
            kept.append(one)
            left -= one.least + len(GAP)
    fitted: list[_Filled] = []
    for one in filter(kept.__contains__, filled):
        width = one.least + min(one.width - one.least, max(left, 0))
        left -= width - one.least
        fitted.append(replace(one, width=width))
    left_out = ", ".join(one.column.header for one in filled if one not in kept)
    notes = [f"columns left out: {left_out}"] if left_out else []
    if any(len(cell) > one.width for one in fitted for cell in one.cells):
        notes.append("texts shortened")
    return fitted, "; ".join([*notes, "--wide shows all"]) if notes else ""


def print_page(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and what is known of them, wrapped beside the name on a terminal."""
    pairs = list(facts)
    left = max(len(name) for name, _ in pairs) + len(GAP)
    room = 2**16 if (screen := screen_width()) is None else max(screen - left, 20)
    for name, value in pairs:
        for line in textwrap.wrap(value, room, break_on_hyphens=False) or [""]:
            out.print(f"{name:<{left}}{line}".rstrip())
            name = ""


def print_report(lines: Iterable[str], *, wide: bool = False) -> None:
    """Print Markdown, with its tables as ``print_grid`` has them."""
    for is_table, group in groupby(lines, key=lambda line: line.startswith("|")):
        if is_table:
            heads, _, *rows = ([cell.strip() for cell in line[2:-2].split(" | ")] for line in group)
            columns = [
                Column(head, itemgetter(at), rank=_REPORT_RANKS.get(head, 0))
                for at, head in enumerate(heads)
            ]
            print_grid(columns, rows, wide=wide)
        else:
            out.print("\n".join(group), soft_wrap=screen_width() is None)
