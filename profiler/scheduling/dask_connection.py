"""The connection to a Dask cluster, for a fleet of boards and for other work on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from profiler.errors import SessionError

CONNECT_TIMEOUT_S = 15.0


def connect(address: str) -> Any:
    """A connected ``distributed.Client``, a context manager.

    Raises SessionError where Dask is missing, nothing answers, or TLS is not set up.
    """
    with _advice(address):
        return _client(address, asynchronous=False)


async def connect_async(address: str) -> Any:
    """As ``connect``, a client for the running event loop; ``await client.close()`` ends it."""
    with _advice(address):
        client = _client(address, asynchronous=True)
        try:
            return await client
        except BaseException:
            with suppress(Exception):  # it never was connected
                await client.close()
            raise


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
