"""Fixtures of all tests.

``make test`` runs them in several processes (pytest-xdist), each with a device lock and folders of
its own. Networks are made once a process: tracing costs seconds, and no test changes what it is
given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from devices.agent import lock
from dshrink.network.models import Network, load_network

if TYPE_CHECKING:
    from ran_command import Ran
    from ssh_server import SshServer

# Whatever terminal the tests are run from: the consoles look once, when they are first imported.
for size in ("COLUMNS", "LINES"):
    os.environ.pop(size, None)

# Wherever they are run: what a dshrink.toml there sets is not for the tests.
os.environ["DSHRINK_CONFIG"] = ""

# Tests of every folder may import what lies there (not here: tests/devices would hide devices).
sys.path.append(str(Path(__file__).parent / "support"))


@pytest.fixture(scope="session", autouse=True)
def device_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that the agents of the tests lock: who measures here meanwhile must not wait."""
    path = tmp_path_factory.mktemp("lock") / lock.FILE_NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(lock.PATH_VARIABLE, str(path))
        yield path


@pytest.fixture(scope="session", autouse=True)
def valid_json() -> Iterator[None]:
    """Whatever a test makes a command print as JSON must be as its schema says."""
    from valid_json import all_json_checked

    with all_json_checked():
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks of the tests are too small to share, and other tests run beside this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # what the tests start
        yield
    torch.set_num_threads(threads)


#: Larger ones are made each time: three VGGs would stay in each process with 1.6 GB.
KEPT_PARAMETERS = 30_000_000
_kept: dict[tuple[str, int, str], Network] = {}


def _load(name: str, resolution: int, weights: str) -> Network:
    key = (name, resolution, weights)
    if key in _kept:
        return _kept[key]
    found = load_network(name, resolution=resolution, weights=weights)
    if found.spec.parameters <= KEPT_PARAMETERS:
        _kept[key] = found
    return found


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


@pytest.fixture
def dshrink(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """``dshrink("chain", "resnet18")`` runs the command and returns status, stdout and stderr."""
    from ran_command import run_command

    return lambda *words: run_command(words, monkeypatch, capsys)
