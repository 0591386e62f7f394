"""What a page is made of: sections of texts, facts, tables, drawings, warnings and commands.

Everything is plain text here; the template escapes it, as names of devices and networks come from
files. Each table and drawing carries its own numbers, which the page offers as a CSV file.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bokeh.model import Model

Value = str | float | int | None
Mood = Literal["good", "doubtful", "bad", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What the next blocks are about."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A question that a reader has, the answer in a few words, and what belongs to it."""

    label: str
    value: str
    note: str = ""
    mood: Mood = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts beside each other; ``is_large`` are those that a page begins with."""

    kind: ClassVar = "facts"
    facts: tuple[Fact, ...]
    is_large: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A warning, and what to do about it; ``count`` how often it was given, ``where`` by what."""

    text: str
    advice: str = ""
    count: int = 1
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warnings:
    """All warnings of a page, each once."""

    kind: ClassVar = "warnings"
    warnings: tuple[Warned, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line, and what it is for."""

    purpose: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Commands in the order in which to give them."""

    kind: ClassVar = "commands"
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a grid; ``hint`` explains its name. Numbers are aligned, and sorted, as such."""

    title: str
    hint: str = ""
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, and the value that is sorted by and written to the CSV file."""

    text: str
    value: Value

    @property
    def sort_key(self) -> str:
        """Empty for what is not known, which sorts last."""
        return "" if self.value is None else str(self.value)


def number(value: float | None, form: str = "", unit: str = "") -> Cell:
    """A number as text and as itself; empty where it is None."""
    return Cell("" if value is None else f"{value:{form}}{unit}", value)


def word(text: str | None) -> Cell:
    return Cell(text or "", text or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table whose columns can be sorted; ``name`` is that of its CSV file."""

    kind: ClassVar = "grid"
    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def shown(self) -> tuple[int, ...]:
        """The columns in which some row has something."""
        count = range(len(self.columns))
        return tuple(at for at in count if any(row[at].text for row in self.rows))

    @property
    def csv_uri(self) -> str:
        titles = [column.title for column in self.columns]
        return _csv_uri(titles, [[cell.value for cell in row] for row in self.rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure; ``told`` says in words what is to be seen, for who cannot see it.

    ``titles`` and ``rows`` are its numbers, ``name`` that of the CSV file with them.
    """

    kind: ClassVar = "drawing"
    name: str
    title: str
    told: str
    model: Model = field(repr=False)
    titles: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    @property
    def csv_uri(self) -> str:
        return _csv_uri(self.titles, self.rows)


Block = Text | Heading | Facts | Warnings | Commands | Grid | Drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """``anchor`` is what links to it name."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


def drawings(sections: Sequence[Section]) -> Iterator[Drawing]:
    """All of them, in the order of the page."""
    for section in sections:
        yield from (block for block in section.blocks if isinstance(block, Drawing))


def _csv_uri(titles: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """The file as an address, so that it can be saved without a script."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    data = base64.b64encode(text.getvalue().encode()).decode()
    return f"data:text/csv;charset=utf-8;base64,{data}"
