"""Scripted boards for Dask workers: importable there, unlike a test module."""

import time
from typing import Any

import distributed
from small_network import latency_ms

from profiler import board_tasks
from profiler.fake_device import RUNTIME_VERSION, FakeClock, FakeConnection


class HurryingClock(FakeClock):
    """A clock that makes a scripted second take some real time, so that kills land in jobs."""

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        time.sleep(0.02 * seconds)


class ScriptedBoards(distributed.WorkerPlugin):  # type: ignore[misc]
    """Gives each worker a scripted board, one that was restarted too."""

    name = "scripted-boards"

    def __init__(self, slow: dict[str, float], versions: dict[str, str]) -> None:
        self.slow = slow
        self.versions = versions

    def setup(self, worker: Any) -> None:
        name = str(worker.name)
        speed = self.slow.get(name, 1.0)

        def scripted(resource: str, hold: bool) -> Any:
            return FakeConnection(
                latency_ms=latency_ms,
                noise=0.002,
                speed=lambda now_s: speed,
                clock=HurryingClock(),
                seed=int(name),
                runtime_version=self.versions.get(name, RUNTIME_VERSION),
            )

        board_tasks.connection_of = scripted
