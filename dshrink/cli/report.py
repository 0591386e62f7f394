"""``dshrink report``: one page of all that a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import notice, show_result


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="folder that any of the commands wrote into")
    ],
    file: Annotated[
        Path, outputs.file_option("--out", metavar="FILE", help="HTML file to write")
    ] = Path("report.html"),
    json: options.Json = False,
) -> None:
    """Write one page of tables, plans, results and certificates in DIR; it needs no network."""
    from dshrink.operations.report import write_report

    written = write_report(folder, file, notice=notice)
    show_result(written, [f"wrote {written.file} ({written.size_mb:.1f} MB)"], as_json=json)


def also_write(file: Path | None, folder: Path, only: Sequence[Path] = ()) -> None:
    """The page that a command is asked for beside its own files (``--report``)."""
    if file is not None:
        from dshrink.operations.report import write_report

        written = write_report(folder, file, only=only, notice=notice)
        notice(f"report: {written.file}")
