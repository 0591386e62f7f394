"""CSV files with a header, read strictly: nothing is guessed of what a number or a text is.

Every cell is read as text: a spreadsheet that dropped a column or wrote a decimal comma must not
turn into a latency. What spreadsheets and pandas put around the cells does no harm: byte-order
marks and UTF-16, "sep=" and "#" lines before the header, semicolons or tabs as separators (with
them a column may have decimal commas), capitals in the header, empty lines, a nameless index in
front, trailing separators, whole numbers written as 3.0. Errors name the file, the line, the
column, the value, and what to do. Floats are written in the shortest form that reads back to the
same number.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from latency_tables.files import write_atomically
from latency_tables.reading import read_text
from latency_tables.wording import counted, noun

_SEPARATORS = (",", ";", "\t")
#: Lines that may stand before the header; the first is Excel's.
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*$', re.IGNORECASE)
_PREAMBLE = re.compile(rf'#|"#|{_SEPARATOR.pattern}', re.IGNORECASE)
#: What pandas calls an index, or a column without a name that it reads and writes again.
_NAMELESS = re.compile(r"(unnamed: \d+(\.\d+)*|index|level_\d+)?")
#: No time, rate or count here is larger, and the sums and axes of larger ones overflow.
_LARGEST = 1e15
#: Files of empty cells are small, and take minutes to read.
_MOST_LINES, _MOST_COLUMNS = 1_000_000, 1000
#: Of up to 18 digits: larger ones fit no integer of 64 bits.
_WHOLE = re.compile(r"0*(\d{1,18})(?:\.0*)?", re.ASCII)
_COMMA_NUMBER = re.compile(r"[+-]?\d+(,\d+)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvSource:
    """Where lines come from: ``where`` names the file, ``error`` is raised.

    ``fix`` ends a message ("write it again with `dshrink bench`"); ``title`` is the column whose
    value names a line as well as its number.
    """

    where: str
    error: type[ValueError]
    fix: str
    title: str = ""

    def bad(self, what: str, line: int | None = None, title: str = "") -> ValueError:
        at = "" if line is None else f"line {line}{f' ({title})' if title else ''}: "
        return self.error(f"{self.where}: {at}{what}: {self.fix}")


@dataclass(frozen=True, slots=True)
class CsvLine:
    """One line: the value of each column."""

    source: CsvSource
    number: int
    values: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.values[name].strip()

    @property
    def title(self) -> str:
        return self.text(self.source.title) if self.source.title else ""

    def error(self, what: str) -> ValueError:
        """The error of this line."""
        return self.source.bad(what, self.number, self.title)

    def bad(self, name: str, expected: str) -> ValueError:
        """The error of a value."""
        text = self.text(name)
        mend = " (write a decimal point)" if "," in text else ""
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        return self.error(f"{name} must be {expected}, got {shown or 'an empty value'}{mend}")

    def whole(self, name: str) -> int:
        """A whole number, 0 or more; 3.0 is one. Raises the source's error."""
        if found := _WHOLE.fullmatch(self.text(name)):
            return int(found[1])
        raise self.bad(name, "a whole number, 0 or more")

    def number_in(self, name: str, *, above: float | None = None) -> float:
        """A finite number, ``above`` a bound where one is given. Raises the source's error."""
        text = self.text(name)
        try:
            # Python's own numbers may hold underscores, a CSV's may not.
            value = float(text if "_" not in text else "")
        except ValueError:
            value = math.nan
        if not abs(value) <= _LARGEST or (above is not None and value <= above):
            raise self.bad(name, "a finite number" + ("" if above is None else f" above {above:g}"))
        return value

    def number_if_any(self, name: str, *, above: float | None = None) -> float | None:
        """As ``number_in``; None for an empty cell, and where the file lacks the column."""
        return self.number_in(name, above=above) if self.values.get(name, "").strip() else None


def format_csv(columns: Sequence[str], rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> str:
    """The text of a CSV; None is written as an empty cell, as is what a mapping lacks."""
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=list(columns), dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any] | Mapping[str, Any]]
) -> None:
    """Write a CSV; the file is replaced in one step."""
    write_atomically(path, format_csv(columns, rows))


