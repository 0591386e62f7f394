"""What a board can be asked for, and the lane that asks it.

A lane is a coroutine that works through a board's part of a round, so the order of a round is
written once, as one plain function. Whoever drives lanes (one after the other here, many at once on
a cluster) decides only how a request reaches a board. Lanes of one run share its journal and queue
without locks, because only one of them runs at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from devices.connection import PushedFile
from devices.environment import Environment
from profiler.replies import Failure, LayerTimes, Samples

Request = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a job, and the seconds that passed before its last attempt began to run.

    Those were spent on broken links and on waiting while another run measured there.
    """

    result: Samples | LayerTimes | Failure
    lost_s: float = 0.0


class Board(Protocol):
    """One board. Each method raises SessionError where no other request would fare better."""

    async def begin(self) -> Environment:
        """Start a fresh agent in place of the last one; returns the environment it reports."""

    async def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        """Bring files to the board, one ``PushedFile`` each, in their order."""

    async def execute(self, requests: Sequence[Request], timeout_s: float) -> tuple[Outcome, ...]:
        """Run jobs one after the other; ``timeout_s`` is for each of them."""

    async def recall(self, runtime: str) -> bytes | None:
        """What a runtime learned from its builds; None where it has no such state."""


#: make_lane(name of the board, the board)
MakeLane = Callable[[str, Board], Coroutine[Any, Any, None]]


def run_blocking(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end that blocks instead of suspending, without an event loop.

    An event loop would take Ctrl-C away from what blocks.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        coroutine.close()
    raise RuntimeError("a lane of a board in this process was suspended")
