"""Lines of a CSV file with a header, each of which can say where it stands in an error."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dshrink.search.errors import SearchError


@dataclass(frozen=True, slots=True)
class CsvLine:
    """One line: column to text."""

    path: Path
    number: int
    values: dict[str, str]
    error: type[SearchError]

    def bad(self, what: str) -> SearchError:
        return self.error(f"{self.path}: line {self.number}: {what}")

    def bad_header(self, what: str) -> SearchError:
        return self.error(f"{self.path}: line 1: {what}; its columns: {', '.join(self.values)}")

    def position(self, name: str) -> int:
        """A whole number, 0 or more."""
        text = self.values[name].strip()
        if not (text.isascii() and text.isdigit()):
            raise self.bad(f"{name} must be a whole number, 0 or more, got {text!r}")
        return int(text)

    def number_in(self, name: str) -> float:
        """A finite number."""
        text = self.values[name].strip()
        try:
            # Python's own numbers may hold underscores, a CSV's may not.
            value = float(text if "_" not in text else "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.bad(f"{name} must be a finite number, got {text!r}")
        return value


def read_lines(path: Path, needed: Sequence[str], error: type[SearchError]) -> list[CsvLine]:
    """The lines of a file that has these columns at least; raises ``error``."""
    try:
        # Spreadsheets put a byte-order mark in front.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        what = "no such file" if isinstance(problem, FileNotFoundError) else f"not text ({problem})"
        raise error(f"{path}: {what}; give a CSV with the columns {','.join(needed)}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[CsvLine] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for values in reader:
            if len(values) not in (0, len(header)):
                raise error(
                    f"{path}: line {reader.line_num}: {len(values)} values for {len(header)} "
                    "columns (cut off, or a decimal comma?)"
                )
            if values:
                named = dict(zip(header, values, strict=True))
                lines.append(CsvLine(path, reader.line_num, named, error))
    except csv.Error as problem:
        raise error(f"{path}: line {reader.line_num}: not CSV ({problem})") from None
    _check_header(path, header, needed, error)
    if not lines:
        raise error(f"{path}: no rows below the header")
    return lines


def _check_header(
    path: Path, header: Sequence[str], needed: Sequence[str], error: type[SearchError]
) -> None:
    if len(set(header)) != len(header):
        raise error(f"{path}: line 1: a column is given twice: {','.join(header)}")
    if missing := [name for name in needed if name not in header]:
        raise error(
            f"{path}: line 1: missing column(s) {', '.join(missing)}; it needs {','.join(needed)}"
        )
