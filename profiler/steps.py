"""What a lane asks of its board, one step at a time, and the answer that each step gets.

A lane is a generator: it yields steps and is sent their answers. So the order of a round is written
once, as one plain function, and whoever drives lanes (one after the other here, many at once on a
cluster) decides only how a step reaches a board. Lanes of one run share its journal and queue
without locks, because only one of them runs at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.errors import SessionError
from profiler.replies import Failure, LayerTimes, Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Start a fresh agent in place of the last one. Answer: the ``Environment`` it reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Bring files to the board. Answer: a ``PushedFile`` each, in their order."""

    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """Run jobs, one after the other. Answer: an ``Outcome`` each, in their order.

    ``timeout_s`` is for each of them.
    """

    requests: tuple[Mapping[str, Any], ...]
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Ask for what a runtime learned from its builds. Answer: bytes, or None."""

    runtime: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a job gave, and the seconds that went by before its last try began to run.

    Those were spent on links that broke and on waiting for whoever else measured there.
    """

    result: Samples | LayerTimes | Failure
    lost_s: float = 0.0


Step = Begin | Push | Execute | Recall
#: A ``SessionError`` is thrown into a lane whose board cannot do what it asked.
Lane = Generator[Step, Any, None]
MakeLane = Callable[[str], Lane]


def next_step(lane: Lane, answer: Any, problem: SessionError | None) -> Step | None:
    """Give a lane the answer to its last step, or what went wrong; None where the lane ends."""
    try:
        return lane.send(answer) if problem is None else lane.throw(problem)
    except StopIteration:
        return None
