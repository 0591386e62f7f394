"""Tables in Markdown, for reports that people read as text or as a page."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose columns are aligned as plain text, too; bars are escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    return [line(cells[0]), line(["-" * width for width in widths]), *map(line, cells[1:])]
