"""Rows of a latency table as CSV, one line a row, and back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from latency_tables.csv_lines import CsvLine, CsvSource, format_csv, read_lines
from latency_tables.errors import TableFormatError
from latency_tables.places import Place
from latency_tables.records import convert_record
from latency_tables.schema import COLUMNS, Row
from latency_tables.wording import noun

FIX = "correct it, or write the table again with `dshrink profile`"

#: Columns whose empty cells mean that there is no value.
_OPTIONAL = {field.name for field in fields(Row) if "None" in str(field.type)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvRow:
    """A row, its line, and the digest of the conditions that it claims."""

    line: int
    row: Row
    conditions: str


def format_rows(rows: tuple[Row, ...], conditions: str) -> str:
    """The CSV of these rows; ``conditions`` is the digest that each of them carries."""
    lines = ([*(getattr(row, name) for name in COLUMNS[:-1]), conditions] for row in rows)
    return format_csv(COLUMNS, lines)


def parse_rows(text: str, where: str, columns: Collection[str] = COLUMNS) -> tuple[CsvRow, ...]:
    """Read ``format_rows``'s form; ``columns`` are those that the file's version has.

    Raises TableFormatError, which names ``where`` and the line.
    """
    source = CsvSource(where=where, error=TableFormatError, fix=FIX, title="piece")
    lines = read_lines(text, source, columns)
    if unknown := [name for name in lines[0].values if name not in COLUMNS]:
        raise TableFormatError(
            f"{where}: line 1: unknown {noun(len(unknown), 'column')} {', '.join(unknown)}; "
            "remove them, or update "
            "dshrink if a newer one wrote the table"
        )
    first: dict[Place, int] = {}
    found = []
    for line in lines:
        entry = CsvRow(line=line.number, row=_row(line), conditions=line.values["conditions"])
        if (before := first.setdefault(entry.row.place, line.number)) != line.number:
            raise line.error(
                f"{entry.row.piece!r} is a duplicate of line {before}: delete one of the two"
            )
        found.append(entry)
    return tuple(found)


def _row(line: CsvLine) -> Row:
    values = {
        name: None if name in _OPTIONAL and not text else text
        for name, text in line.values.items()
        if name != "conditions"
    }
    at = f"line {line.number} ({line.title})" if line.title else f"line {line.number}"
    where, error = f"{line.source.where}: {at}", line.source.error
    return convert_record(values, Row, where=where, error=error, fix=FIX, strict=False)
