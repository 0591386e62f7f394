"""Fixtures of all tests.

Networks are made once a run: tracing costs seconds, and no test changes what it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devices.agent import lock
from dshrink.models import Network, load_network

if TYPE_CHECKING:
    from ssh_server import SshServer

# Tests of every folder may import what lies there (not here: tests/devices would hide devices).
sys.path.append(str(Path(__file__).parent / "support"))


@pytest.fixture(scope="session", autouse=True)
def device_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that the agents of the tests lock: who measures here meanwhile must not wait."""
    path = tmp_path_factory.mktemp("lock") / lock.FILE_NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(lock.PATH_VARIABLE, str(path))
        yield path


@cache
def _load(name: str, resolution: int, weights: str) -> Network:
    return load_network(name, resolution=resolution, weights=weights)


@pytest.fixture(scope="session")
def network() -> Callable[..., Network]:
    """``network(name, resolution=224, weights="initial")``, shared: do not change what it gives."""

    def load(name: str, resolution: int = 224, weights: str = "initial") -> Network:
        return _load(name, resolution, weights)

    return load


@pytest.fixture
def ssh_server(tmp_path: Path) -> Iterator[SshServer]:
    """A real OpenSSH server for one test; no agent that it started outlives it."""
    from ssh_server import SshServer, missing

    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with SshServer(tmp_path / "ssh") as server:
        yield server
