"""Write the page of a folder: one HTML file of all that is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dshrink.progress import Notice, no_notice
from dshrink.report.folder import Unreadable, read_folder
from latency_tables.files import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was written, and which files of the folder could not be read."""

    file: str
    size_mb: float
    unreadable: tuple[Unreadable, ...]


def write_report(
    folder: Path, file: Path, *, only: Sequence[Path] = (), notice: Notice = no_notice
) -> Report:
    """Write the page of ``folder``, or of ``only`` these files, to ``file``.

    A notice names each file that cannot be read. Raises ReportError for a folder that holds
    nothing known.
    """
    from dshrink.report.page import page_of  # Bokeh takes a second

    contents = read_folder(folder, only)
    for one in contents.unreadable:
        notice(f"{folder / one.file} is left out: {one.reason}")
    page = page_of(contents)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, page)
    return Report(
        file=str(file),
        size_mb=round(len(page.encode()) / 1e6, 2),
        unreadable=contents.unreadable,
    )
