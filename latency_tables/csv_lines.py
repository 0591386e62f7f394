"""The lines of a CSV with a header, read strictly; errors say where they stand, and what to do.

What is read this way was written by other programs, or by hand: benchmark results, frontiers,
published tables. ``csv_rows`` reads our own latency tables.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvSource:
    """Where lines come from: ``where`` names the file, ``error`` is raised.

    ``mend`` ends a message ("write it again with `dshrink bench`"); ``title`` is the column whose
    value names a line beside its number.
    """

    where: str
    error: type[ValueError]
    mend: str
    title: str = ""

    def bad(self, what: str, line: int | None = None, title: str = "") -> ValueError:
        at = "" if line is None else f"line {line}{f' ({title})' if title else ''}: "
        return self.error(f"{self.where}: {at}{what}: {self.mend}")


@dataclass(frozen=True, slots=True)
class CsvLine:
    """One line: the value of each column."""

    source: CsvSource
    number: int
    values: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.values[name].strip()

    def error(self, what: str) -> ValueError:
        """The error of this line."""
        title = self.text(self.source.title) if self.source.title else ""
        return self.source.bad(what, self.number, title)

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


def read_lines(text: str, source: CsvSource, needed: Collection[str] = ()) -> list[CsvLine]:
    """The lines below the header, one at least. Raises the source's error."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, needed, source)
        lines = list(_lines(reader, header, source))
    except csv.Error as problem:
        raise source.bad(f"not CSV ({problem})", reader.line_num) from None
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


def _check_header(header: list[str], needed: Collection[str], source: CsvSource) -> None:
    if len(set(header)) != len(header):
        raise source.bad(f"a column is given twice: {','.join(header)}", 1)
    if missing := [name for name in needed if header and name not in header]:
        raise source.bad(f"missing column(s) {', '.join(missing)}", 1)


def _lines(reader: Any, header: list[str], source: CsvSource) -> Iterator[CsvLine]:
    for values in reader:
        if values and len(values) != len(header):
            raise source.bad(
                f"{len(values)} values for {len(header)} columns (cut off, or a decimal comma?)",
                reader.line_num,
            )
        if values:
            yield CsvLine(source, reader.line_num, dict(zip(header, values, strict=True)))