def read_lines(text: str, source: CsvSource, needed: Collection[str] = ()) -> list[CsvLine]:
    """The lines below the header, one at least. Raises the source's error."""
    separator, (at, header), rows = _cells(text, source)
    names = [name.strip().lower() for name in header]
    filled: list[tuple[int, list[str]]] = []
    for number, cells in rows:
        if not any(map(str.strip, cells)):
            continue
        if len(cells) < len(names) or any(map(str.strip, cells[len(names) :])):
            raise source.bad(
                f"{counted(len(cells), 'value')} for {counted(len(names), 'column')} "
                "(cut off, or a decimal comma?)",
                number,
            )
        filled.append((number, cells))
    columns = _named_columns(names, [cells for _, cells in filled], source, at)
    if missing := [name for name in needed if name not in columns]:
        expected = "separated by commas, semicolons or tabs, named as in"
        expected += f" {','.join([*needed][:3])},..."
        raise source.bad(
            f"missing {noun(len(missing), 'column')} {', '.join(missing)} ({expected})", at
        )
    if not filled:
        raise source.bad("no rows below the header")
    by_name = {name: [cells[at] for _, cells in filled] for name, at in columns.items()}
    if separator != ",":
        by_name = {name: _with_points(values) for name, values in by_name.items()}
    return [
        CsvLine(source, number, {name: values[at] for name, values in by_name.items()})
        for at, (number, _) in enumerate(filled)
    ]


def load_lines(path: Traversable, source: CsvSource, needed: Collection[str] = ()) -> list[CsvLine]:
    """``read_lines`` of a file. Raises the source's error."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise source.bad("no such file") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise source.bad(f"cannot be read as text ({problem})") from None
    return read_lines(text, source, needed)


#: The number of a line, and its cells.
_Cells = tuple[int, list[str]]


def _cells(text: str, source: CsvSource) -> tuple[str, _Cells, list[_Cells]]:
    """The separator, the header and the rows below it."""
    if "\0" in text:
        raise source.bad("holds a null character", 1 + text[: text.index("\0")].count("\n"))
    if text.count("\n") > _MOST_LINES:
        raise source.bad(f"more than {_MOST_LINES} lines")
    lines = list(io.StringIO(text))
    separator, before = "", 0
    while before < len(lines) and (not lines[before].strip() or _PREAMBLE.match(lines[before])):
        if said := _SEPARATOR.match(lines[before]):
            separator = said[1]
        before += 1
    if before == len(lines):
        raise source.bad("empty file")
    separator = separator or max(_SEPARATORS, key=lines[before].count)
    if lines[before].count(separator) > _MOST_COLUMNS:
        raise source.bad(f"more than {_MOST_COLUMNS} columns", before + 1)
    reader = csv.reader(lines[before:], delimiter=separator, strict=True)
    found: list[_Cells] = []
    number = before + 1
    try:
        for cells in reader:
            found.append((number, cells))
            number = before + reader.line_num + 1
    except csv.Error as problem:
        raise source.bad(f"not CSV ({problem})", before + reader.line_num) from None
    return separator, found[0], found[1:]


def _named_columns(
    names: Sequence[str], rows: Sequence[Sequence[str]], source: CsvSource, line: int
) -> dict[str, int]:
    """Where each column is; without names are the index in front, and columns of empty cells."""
    first = next((at for at, name in enumerate(names) if not _NAMELESS.fullmatch(name)), len(names))
    columns: dict[str, int] = {}
    for at, name in enumerate(names[first:], start=first):
        if _NAMELESS.fullmatch(name):
            # What a decimal comma cuts off lands in such a column.
            if any(row[at].strip() for row in rows):
                raise source.bad(f"column {at + 1} holds values, and has no name", line)
        elif name in columns:
            raise source.bad(f"column {name} is given twice", line)
        else:
            columns[name] = at
    return columns


def _with_points(values: list[str]) -> list[str]:
    """A column of numbers with decimal commas, with points; every other column as it is."""
    numbers = [value.strip() for value in values if value.strip()]
    if not all(map(_COMMA_NUMBER.fullmatch, numbers)):
        return values
    return [value.replace(",", ".") for value in values]
