"""Many boards of one kind at once, through an existing Dask cluster.

A worker says which device it drives by a resource of that name (``dask worker ADDRESS --resources
"raspi4=1"``), and Dask runs one task a resource at a time, whoever asks. Each board has a lane; all
lanes run in one thread of this process. A board whose worker dies loses its lane, and what it held
goes to the others; a worker that comes back, or is new, gets a lane in the middle of a round.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devices.connection import PushedFile
from devices.environment import Environment
from devices.errors import DevicesError
from profiler import board_tasks
from profiler.board_tasks import BoardOfRun
from profiler.errors import BoardLostError, SessionError
from profiler.steps import Begin, Lane, MakeLane, Push, Step, next_step

CONNECT_TIMEOUT_S = 15.0
#: How often the list of workers is looked at.
WATCH_S = 1.0
#: How long a run waits for a worker to appear where there is none.
PATIENCE_S = 60.0
#: Bytes that travel to a board at once, and to how many boards: all are in this process's memory.
PARCEL_BYTES = 32 << 20
PARCELS_AT_ONCE = 4
#: A task costs the host and Dask's scheduler some milliseconds, so that with many boards several
#: jobs share one: one more job a task for so many boards.
BOARDS_A_JOB = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """``folder`` is another one after a restart, even where the address is the same."""

    board: str
    address: str
    resource: str
    folder: str


@dataclass(slots=True, kw_only=True)
class _Running:
    """A lane on a worker; ``lost`` is set when the worker is seen to be gone."""

    worker: _Worker
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        return self.task is None or self.task.done()


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
        self._asked: set[_Worker] = set()
        self._runner = asyncio.Runner()
        self._sending = asyncio.Semaphore(PARCELS_AT_ONCE)
        self._lanes = 1
        self._closed = False
        try:
            self._client = self._runner.run(self._connect())
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
        """The names of the boards whose workers are there now."""
        return tuple(self._runner.run(self._workers()))

    def probe(self) -> Environment:
        """What a fresh agent on the first board that can start one says."""
        return self._runner.run(self._probe())

    def drive(self, make_lane: MakeLane) -> None:
        """Drive a lane for each board, those that appear meanwhile included, until all have ended.

        Raises SessionError where no worker offers the device, or the cluster is gone.
        """
        self._runner.run(self._drive(make_lane))

    def close(self) -> None:
        """End the run's agents and the connection to the cluster."""
        if self._closed:
            return
        self._closed = True
        try:
            self._runner.run(self._close())
        finally:
            self._runner.close()

    async def _connect(self) -> Any:
        try:
            from distributed import Client
        except ImportError as error:
            raise SessionError(
                f"--scheduler needs Dask ({error}): python -m pip install 'distributed>=2026.8'"
            ) from error
        client: Any = None
        try:
            client = Client(
                self._address,
                asynchronous=True,
                set_as_default=False,
                timeout=CONNECT_TIMEOUT_S,
                name="dshrink",
            )
            return await client
        except (OSError, ValueError) as error:
            problem = f"no Dask scheduler answers at {self._address} ({_said(error)})"
            advice = "start one with `dask scheduler`, and give the address that it prints"
        except (TypeError, RuntimeError) as error:
            problem = f"Dask cannot connect to {self._address} ({_said(error)})"
            advice = "for tls:// set distributed.comm.tls in Dask's configuration (docs/fleets.md)"
        if client is not None:
            with suppress(Exception):  # it never was connected
                await client.close()
        raise SessionError(f"{problem}: {advice}")

    async def _workers(self) -> dict[str, _Worker]:
        """The workers that offer the device, by the names of their boards."""
        try:
            identity = await self._client.scheduler.identity(n_workers=-1)
        except OSError as error:
            raise SessionError(
                f"the Dask scheduler at {self._address} went away ({error}); what was measured is "
                "in the journal: give the same command again when it is back"
            ) from error
        except TypeError as error:
            raise SessionError(
                f"the Dask scheduler at {self._address} is of another version ({error}): have the "
                "same one on the host, the scheduler and the workers"
            ) from error
        found: dict[str, _Worker] = {}
        for address, facts in sorted(identity["workers"].items()):
            for resource in sorted(set(facts["resources"]) & set(self._names)):
                board = self._board_name(address, resource, facts)
                worker = _Worker(
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

    async def _wait_for_workers(self) -> dict[str, _Worker]:
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
        problem: SessionError | None = None
        for worker in (await self._wait_for_workers()).values():
            try:
                environment: Environment = await self._begin(_Running(worker=worker))
            except SessionError as error:
                problem = problem or error
            else:
                return environment
        assert problem is not None  # there is at least one worker
        raise problem

    async def _begin(self, running: _Running) -> Environment:
        """Start an agent, and look meanwhile whether its worker is still there."""
        asked = asyncio.ensure_future(self._carry_out(Begin(), running))
        try:
            while not asked.done():
                await asyncio.wait({asked}, timeout=WATCH_S)
                if (await self._workers()).get(running.worker.board) != running.worker:
                    running.lost.set()
            environment: Environment = asked.result()
            return environment
        finally:
            await _cancel([asked])

    async def _drive(self, make_lane: MakeLane) -> None:
        running: dict[str, _Running] = {}
        workers = await self._wait_for_workers()
        try:
            while True:
                self._lanes = max(1, len(workers))
                for board, worker in workers.items():
                    before = running.get(board)
                    if before is None or (before.done and before.worker != worker):
                        running[board] = self._start_lane(make_lane(board), worker)
                if all(one.done for one in running.values()):
                    return
                tasks = [one.task for one in running.values() if one.task and not one.done]
                done, _ = await asyncio.wait(
                    tasks, timeout=WATCH_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()  # a defect of ours in a lane must not pass silently
                workers = await self._workers()
                for board, one in running.items():
                    if workers.get(board) != one.worker:
                        one.lost.set()
        finally:
            await _cancel(one.task for one in running.values())

    def _start_lane(self, lane: Lane, worker: _Worker) -> _Running:
        running = _Running(worker=worker)
        running.task = asyncio.get_running_loop().create_task(self._drive_lane(lane, running))
        return running

    async def _drive_lane(self, lane: Lane, running: _Running) -> None:
        answer: Any = None
        problem: SessionError | None = None
        try:
            while (step := next_step(lane, answer, problem)) is not None:
                answer, problem = None, None
                try:
                    answer = await self._carry_out(step, running)
                except SessionError as error:
                    problem = error
        finally:
            lane.close()

    async def _carry_out(self, step: Step, running: _Running) -> Any:
        if isinstance(step, Push):
            parcels = _parcels(step.files)
            return sum([await self._send(files, running) for files in parcels], ())
        return await self._ask(board_tasks.carry_out, running, step)

    async def _send(self, files: Sequence[Path], running: _Running) -> tuple[PushedFile, ...]:
        async with self._sending:
            named = {_name_on_worker(file): file.read_bytes() for file in files}
            try:
                # Not as an argument: those stay in the scheduler's memory.
                parcel = await self._client.scatter(
                    [named], workers=[running.worker.address], hash=False
                )
            except (OSError, KeyError, TimeoutError) as error:
                raise _lost(running) from error
            pushed: tuple[PushedFile, ...] = await self._ask(
                board_tasks.receive, running, parcel[0]
            )
            return pushed

    async def _ask(self, task: Callable[..., Any], running: _Running, *arguments: Any) -> Any:
        """Run a task on the board's worker; BoardLostError where that goes away meanwhile."""
        worker = running.worker
        which = BoardOfRun(
            run=self._run, board=worker.board, resource=worker.resource, hold=self._hold
        )
        self._asked.add(worker)
        future = self._client.submit(
            task,
            which,
            *arguments,
            workers=[worker.address],
            resources={worker.resource: 1},
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        result = asyncio.ensure_future(future.result())
        gone = asyncio.ensure_future(running.lost.wait())
        try:
            await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise _lost(running)
            return _answer_of(result, running)
        finally:
            await _cancel([result, gone])
            future.release()

    async def _close(self) -> None:
        try:
            known = set((await self._workers()).values()) & self._asked
            goodbyes = [self._ask(board_tasks.end, _Running(worker=one)) for one in known]
            # What cannot be reached now ends with its worker, or when that works for another run.
            said = asyncio.gather(*goodbyes, return_exceptions=True)
            await asyncio.wait_for(said, timeout=CONNECT_TIMEOUT_S)
        except (SessionError, TimeoutError):
            pass
        finally:
            await self._client.close()


def _answer_of(result: asyncio.Future[Any], running: _Running) -> Any:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        return result.result()
    except (FutureCancelledError, KilledWorker, asyncio.CancelledError) as error:
        raise _lost(running) from error
    except SessionError:
        raise
    except DevicesError as error:
        raise SessionError(f"{running.worker.board}: {error}") from error
    except Exception as error:
        # One sick worker (a full disk, another version) must not end the work of the others.
        raise SessionError(
            f"the worker of {running.worker.board} failed ({_said(error)}): see its log, and have "
            "the same versions of dshrink and Dask where it runs"
        ) from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _lost(running: _Running) -> BoardLostError:
    worker = running.worker
    return BoardLostError(f"{worker.board} went away with its worker {worker.address}")


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


async def _cancel(tasks: Any) -> None:
    open_tasks = [task for task in tasks if task is not None and not task.done()]
    for task in open_tasks:
        task.cancel()
    await asyncio.gather(*open_tasks, return_exceptions=True)
