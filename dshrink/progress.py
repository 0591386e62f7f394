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
