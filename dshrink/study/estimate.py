"""How long a study takes: the first real epoch, timed, over all epochs that are left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class EpochTimer:
    """Times one epoch of a run by the steps that the run reports; ``timed`` gets the seconds.

    From the timer's making to the epoch's last step: reading images is in it, validation is not.
    """

    epochs: int
    timed: Callable[[float], None]
    clock: Callable[[], float] = time.perf_counter
    _since: float = field(init=False)
    _first: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def __call__(self, done: int, total: int, label: str) -> None:
        """Note that ``done`` of ``total`` steps, of all epochs, are done."""
        if self._first is None:
            self._first = done - 1  # a resumed run does not begin at 0
        if done - self._first == total // self.epochs:
            self.timed(self.clock() - self._since)


def estimate_line(epoch_s: float, epochs: int, jobs: int) -> str:
    """The notice once an epoch was timed, and ``epochs`` of all runs are left."""
    at_once = "one run at a time" if jobs == 1 else f"{jobs} runs at a time"
    return (
        f"the first epoch took {_time(epoch_s)}: about {_time(epoch_s * epochs / jobs)} for the "
        f"{epochs} epochs that are left ({at_once}); a teacher or a mask search makes an epoch "
        "longer, merging and measuring come on top"
    )


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
