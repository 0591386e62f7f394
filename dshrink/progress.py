"""What long work reports on its way: how far it is, and lines for the user to read."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (done, total, label).
OnProgress = Callable[[int, int, str], None]
#: Called with one line.
Notice = Callable[[str], None]


def no_progress(done: int, total: int, label: str) -> None:
    """For whoever does not ask."""


def no_notice(line: str) -> None:
    """For whoever does not listen."""
