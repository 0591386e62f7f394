"""The connection to a Dask cluster, for a fleet of boards and for other work on a cluster.

Nothing of Dask's is waited for without a limit: a process that is stopped, or a machine that hangs,
keeps its connections open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from profiler.errors import SessionError

CONNECT_TIMEOUT_S = 15.0
#: So long the scheduler may take to answer, and so often it is asked: this process may have been
#: the one that was stopped.
ANSWER_S = 30.0
TRIES = 2
#: So long a worker may be silent; they beat every second or so.
SILENT_S = 60.0
#: What passes at most between two looks at the workers, unless this process itself was stopped.
LONGEST_LOOK_S = 5.0


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """A cluster for code that blocks.

    Raises SessionError where Dask is missing, nothing answers, or TLS is not set up.
    """
    with _advice(address):
        asyncio.run(_reach(address))  # the other client would wait for ever
        client = _client(address, asynchronous=False)
    with client:
        yield Cluster(client, address)


async def connect_async(address: str) -> Any:
    """As ``connect``, a client for the running event loop; ``await client.close()`` ends it."""
    with _advice(address):
        client = _client(address, asynchronous=True)
        try:
            # Dask's own limit is not one for each of its steps.
            return await asyncio.wait_for(_connected(client), 2 * CONNECT_TIMEOUT_S)
        except BaseException:
            with suppress(Exception):  # it never was connected
                await asyncio.wait_for(client.close(), CONNECT_TIMEOUT_S)
            raise


async def _reach(address: str) -> None:
    client = await connect_async(address)
    await client.close(timeout=CONNECT_TIMEOUT_S)


async def _connected(client: Any) -> Any:
    return await client


async def workers_of(client: Any, address: str) -> Mapping[str, Any]:
    """What the scheduler knows of each worker; raises SessionError where it does not answer."""
    with _asking(address):
        for left in reversed(range(TRIES)):
            try:
                found = await asyncio.wait_for(client.scheduler.identity(n_workers=-1), ANSWER_S)
                break
            except TimeoutError:
                if not left:
                    raise
    return dict(found["workers"])


class Hearts:
    """Which workers are silent: their connections say nothing about a process that is stopped."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Of each worker its last beat, when it was looked at last, and for how long it was silent.
        self._known: dict[str, tuple[float, float, float]] = {}

    def is_silent(self, address: str, last_seen: float) -> bool:
        """Whether its heart has not beaten for too long, by this machine's own clock.

        ``last_seen`` is what the scheduler says. Time in which nobody looked does not count.
        """
        now = self._clock()
        beat, looked, silent_s = self._known.get(address, (last_seen, now, 0.0))
        silent_s += min(now - looked, LONGEST_LOOK_S)
        if last_seen != beat:
            silent_s = 0.0
        self._known[address] = last_seen, now, silent_s
        return silent_s > SILENT_S


class Cluster:
    """A connected ``distributed.Client``, which is ``client``, and who works for it."""

    def __init__(self, client: Any, address: str) -> None:
        self.client = client
        self.address = address
        self._hearts = Hearts()

    def workers(self) -> dict[str, Any]:
        """What the scheduler knows of each worker that is not silent; raises SessionError."""
        known = self.client.sync(workers_of, self.client, self.address)
        return {
            worker: facts
            for worker, facts in known.items()
            if not self._hearts.is_silent(worker, facts["last_seen"])
        }


def describe(error: BaseException) -> str:
    """The type of an error of Dask's, and its text where it has one."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _client(address: str, *, asynchronous: bool) -> Any:
    from distributed import Client

    return Client(
        address,
        asynchronous=asynchronous,
        set_as_default=False,
        timeout=CONNECT_TIMEOUT_S,
        name="dshrink",
    )


@contextmanager
def _asking(address: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise SessionError(
            f"the Dask scheduler at {address} has not answered for {TRIES * ANSWER_S:g} s: see "
            "whether it still runs; finished work is in the journal: run the same command again"
        ) from error
    except OSError as error:
        raise SessionError(
            f"lost the connection to the Dask scheduler at {address} ({error}); finished "
            "work is in the journal: run the same command again"
        ) from error
    except TypeError as error:
        raise SessionError(
            f"the Dask scheduler at {address} is of another version ({error}): have the "
            "same one on the host, the scheduler and the workers"
        ) from error


@contextmanager
def _advice(address: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise SessionError(
            f"--scheduler needs Dask ({error}): python -m pip install 'distributed>=2026.8'"
        ) from error
    except (OSError, ValueError) as error:
        raise SessionError(
            f"no Dask scheduler answers at {address} ({describe(error)}): start one with "
            "`dask scheduler`, and give the address that it prints"
        ) from error
    except (TypeError, RuntimeError) as error:
        raise SessionError(
            f"Dask cannot connect to {address} ({describe(error)}): for tls:// set "
            "distributed.comm.tls in Dask's configuration (docs/fleets.md)"
        ) from error
