"""What a Dask worker does for its board: the far half of ``profiler.scheduling.worker_board``.

A worker controls the device that its resource names: over ssh where the worker's own inventory
gives that device a host, else the machine that the worker runs on. Each run has its own agent
there, and a thread of its own that owns the agent, which ends with the thread that started it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from devices.connection import Connection, LocalConnection, PushedFile
from devices.environment import Environment
from devices.inventory import connect, load_inventory
from profiler.scheduling.board_protocol import Outcome, Request, run_blocking
from profiler.scheduling.direct_board import DirectBoard

#: A run without a request for so long has ended without closing; the next one cleans up.
ABANDONED_S = 3600.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardOfRun:
    """Which board of which run a task is for; ``hold`` asks it to hold its clocks."""

    run: str
    board: str
    resource: str
    hold: bool = False


@dataclass(slots=True, kw_only=True)
class _DrivenBoard:
    board: DirectBoard
    folder: tempfile.TemporaryDirectory[str]
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))
    last_asked: float = field(default_factory=time.monotonic)

    def run(self, act: Callable[[DirectBoard], Coroutine[Any, Any, _T]]) -> _T:
        self.last_asked = time.monotonic()
        return self.thread.submit(lambda: run_blocking(act(self.board))).result()

    def end(self) -> None:
        self.thread.submit(self.board.close).result()
        self.thread.shutdown()
        self.folder.cleanup()


_boards: dict[BoardOfRun, _DrivenBoard] = {}
_lock = threading.Lock()


def connection_of(resource: str, hold: bool) -> Connection:
    """How this worker reaches the device that its resource names."""
    device = load_inventory().devices.get(resource)
    if device is None:
        return LocalConnection(name=resource, hold=hold)
    if device.host is None:
        device = replace(device, connection="local")
    return connect(device, hold=hold)


def begin(which: BoardOfRun) -> Environment:
    return _board(which).run(lambda board: board.begin())


def execute(
    which: BoardOfRun, requests: Sequence[Request], timeout_s: float
) -> tuple[Outcome, ...]:
    return _board(which).run(lambda board: board.execute(requests, timeout_s))


def recall(which: BoardOfRun, runtime: str) -> bytes | None:
    return _board(which).run(lambda board: board.recall(runtime))


def push(which: BoardOfRun, files: Mapping[str, bytes]) -> tuple[PushedFile, ...]:
    """Bring files to the board; the keys are their names here, without folders."""
    driven = _board(which)
    paths = []
    for name, content in files.items():
        paths.append(Path(driven.folder.name) / Path(name).name)
        paths[-1].write_bytes(content)
    return driven.run(lambda board: board.push(paths))


def end(which: BoardOfRun) -> None:
    """End the run's agent on the board and take away what was brought there."""
    with _lock:
        board = _boards.pop(which, None)
    if board is not None:
        board.end()


def _worker_folder() -> str | None:
    from distributed import get_worker

    with suppress(ValueError):  # not in a task
        return str(get_worker().local_directory)
    return None


def _board(which: BoardOfRun) -> _DrivenBoard:
    with _lock:
        now = time.monotonic()
        abandoned = [
            known
            for known, board in _boards.items()
            if known != which and now - board.last_asked > ABANDONED_S
        ]
        gone = [_boards.pop(known) for known in abandoned]
        if which not in _boards:
            _boards[which] = _DrivenBoard(
                board=DirectBoard(connection_of(which.resource, which.hold)),
                # Below what Dask itself clears away after a worker that was killed.
                folder=tempfile.TemporaryDirectory(prefix="dshrink-", dir=_worker_folder()),
            )
        found = _boards[which]
    for board in gone:
        board.end()
    return found
