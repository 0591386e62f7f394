"""The command line: one file a command, and one place where a user's error becomes one line.

Commands import what they need when they run, so that ``dshrink --help`` answers at once.
"""

from __future__ import annotations

import typer

from dshrink.cli import (
    bench,
    chain,
    data,
    demo,
    devices,
    expand,
    finetune,
    importance,
    merge,
    plot,
    profile,
    run,
    search,
    table,
)
from dshrink.cli.console import err, errors, fail

#: Exit status after Ctrl-C, as typer and shells have it.
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What each piece of a convolutional network costs on your device, and the network shrunk.",
)
for command in (
    chain,
    profile,
    importance,
    data,
    finetune,
    expand,
    merge,
    bench,
    run,
    demo,
):
    command.register(app)
app.add_typer(
    search.app,
    name="search",
    help="Choose what to shrink, in one of five ways.",
)
app.add_typer(table.app, name="table", help="Show, check, compare tables; predict from them.")
app.add_typer(plot.app, name="plot", help="Draw tables, plans and results as PNG and SVG.")
app.add_typer(devices.app, name="devices", help="What devices there are, and what they run.")


def main() -> None:
    """Entry point: user errors print one line and exit with status 2; defects keep a traceback."""
    try:
        app()
    except errors() as error:
        fail(str(error))
    except SystemExit as end:
        if end.code == INTERRUPTED:
            err.print("interrupted; the same command goes on from here")
        raise
