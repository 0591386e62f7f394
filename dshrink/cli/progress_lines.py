"""Progress of long work where standard error is no terminal: a line a minute.

A bar would fill a log with its own copies. Work that ends within the first half minute leaves no
line, as what it prints at its end is enough. The lines come from a thread of their own, so that a
step that takes minutes does not look like a hang.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dshrink.progress import duration


class ProgressLines:
    """What is done of a piece of work, as lines of a log.

    ``write`` gets a line; ``clock`` gives seconds.
    """

    def __init__(
        self, title: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._write, self._clock = title, write, clock
        self._began_s = clock()
        #: Done, total, label; None before the first update.
        self._now: tuple[int, int, str] | None = None
        #: A resumed run does not begin at 0, and was not timed before its first update.
        self._first: tuple[int, float] | None = None
        self._has_written = False

    def update(self, done: int, total: int, label: str) -> None:
        """An ``OnProgress``."""
        self._now = (done, total, label)
        if self._first is None:
            self._first = (done, self._clock())

    def tick(self) -> None:
        """Write how far it is; called about once a minute."""
        self._has_written = True
        label = self._now[2] if self._now else ""
        self._write(self._so_far + self._left + (f" ({label})" if label else ""))

    def end(self) -> None:
        """Write the last line, where there were others."""
        if self._has_written:
            self._write(f"{self._so_far}, ended")

    @property
    def _so_far(self) -> str:
        took = duration(self._clock() - self._began_s)
        if self._now is None:
            return f"{self._title}: preparing for {took}"
        done, total, _ = self._now
        return f"{self._title}: {done} of {total} in {took}"

    @property
    def _left(self) -> str:
        if self._now is None or self._first is None:
            return ""
        (done, total, _), (first, since_s) = self._now, self._first
        if done <= first:
            return ""
        left_s = (self._clock() - since_s) / (done - first) * max(total - done, 0)
        return f", about {duration(left_s)} left"


@contextmanager
def repeated(action: Callable[[], None], every_s: float) -> Iterator[None]:
    """Inside of this, a thread calls ``action`` after half of so many seconds, then every so many.

    Whoever waits a minute for a word, and then gives up, has had one.
    """
    ended = threading.Event()

    def run() -> None:
        wait_s = every_s / 2
        while not ended.wait(wait_s):
            action()
            wait_s = every_s

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
