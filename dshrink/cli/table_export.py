"""``dshrink table export``: a latency table as other projects read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import show_result


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="folder of a table of layers or of a network")
    ],
    format: Annotated[
        str, typer.Option(help="csv, json, ofa, halp, halp-pickle or kim; see docs/formats.md")
    ],
    file: Annotated[Path, outputs.file_option("--out", metavar="FILE", help="file to write")],
    latency: Annotated[
        str,
        typer.Option(
            help="which latency: alone, in-network (what a piece costs in its network) or beside "
            "(what a layer adds beside a neighbour)"
        ),
    ] = "alone",
    json: options.Json = False,
) -> None:
    """Write a table as once-for-all, HALP or Kim et al. read it, or with all columns.

    What a format has no key for is left out, and counted by its reason. Latencies are in ms.
    """
    from dshrink.cli.payloads.tables import ExportedTable, LeftOut
    from dshrink.operations.export_table import export_table
    from latency_tables.files import write_atomically

    export = export_table(folder, format, latency)
    write_atomically(file, export.content)
    data = ExportedTable(
        file=str(file),
        format=format,
        latency=latency,
        rows=export.rows,
        left_out=tuple(LeftOut(reason=why, rows=count) for why, count in export.left_out.items()),
    )
    lines = [f"{export.rows} rows as {format}: {file}", *export.lines(format)]
    show_result(data, lines, as_json=json)
