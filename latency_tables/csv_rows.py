"""Rows of a latency table as CSV, one line a row, and back.

Floats are written in the shortest form that reads back to the same number, so a table survives any
number of copies unchanged. Reading is strict: a spreadsheet that dropped a column or a decimal
comma must not turn into a latency.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from latency_tables.errors import TableFormatError
from latency_tables.places import Place
from latency_tables.schema import COLUMNS, NEW_COLUMNS, Row

MEND = "correct it, or write the table again with `dshrink profile`"

_TYPES = {name: str(hint) for name, hint in get_type_hints(Row).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvRow:
    """A row, the line it stands on, and the digest of the conditions that it claims."""

    line: int
    row: Row
    conditions: str


def format_rows(rows: tuple[Row, ...], conditions: str) -> str:
    """The CSV of these rows; ``conditions`` is the digest that each of them carries."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([*(_format(getattr(row, name)) for name in COLUMNS[:-1]), conditions])
    return text.getvalue()


def parse_rows(text: str, where: str) -> tuple[CsvRow, ...]:
    """Read ``format_rows``'s form. Raises TableFormatError, which names ``where`` and the line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = _lines(reader, where)
    _, header = next(lines, (0, []))
    _check_header(header, where)
    found: list[CsvRow] = []
    first_lines: dict[Place, int] = {}
    for line, values in lines:
        _check_full(values, header, line, where)
        entry = _parse_line(line, dict(zip(header, values, strict=True)), where)
        place = entry.row.place
        if place in first_lines:
            raise TableFormatError(
                f"{where}: line {line}: {entry.row.piece!r} stands on line {first_lines[place]} "
                "already: delete one of the two"
            )
        first_lines[place] = line
        found.append(entry)
    if not found:
        raise TableFormatError(f"{where}: no rows below the header: {MEND}")
    return tuple(found)


def _lines(reader: Any, where: str) -> Iterator[tuple[int, list[str]]]:
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except csv.Error as error:
        raise TableFormatError(
            f"{where}: line {reader.line_num}: not CSV ({error}): {MEND}"
        ) from None


def _check_header(header: list[str], where: str) -> None:
    if not header:
        raise TableFormatError(f"{where}: empty file: {MEND}")
    missing = [name for name in COLUMNS if name not in (*header, *NEW_COLUMNS)]
    if missing:
        raise TableFormatError(
            f"{where}: line 1: missing column(s) {', '.join(missing)} "
            f"(separated by commas, named as in {','.join(COLUMNS[:3])},...): {MEND}"
        )
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        raise TableFormatError(
            f"{where}: line 1: unknown column(s) {', '.join(unknown)}; remove them, or update "
            "dshrink if a newer one wrote the table"
        )
    if len(header) != len(set(header)):
        twice = next(name for name in header if header.count(name) > 1)
        raise TableFormatError(f"{where}: line 1: column {twice} is given twice: {MEND}")


def _check_full(values: list[str], header: list[str], line: int, where: str) -> None:
    if len(values) != len(header):
        raise TableFormatError(
            f"{where}: line {line}: {len(values)} values for {len(header)} columns (cut off, or a "
            f"decimal comma?): {MEND}"
        )


def _parse_line(line: int, values: dict[str, str], where: str) -> CsvRow:
    try:
        row = Row(**{name: _parse(name, values.get(name, "")) for name in COLUMNS[:-1]})
    except TableFormatError as error:
        piece = f" ({values['piece']})" if values["piece"] else ""
        raise TableFormatError(f"{where}: line {line}{piece}: {error}: {MEND}") from None
    return CsvRow(line=line, row=row, conditions=values["conditions"])


def _format(value: str | float | None) -> str:
    return "" if value is None else str(value)


def _parse(name: str, text: str) -> Any:
    hint = _TYPES[name]
    if "str" in hint:
        return text
    if not text and "None" in hint:
        return None
    convert, expected = (float, "a number") if "float" in hint else (int, "an integer")
    try:
        # Python's own numbers may hold underscores, a CSV's may not.
        return convert(text if "_" not in text else "")
    except ValueError:
        shown = repr(text) if text else "an empty value"
        raise TableFormatError(f"{name} must be {expected}, got {shown}") from None
