"""The command line: one file a command, and one place where a user's error becomes one line.

Commands import what they need when they run, so that ``dshrink --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from dshrink.cli import (
    bench,
    chain,
    config,
    data,
    demo,
    devices,
    expand,
    finetune,
    importance,
    init,
    merge,
    paper,
    plot,
    profile,
    refit,
    report,
    run,
    schema,
    search,
    table,
)
from dshrink.cli.configuration import load_configuration
from dshrink.cli.console import err, errors, fail, out, set_verbose
from dshrink.version import __version__

#: Exit status after Ctrl-C, as typer and shells have it.
INTERRUPTED = 130

SHOW_CONFIG = "--show-config"

#: click's UsageError; some versions of typer bring their own click, so it is taken from a subclass.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

#: The groups that ``--help`` shows the commands in; a command is called as its module is.
PANELS = {
    "End to end": (demo, run),
    "Measure": (devices, profile, bench, paper),
    "Search and merge": (importance, search, merge, refit),
    "Train": (data, finetune, expand),
    "Show": (report, chain, table, plot, schema),
    "Settings": (init, config),
}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Measure the latency of a network's pieces on your device, and merge its blocks by it.",
)
for panel, commands in PANELS.items():
    for command in commands:
        name = command.__name__.rpartition(".")[2]
        if hasattr(command, "app"):
            app.add_typer(command.app, name=name, rich_help_panel=panel)
        else:
            settings = getattr(command, "PARSING", None)
            app.command(name=name, rich_help_panel=panel, context_settings=settings)(
                command.command
            )


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"dshrink {__version__}")
        raise typer.Exit


@app.callback()
def options_of_all(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            envvar="DSHRINK_VERBOSE",
            help="show details: how results are known, all verdicts and reasons",
        ),
    ] = False,
    show_config: Annotated[
        bool,
        typer.Option(
            SHOW_CONFIG, help="show which options the command would have, and run nothing"
        ),
    ] = False,
) -> None:
    del show_config  # main has made it `dshrink config` before anything was parsed
    set_verbose(verbose)
    context.obj = load_configuration(context.command)
    context.default_map = context.obj.default_map


def main() -> None:
    """Entry point: user errors print one line and exit with status 2; defects keep a traceback."""
    _mend_streams()
    words = sys.argv[1:]
    _refuse_undecodable(words)
    if SHOW_CONFIG in words:
        # Wherever it stands, as a user puts it behind the command that it is about.
        words = ["config", *(word for word in words if word != SHOW_CONFIG)]
    try:
        status = app(words, prog_name="dshrink", standalone_mode=False)
    except UsageError as error:
        _fail_usage(error)
    except errors() as error:
        fail(error)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not _is_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        fail(f"not enough memory ({reason}): lower the resolution, the batch or the classes")
    if status == INTERRUPTED:
        err.print("interrupted; run the same command again to resume")
    sys.exit(status)


def _mend_streams() -> None:
    """Texts reach any terminal: escaped where its encoding lacks them, nowhere if it is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file to be opened has this number, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 - to the end
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_undecodable(words: Sequence[str]) -> None:
    """End where an argument is no text: it would be written into files that nobody reads back."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            encoding = sys.getfilesystemencoding()
            advice = "rename what it names"
            if encoding != "utf-8":
                advice = f"this locale is {encoding}, choose one of UTF-8, such as LC_ALL=C.UTF-8"
            fail(f"the argument {os.fsencode(word)!r} is not valid {encoding}: {advice}")


def _is_of_memory(error: Exception) -> bool:
    """Whether torch, or loading it, found no room; there is no class for that on a CPU."""
    words = (
        *("allocate memory", "out of memory", "Storage size calculation overflowed"),
        *("failed to map segment", "cannot map zero-fill pages"),
    )
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _fail_usage(error: Any) -> NoReturn:
    """One line for a wrong option or argument; the help where a command needs some and got none."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    command = error.ctx.command_path if error.ctx else "dshrink"
    message = error.format_message().rstrip(".")
    if getattr(error, "option_name", "") == "--verbose":
        fail(f"{message} (it comes before the command: `dshrink --verbose {command[8:]} ...`)")
    fail(f"{message} (see `{command} --help`)")
