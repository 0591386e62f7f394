"""Which job runs where and when: the protocol of a scheduler, and the one that has one board.

Whatever the scheduler, a device runs one job at a time. Schedulers and connections multiply.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from devices.connection import Connection
from devices.environment import Environment
from profiler.scheduling.board_protocol import MakeLane, run_blocking
from profiler.scheduling.direct_board import DirectBoard, Notice, ignore_notice


class Scheduler(Protocol):
    """Drives lanes, one a board."""

    @property
    def lanes(self) -> int:
        """How many lanes are driven at a time."""

    @property
    def jobs_at_once(self) -> int:
        """How many jobs a lane should put into one request."""

    def boards(self) -> tuple[str, ...]:
        """The names of the boards that can be asked now."""

    def probe(self) -> Environment:
        """The environment that a fresh agent reports. Raises SessionError where none starts."""

    def drive(self, make_lane: MakeLane) -> None:
        """Make a lane for each board and run them until all have ended."""

    def close(self) -> None:
        """End the agents and take from the boards what was brought there."""


class SerialScheduler:
    """One board, in this process and thread, one job after the other."""

    lanes = 1
    jobs_at_once = 1

    def __init__(
        self,
        connection: Connection,
        *,
        pause: Callable[[float], None] = time.sleep,
        notice: Notice = ignore_notice,
    ) -> None:
        self.board = DirectBoard(connection, pause=pause, notice=notice)

    def boards(self) -> tuple[str, ...]:
        return (self.board.name,)

    def probe(self) -> Environment:
        return run_blocking(self.board.begin())

    def drive(self, make_lane: MakeLane) -> None:
        run_blocking(make_lane(self.board.name, self.board))

    def close(self) -> None:
        self.board.close()
