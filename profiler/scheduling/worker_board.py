"""A board behind a worker of a Dask cluster, as the lanes of this process see it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from devices.connection import PushedFile
from devices.environment import Environment
from devices.errors import DevicesError
from profiler.errors import BoardLostError, SessionError
from profiler.scheduling import board_tasks
from profiler.scheduling.board_protocol import Outcome, Request
from profiler.scheduling.board_tasks import BoardOfRun
from profiler.scheduling.dask_connection import describe
from profiler.scheduling.direct_board import GRACE_S

#: Bytes that travel to a board at once, and to how many boards: all are in this process's memory.
PARCEL_BYTES = 32 << 20
PARCELS_AT_ONCE = 4
#: What a board may take to answer, beside the time of the jobs: it starts agents, waits for links
#: and for other runs, and takes files over slow ones.
ANSWER_S = 900.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetWorker:
    """``folder`` is another one after a restart, even where the address is the same."""

    board: str
    address: str
    resource: str
    folder: str


@dataclass(kw_only=True)
class WorkerBoard:
    """A ``board_protocol.Board``; ``lost`` is set when its worker has disappeared.

    ``run`` names the run on the worker, and ``sending`` limits how many boards are sent files.
    """

    client: Any
    worker: FleetWorker
    run: str
    hold: bool
    sending: asyncio.Semaphore
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self) -> Environment:
        return await self._ask(board_tasks.begin)

    async def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        pushed: tuple[PushedFile, ...] = ()
        for parcel in _parcels(files):
            pushed += await self._send(parcel)
        return pushed

    async def execute(self, requests: Sequence[Request], timeout_s: float) -> tuple[Outcome, ...]:
        jobs_s = len(requests) * (timeout_s + GRACE_S)
        return await self._ask(board_tasks.execute, requests, timeout_s, takes_s=jobs_s)

    async def recall(self, runtime: str) -> bytes | None:
        return await self._ask(board_tasks.recall, runtime)

    async def end(self) -> None:
        """End the run's agent there."""
        await self._ask(board_tasks.end)

    async def _send(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        async with self.sending:
            named = {_name_on_worker(file): file.read_bytes() for file in files}
            # Not as an argument: those stay in the scheduler's memory.
            sent = asyncio.ensure_future(
                self.client.scatter([named], workers=[self.worker.address], hash=False)
            )
            await self._wait_for(sent, ANSWER_S)
            try:
                parcel = sent.result()
            except (OSError, KeyError) as error:  # among them Dask's own limit
                raise self._lost_error() from error
            return await self._ask(board_tasks.push, parcel[0])

    async def _ask(self, task: Callable[..., _T], *arguments: Any, takes_s: float = 0.0) -> _T:
        """Run a task on the board's worker; BoardLostError where that goes away meanwhile.

        SessionError where nothing comes for ``ANSWER_S`` longer than the task takes.
        """
        worker = self.worker
        which = BoardOfRun(
            run=self.run, board=worker.board, resource=worker.resource, hold=self.hold
        )
        future = self.client.submit(
            task,
            which,
            *arguments,
            workers=[worker.address],
            resources={worker.resource: 1},
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        result: asyncio.Future[_T] = asyncio.ensure_future(future.result())
        try:
            await self._wait_for(result, takes_s + ANSWER_S)
            return self._answer_of(result)
        finally:
            future.release()

    async def _wait_for(self, result: asyncio.Future[Any], limit_s: float) -> None:
        """Return when it is done; raise where the worker goes away before, or time is over."""
        gone = asyncio.ensure_future(self.lost.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {result, gone}
            done, _ = await asyncio.wait(
                waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
            if gone in done and not result.done():
                raise self._lost_error()
            if not done:
                raise SessionError(
                    f"the worker of {self.worker.board} at {self.worker.address} has not answered "
                    f"for {limit_s:.0f} s: restart it"
                )
        finally:
            await cancel([result, gone])

    def _answer_of(self, result: asyncio.Future[_T]) -> _T:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        try:
            return result.result()
        except (FutureCancelledError, KilledWorker, asyncio.CancelledError) as error:
            raise self._lost_error() from error
        except SessionError:
            raise
        except DevicesError as error:
            raise SessionError(f"{self.worker.board}: {error}") from error
        except Exception as error:
            # One sick worker (a full disk, another version) must not end the work of the others.
            raise SessionError(
                f"the worker of {self.worker.board} failed ({describe(error)}): see its log, and "
                "have the same versions of dshrink and Dask where it runs"
            ) from error

    def _lost_error(self) -> BoardLostError:
        return BoardLostError(f"{self.worker.board} was lost with its worker {self.worker.address}")


def _name_on_worker(file: Path) -> str:
    """A name that no other file of the run has: two folders may hold a file of one name."""
    return f"{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}-{file.name}"


def _parcels(files: Iterable[Path]) -> Iterator[list[Path]]:
    """The files in their order, in groups that are not too large to send at once."""
    parcel: list[Path] = []
    size = 0
    for file in files:
        bytes_of_file = file.stat().st_size
        if parcel and size + bytes_of_file > PARCEL_BYTES:
            yield parcel
            parcel, size = [], 0
        parcel.append(file)
        size += bytes_of_file
    if parcel:
        yield parcel


async def cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel what still runs, and wait until it has ended."""
    open_tasks = [task for task in tasks if not task.done()]
    for task in open_tasks:
        task.cancel()
    await asyncio.gather(*open_tasks, return_exceptions=True)
