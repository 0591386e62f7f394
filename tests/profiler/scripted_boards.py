"""Scripted boards for Dask workers: importable there, unlike a test module."""

import errno
import os
import signal
import time
from typing import Any

import distributed
from small_network import latency_ms

from profiler.fake_device import RUNTIME_VERSION, FakeClock, FakeConnection
from profiler.scheduling import board_tasks

#: Above the limit that the tests set; at their end the worker waits for it.
HANGS_S = 8.0


class HurryingClock(FakeClock):
    """A clock that makes a scripted second take some real time, so that kills land in jobs."""

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        time.sleep(0.02 * seconds)


class ScriptedBoards(distributed.WorkerPlugin):  # type: ignore[misc]
    """Gives each worker a scripted board, one that was restarted too."""

    name = "scripted-boards"

    def __init__(
        self,
        slow: dict[str, float] | None = None,
        versions: dict[str, str] | None = None,
        sick: str = "",
        dying: str = "",
        hanging: str = "",
    ) -> None:
        self.slow = slow or {}
        self.versions = versions or {}
        self.sick = sick
        self.dying = dying
        self.hanging = hanging

    def setup(self, worker: Any) -> None:
        name = str(worker.name)
        speed = self.slow.get(name, 1.0)

        def scripted(resource: str, hold: bool) -> Any:
            if name == self.sick:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if name == self.hanging:
                time.sleep(HANGS_S)
            if name == self.dying:
                os.kill(os.getpid(), signal.SIGKILL)
            return FakeConnection(
                latency_ms=latency_ms,
                noise=0.002,
                speed=lambda now_s: speed,
                clock=HurryingClock(),
                seed=int(name),
                runtime_version=self.versions.get(name, RUNTIME_VERSION),
            )

        board_tasks.connection_of = scripted
