"""Many boards of one kind at once, through an existing Dask cluster.

A worker declares the device it drives as a resource of that name (``dask worker ADDRESS --resources
"raspi4=1"``), and Dask runs one task a resource at a time, for all its clients. Each board has a
lane; all lanes run in one thread of this process. A board whose worker dies loses its lane, and its
jobs go to the others; a worker that comes back, or is new, gets a lane in the middle of a round.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from devices.environment import Environment
from profiler.errors import SessionError
from profiler.scheduling.board_protocol import MakeLane
from profiler.scheduling.dask_connection import (
    CONNECT_TIMEOUT_S,
    Hearts,
    connect_async,
    workers_of,
)
from profiler.scheduling.worker_board import PARCELS_AT_ONCE, FleetWorker, WorkerBoard, cancel

#: How often the list of workers is looked at.
WATCH_S = 1.0
#: How long a run waits for a worker to appear where there is none.
PATIENCE_S = 60.0
#: A task costs the host and Dask's scheduler some milliseconds, so that with many boards several
#: jobs share one: one more job a task for so many boards.
BOARDS_A_JOB = 10

_Running = tuple[WorkerBoard, asyncio.Task[None]]


class DaskScheduler:
    """Boards behind the workers of a Dask cluster; not for use by several threads at once.

    ``names`` are the resources that count: the device's own name and those of its boards. Raises
    SessionError where the cluster cannot be reached.
    """

    def __init__(
        self,
        address: str,
        names: Collection[str],
        *,
        hold: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._address = address
        self._names = tuple(names)
        self._hold = hold
        self._patience_s = patience_s
        self._run = uuid.uuid4().hex
        self._asked: set[FleetWorker] = set()
        self._hearts = Hearts()
        self._runner = asyncio.Runner()
        self._sending = asyncio.Semaphore(PARCELS_AT_ONCE)
        self._lanes = 1
        self._closed = False
        try:
            self._client = self._runner.run(connect_async(address))
        except BaseException:
            self._runner.close()
            raise

    @property
    def lanes(self) -> int:
        """How many boards had a worker when last looked at."""
        return self._lanes

    @property
    def jobs_at_once(self) -> int:
        """One job a task on a small fleet, several where tasks would come too fast."""
        return -(-self._lanes // BOARDS_A_JOB)

    def boards(self) -> tuple[str, ...]:
        return tuple(self._runner.run(self._workers()))

    def probe(self) -> Environment:
        """The environment that the first board that can start an agent reports."""
        return self._runner.run(self._probe())

    def drive(self, make_lane: MakeLane) -> None:
        """Drive a lane for each board, those that appear meanwhile included, until all have ended.

        Raises SessionError where no worker offers the device, or the cluster is unreachable.
        """
        self._runner.run(self._drive(make_lane))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._runner.run(self._close())
        finally:
            self._runner.close()

    async def _workers(self) -> dict[str, FleetWorker]:
        """The workers that offer the device, by the names of their boards."""
        known = await workers_of(self._client, self._address)
        found: dict[str, FleetWorker] = {}
        for address, facts in sorted(known.items()):
            if self._hearts.is_silent(address, facts["last_seen"]):
                continue
            for resource in sorted(set(facts["resources"]) & set(self._names)):
                board = self._board_name(address, resource, facts)
                worker = FleetWorker(
                    board=board,
                    address=address,
                    resource=resource,
                    folder=str(facts["local_directory"]),
                )
                found.setdefault(board, worker)
        return dict(sorted(found.items()))

    def _board_name(self, address: str, resource: str, facts: Any) -> str:
        """A board's own resource names it; else the worker's name, or the machine it runs on."""
        if resource != self._names[0]:
            return resource
        name = str(facts["name"])
        return f"{resource}@{facts['host']}" if name == address else f"{resource}-{name}"

    def _board(self, worker: FleetWorker) -> WorkerBoard:
        self._asked.add(worker)
        return WorkerBoard(
            client=self._client,
            worker=worker,
            run=self._run,
            hold=self._hold,
            sending=self._sending,
        )

    async def _wait_for_workers(self) -> dict[str, FleetWorker]:
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while not (workers := await self._workers()):
            if asyncio.get_running_loop().time() > deadline:
                raise SessionError(
                    f"no worker of {self._address} offers {' or '.join(self._names)}: start one "
                    f'with `dask worker {self._address} --nthreads 1 --resources "'
                    f'{self._names[0]}=1"`'
                )
            await asyncio.sleep(min(WATCH_S, self._patience_s))
        return workers

    async def _probe(self) -> Environment:
        problems: list[SessionError] = []
        for worker in (await self._wait_for_workers()).values():
            try:
                return await self._begin(self._board(worker))
            except SessionError as error:
                problems.append(error)
        raise problems[0]

    async def _begin(self, board: WorkerBoard) -> Environment:
        """Start an agent, and look meanwhile whether its worker is still there."""
        asked = asyncio.ensure_future(board.begin())
        try:
            while not asked.done():
                await asyncio.wait({asked}, timeout=WATCH_S)
                if (await self._workers()).get(board.worker.board) != board.worker:
                    board.lost.set()
            return asked.result()
        finally:
            await cancel([asked])

    async def _drive(self, make_lane: MakeLane) -> None:
        running: dict[str, _Running] = {}
        workers = await self._wait_for_workers()
        try:
            while True:
                self._lanes = max(1, len(workers))
                for name, worker in workers.items():
                    if _needs_lane(running.get(name), worker):
                        board = self._board(worker)
                        running[name] = board, asyncio.create_task(make_lane(name, board))
                tasks = [task for _, task in running.values() if not task.done()]
                if not tasks:
                    break
                await asyncio.wait(tasks, timeout=WATCH_S, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()  # a defect of ours in a lane must not pass silently
                workers = await self._workers()
                for name, (board, _) in running.items():
                    if workers.get(name) != board.worker:
                        board.lost.set()
        finally:
            await cancel(task for _, task in running.values())

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                known = set((await self._workers()).values()) & self._asked
                # What cannot be reached now ends with its worker, or when that works for another.
                await asyncio.gather(
                    *(self._board(worker).end() for worker in known), return_exceptions=True
                )
        except (SessionError, TimeoutError):
            pass
        finally:
            await self._end_client()

    async def _end_client(self) -> None:
        with suppress(OSError):  # TimeoutError is one: the scheduler answers no more
            await self._client.close(timeout=CONNECT_TIMEOUT_S)


def _needs_lane(before: _Running | None, worker: FleetWorker) -> bool:
    """Whether no lane of the board runs or has ended on this worker."""
    if before is None:
        return True
    board, task = before
    return task.done() and board.worker != worker
