"""How long a study takes: the first real epoch, timed, over all epochs that are left."""

from __future__ import annotations

import time
from collections.abc import Callable

from dshrink.progress import OnProgress, duration
from latency_tables.wording import counted


def epoch_timer(
    epochs: int, timed: Callable[[float], None], clock: Callable[[], float] = time.perf_counter
) -> OnProgress:
    """Times one epoch of a run by the steps that the run reports; ``timed`` gets the seconds.

    From this call to the epoch's last step: reading images is in it, validation is not.
    """
    since, first = clock(), None

    def report(done: int, total: int, label: str) -> None:
        nonlocal first
        if first is None:
            first = done - 1  # a resumed run does not begin at 0
        if done - first == total // epochs:
            timed(clock() - since)

    return report


def estimate_line(epoch_s: float, epochs: int, jobs: int) -> str:
    """The notice once an epoch was timed, and ``epochs`` of all runs are left."""
    at_once = f"{counted(jobs, 'run')} at a time"
    left = duration(epoch_s * epochs / jobs)
    return (
        f"the first epoch took {duration(epoch_s)}: about {left} for "
        f"{counted(epochs, 'more epoch')} ({at_once}); a teacher or a mask search makes an "
        "epoch longer, merging and measuring come on top"
    )
