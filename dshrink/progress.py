"""Callbacks of long operations: progress, and notices for the user."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (done, total, label).
OnProgress = Callable[[int, int, str], None]
#: Called with one line.
Notice = Callable[[str], None]


def no_progress(done: int, total: int, label: str) -> None:
    """Ignore it."""


def no_notice(line: str) -> None:
    """Ignore it."""


def duration(seconds: float) -> str:
    """As in "2.0 h", "20.5 min" or "30.0 s"."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
