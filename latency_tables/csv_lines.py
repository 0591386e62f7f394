"""CSV files with a header, read and written by pandas, strictly.

Every cell is read as text, so that nothing is guessed: a spreadsheet that dropped a column or wrote
a decimal comma must not turn into a latency. Errors name the file, the line (the header is line 1),
the column, the value, and what to do. Floats are written in the shortest form that reads back to
the same number.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from latency_tables.files import write_atomically


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
        return self.error(f"{name} must be {expected}, got {self.text(name) or 'an empty value'}")

    def whole(self, name: str) -> int:
        """A whole number, 0 or more. Raises the source's error."""
        text = self.text(name)
        if not (text.isascii() and text.isdigit()):
            raise self.bad(name, "a whole number, 0 or more")
        return int(text)

    def number_in(self, name: str, *, above: float | None = None) -> float:
        """A finite number, ``above`` a bound where one is given. Raises the source's error."""
        text = self.text(name)
        try:
            # Python's own numbers may hold underscores, a CSV's may not.
            value = float(text if "_" not in text else "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (above is not None and value <= above):
            raise self.bad(name, "a finite number" + ("" if above is None else f" above {above:g}"))
        return value


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
    header, *rows = _cells(text, source)
    names = [str(name).strip() for name in header]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise source.bad(f"column {twice} is given twice", 1)
    if missing := [name for name in needed if name not in names]:
        expected = f"separated by commas, named as in {','.join([*needed][:3])},..."
        raise source.bad(f"missing column(s) {', '.join(missing)} ({expected})", 1)
    lines: list[CsvLine] = []
    for number, cells in enumerate(rows, start=2):
        # A cell that is missing, unlike an empty one, is no text.
        texts = [cell for cell in cells if isinstance(cell, str)]
        if texts and len(texts) != len(names):
            raise source.bad(_cut_off(len(texts), len(names)), number)
        if texts:
            lines.append(CsvLine(source, number, dict(zip(names, texts, strict=True))))
    if not lines:
        raise source.bad("no rows below the header")
    return lines


def load_lines(path: Traversable, source: CsvSource, needed: Collection[str] = ()) -> list[CsvLine]:
    """``read_lines`` of a file. Raises the source's error."""
    try:
        # Spreadsheets put a byte-order mark in front.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise source.bad("no such file") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise source.bad(f"cannot be read as text ({problem})") from None
    return read_lines(text, source, needed)


def _cells(text: str, source: CsvSource) -> list[list[Any]]:
    import pandas as pd

    file = _CountedLines(text, newline="")
    try:
        # The header is read as a row: pandas renames columns given twice, and takes the first
        # column of longer rows for their names. Its Python engine refuses broken quotes.
        frame = pd.read_csv(
            file,
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            engine="python",
        )
    except pd.errors.EmptyDataError:
        raise source.bad("empty file") from None
    except pd.errors.ParserError as problem:
        if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(problem)):
            columns, line, values = map(int, found.groups())
            raise source.bad(_cut_off(values, columns), line) from None
        raise source.bad(f"not CSV ({problem})", file.line) from None
    return frame.to_numpy().tolist() if len(frame) else [[]]


def _cut_off(values: int, columns: int) -> str:
    return f"{values} values for {columns} columns (cut off, or a decimal comma?)"


class _CountedLines(io.StringIO):
    """Text that knows how many of its lines were read."""

    line = 0

    def __next__(self) -> str:  # type: ignore[override]  # typeshed: bytes
        text = super().__next__()
        self.line += 1
        return text
