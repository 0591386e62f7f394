"""What the commands share: the consoles, the JSON form, the errors that are the user's.

Colours, and whether there are any (``NO_COLOR``, ``TERM=dumb``, a pipe), are rich's. A bar is for
terminals that can redraw a line; elsewhere progress is lines.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column

from dshrink.cli.progress_lines import ProgressLines, repeated
from dshrink.errors import DshrinkError
from dshrink.progress import OnProgress
from dshrink.schemas import json_document

BAR_AFTER_S, LINE_EVERY_S = 1.0, 60.0
LONGEST_ERROR = 2000
#: What a terminal acts on, except newlines and tabs: texts of a device may contain any of it.
_DIRECTIONS = {0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160), *_DIRECTIONS} - {ord("\n"), ord("\t")})


class _TextOnly(Console):
    """A console that strips control characters from texts; rich's own codes are not text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for one in super().render(renderable, options):
            yield one if one.control else one._replace(text=one.text.translate(_CONTROLS))


def _drop_odd_columns() -> None:
    """Leave out a COLUMNS of 0, into which rich prints nothing, or one of a billion."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and not 10 <= int(columns[:9]) < 10_000:
        del os.environ["COLUMNS"]


_drop_odd_columns()

# No markup, no emoji: names and paths may contain brackets and colons. No wrapping: a path stays
# whole when it is piped.
out = _TextOnly(highlight=False, markup=False, emoji=False, soft_wrap=True)
err = _TextOnly(stderr=True, highlight=False, markup=False, emoji=False)


def errors() -> tuple[type[BaseException], ...]:
    """The bases of errors that a user can fix; anything else is a defect and keeps a traceback."""
    from devices.errors import DevicesError
    from latency_tables.errors import LatencyTableError
    from latency_tables.opspec import OpSpecError
    from profiler.errors import ProfilerError

    return (DshrinkError, LatencyTableError, OpSpecError, ProfilerError, DevicesError, OSError)


def show_error(error: BaseException) -> None:
    """One line on standard error; below it the user's own traceback, if it is the user's code."""
    text = " ".join(str(error).split())
    if len(text) > LONGEST_ERROR:  # it quotes a file; its end says how to mend it
        text = f"{text[: LONGEST_ERROR - 500]} ... {text[-450:]}"
    err.print(f"dshrink: {text}", markup=False, soft_wrap=True, style="red")
    if trace := getattr(error, "trace", ""):
        err.print(trace.rstrip(), soft_wrap=True)


def fail(error: BaseException | str) -> NoReturn:
    """Print one line on standard error and exit with status 2."""
    show_error(error if isinstance(error, BaseException) else DshrinkError(error))
    sys.exit(2)


def notice(text: str) -> None:
    """Print one line on standard error: what is being waited for, or what to know of a result."""
    err.print(" ".join(text.split()), soft_wrap=True)


def print_json(payload: Any) -> None:
    """A record that has a schema (``dshrink.schemas``): standard output holds nothing else."""
    sys.stdout.write(json.dumps(json_document(payload), indent=2, allow_nan=False) + "\n")


def show_result(payload: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """A result, as JSON or line by line."""
    if as_json:
        print_json(payload)
        return
    for line in lines:
        out.print(line)


class _Verbosity:
    """Whether details are shown; of the process, as the consoles are."""

    details = False


def set_verbose(verbose: bool) -> None:
    """Whether commands show how they know what they say (``--verbose``)."""
    _Verbosity.details = verbose


def is_verbose() -> bool:
    """Whether the user asked for details."""
    return _Verbosity.details


@contextmanager
def progress(title: str) -> Iterator[OnProgress]:
    """Progress with an estimate on standard error: a bar, or a line a minute (``ProgressLines``).

    The bar appears with the first update, or when preparing takes more than a second.
    """
    if not err.is_terminal or err.is_dumb_terminal:
        lines = ProgressLines(title, notice)
        try:
            with repeated(lines.tick, LINE_EVERY_S):
                yield lines.update
        finally:
            lines.end()
        return
    # What there is no room for is a part of the label, and never of a number.
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=min(30, err.width // 6)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("left", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("[dim]{task.fields[label]}", table_column=rest),
    )
    bar = Progress(*columns, console=err, transient=True, expand=True)
    task = bar.add_task(title, total=None, label="preparing")

    def update(done: int, total: int, label: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total, label=label)

    # What is refused at once stays one line.
    preparing = Timer(BAR_AFTER_S, bar.start)
    preparing.daemon = True
    preparing.start()
    try:
        yield update
    finally:
        preparing.cancel()
        preparing.join()
        bar.stop()
