from pathlib import Path

import pytest

from devices.connection import LocalConnection
from devices.ssh import SshConnection
from profiler.scheduling.board_tasks import connection_of


@pytest.fixture(autouse=True)
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker knows: a board behind ssh, and one that it runs on itself."""
    file = tmp_path / "devices.toml"
    file.write_text(
        '[far]\nlike = "raspi4"\nhost = "pi@far"\n'
        '[here]\nlike = "raspi4"\npython = "/there/python"\nlock = "/run/one-at-a-time"\n'
    )
    monkeypatch.setenv("DSHRINK_DEVICES", str(file))


def test_a_board_with_a_host_is_driven_over_ssh() -> None:
    connection = connection_of("far", hold=True)
    assert isinstance(connection, SshConnection)
    assert (connection.host, connection.hold, connection.name) == ("pi@far", True, "far")


def test_a_board_without_one_is_the_workers_machine_with_what_its_entry_says() -> None:
    connection = connection_of("here", hold=False)
    assert isinstance(connection, LocalConnection)
    assert connection.python == "/there/python"
    assert (connection.lock, connection.name) == ("/run/one-at-a-time", "here")


@pytest.mark.parametrize("name", ["raspi4", "a-name-that-only-the-host-knows"])
def test_a_resource_that_the_worker_knows_no_address_of_is_its_own_machine(name: str) -> None:
    connection = connection_of(name, hold=True)
    assert isinstance(connection, LocalConnection)
    assert (connection.name, connection.hold) == (name, True)
