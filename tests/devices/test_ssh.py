"""Agents behind a real OpenSSH server, and everything that can go wrong on the way to them."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pythons import needs
from ssh_server import PATIENCE_S, SshServer, make_key, wait_until

from devices import file_sending
from devices.agent.protocol import file_digest
from devices.boot import SHELL_STATUS
from devices.connection import AGENT_FOLDER, PushedFile
from devices.errors import AgentError, AgentLostError, InventoryError, JobFailedError
from devices.ssh import SshConnection

Job = Callable[..., dict[str, Any]]


def pushed_job(connection: SshConnection, job: dict[str, Any]) -> dict[str, Any]:
    """The job with its file on the device."""
    [file] = connection.push([Path(job["file"])])
    return job | {"file": file.path}


def start_error(connection: SshConnection) -> AgentError:
    """The error with which no agent starts."""
    with pytest.raises(AgentError) as caught:
        connection.start_agent()
    return caught.value


def test_an_agent_over_ssh_says_hello_and_measures_what_was_pushed(
    ssh_server: SshServer, fake_job: Job
) -> None:
    connection = ssh_server.connect()
    with connection.start_agent() as agent:
        job = pushed_job(connection, fake_job("work"))
        assert Path(job["file"]).parent == ssh_server.folder / "files"
        assert len(agent.request(job, PATIENCE_S)["wall_ns"]) >= 3
    connection.close()
    assert not ssh_server.folder.exists()
    connection.close()


def test_what_is_to_stay_stays(ssh_server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    connection = ssh_server.connect(keep=True, folder=None)
    [pushed] = connection.push([tmp_path / "file"])
    connection.close()
    root = ssh_server.home / "cache" / "dshrink"
    assert connection.left_behind == ""
    assert Path(pushed.path).read_bytes() == b"content"
    assert list(root.glob("agent-*/__main__.py"))
    # Compiled files would be cut short on a disk that has just room for the agent.
    assert not list(root.rglob("*.pyc"))


def test_a_run_takes_nothing_from_another_that_goes_on(
    ssh_server: SshServer, fake_job: Job
) -> None:
    leaving, staying = ssh_server.connect(), ssh_server.connect()
    with staying.start_agent() as agent:
        job = pushed_job(leaving, fake_job("work"))
        leaving.close()
        assert leaving.left_behind == ""
        assert agent.request(job, PATIENCE_S)["wall_ns"]
    staying.close()
    assert not ssh_server.folder.exists()


def test_only_what_the_device_lacks_is_sent_and_a_file_is_hashed_once(
    ssh_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Path] = []
    hashed: list[str] = []
    pieces, digest = file_sending.Outgoing.pieces, file_sending.file_digest
    monkeypatch.setattr(
        file_sending.Outgoing, "pieces", lambda one: (sent.append(one.file), pieces(one))[1]
    )
    monkeypatch.setattr(
        file_sending, "file_digest", lambda path: (hashed.append(path), digest(path))[1]
    )
    files = [tmp_path / "large", tmp_path / "empty", tmp_path / "small"]
    for file, size_bytes in zip(files, (3_000_000, 0, 10), strict=True):
        file.write_bytes(os.urandom(size_bytes))
    connection = ssh_server.connect()
    first = connection.push([*files[:2], files[0]])
    second = connection.push(files)
    assert sent == files
    assert hashed == [str(file) for file in files]
    assert second == (*first[:2], second[2])
    assert first[2] == first[0]
    for file, pushed in zip(files, second, strict=True):
        assert pushed == PushedFile(path=pushed.path, sha256=file_digest(str(file)))
        assert Path(pushed.path).read_bytes() == file.read_bytes()
    assert connection.push([]) == ()


def test_a_file_that_is_not_there_is_a_typed_error(ssh_server: SshServer, tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="cannot be read") as caught:
        ssh_server.connect().push([tmp_path / "none"])
    assert caught.value.type == "missing_file"


def test_a_file_that_shrinks_while_it_is_sent_is_a_typed_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    outgoing = file_sending.outgoing(file)
    file.write_bytes(b"123")
    with pytest.raises(JobFailedError, match="cut short") as caught:
        list(outgoing.pieces())
    assert caught.value.type == "wrong_digest"


def test_a_link_that_is_cut_in_mid_job_is_lost_and_the_job_ends(
    ssh_server: SshServer, fake_job: Job
) -> None:
    connection = ssh_server.connect()
    with connection.start_agent() as agent, ThreadPoolExecutor(1) as other:
        job = pushed_job(connection, fake_job("hang"))
        reply = other.submit(agent.request, job, PATIENCE_S)
        assert wait_until((ssh_server.home / "device.lock").exists)
        ssh_server.cut()
        with pytest.raises(AgentLostError, match=r"link to device broke.*measure") as caught:
            reply.result()
        assert caught.value.type == "connection_lost"
        assert f"`ssh -F {ssh_server.home / 'client'} device`" in caught.value.advice
        assert not agent.alive
    assert wait_until(lambda: not ssh_server.agents)
    with connection.start_agent() as agent:
        assert agent.request({"do": "hello"}, PATIENCE_S)


def test_a_link_that_is_cut_while_a_file_is_sent_is_lost(
    ssh_server: SshServer, tmp_path: Path
) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(200_000_000)
    connection = ssh_server.connect()
    with ThreadPoolExecutor(1) as other:
        pushed = other.submit(connection.push, [tmp_path / "file"])
        assert wait_until(lambda: list(ssh_server.folder.glob("files/*.part")))
        ssh_server.cut()
        with pytest.raises(AgentLostError, match="link to device broke") as caught:
            pushed.result()
    assert caught.value.type == "connection_lost"
    (tmp_path / "file").write_bytes(b"less")
    assert connection.push([tmp_path / "file"])
    connection.close()
    assert wait_until(lambda: not ssh_server.folder.exists())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_agent_that_dies_is_a_crash_with_its_signal_and_no_lost_link(
    ssh_server: SshServer, number: signal.Signals
) -> None:
    with ssh_server.connect().start_agent() as agent:
        [pid] = ssh_server.agents
        os.kill(pid, number)
        with pytest.raises(AgentLostError, match=number.name) as caught:
            agent.request({"do": "hello"}, PATIENCE_S)
    assert caught.value.type == "agent_crashed"
    assert caught.value.exit_status == -number


def test_the_last_words_of_an_agent_come_over_the_link(
    ssh_server: SshServer, fake_job: Job
) -> None:
    connection = ssh_server.connect()
    with connection.start_agent() as agent:
        job = pushed_job(connection, fake_job("leave", status=7))
        with pytest.raises(AgentLostError, match=r"exit status 7.*the fake runtime leaves"):
            agent.request(job, PATIENCE_S)


def test_a_device_that_answers_nothing_is_a_timeout(ssh_server: SshServer) -> None:
    with ssh_server.connect().start_agent() as agent:
        ssh_server.freeze()
        start_s = time.monotonic()
        with pytest.raises(AgentLostError, match=r"no reply within 0\.5 s") as caught:
            agent.request({"do": "hello"}, 0.5)
        assert time.monotonic() - start_s < 5.0
        assert caught.value.type == "timeout"
        ssh_server.thaw()
    # Killing the ssh here ended the agent there.
    assert wait_until(lambda: not ssh_server.agents)


def test_a_link_on_which_nothing_comes_is_lost_before_the_job_times_out(
    ssh_server: SshServer,
) -> None:
    often = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1")
    with ssh_server.connect(options=(*ssh_server.options, *often)).start_agent() as agent:
        ssh_server.freeze()
        with pytest.raises(AgentLostError, match="link to device broke") as caught:
            agent.request({"do": "hello"}, PATIENCE_S)
        assert caught.value.type == "connection_lost"
        ssh_server.thaw()


def test_a_job_that_hangs_is_ended_on_the_device(ssh_server: SshServer, fake_job: Job) -> None:
    connection = ssh_server.connect()
    with connection.start_agent() as agent:
        job = pushed_job(connection, fake_job("hang"))
        with pytest.raises(AgentLostError, match="no reply within"):
            agent.request(job, 0.3)
    assert wait_until(lambda: not ssh_server.agents)


def test_a_job_that_its_own_alarm_ends_is_a_timeout_and_no_crash(
    ssh_server: SshServer, fake_job: Job
) -> None:
    connection = ssh_server.connect()
    with connection.start_agent() as agent:
        job = pushed_job(connection, fake_job("hang"))
        with pytest.raises(AgentLostError, match=r"device ended .* time limit of 1 s") as caught:
            agent.request(job | {"timeout_s": 1}, PATIENCE_S)
    assert (caught.value.type, caught.value.exit_status) == ("timeout", -signal.SIGALRM)


def test_the_device_locks_the_file_that_is_named(
    ssh_server: SshServer, fake_job: Job, tmp_path: Path
) -> None:
    connection = ssh_server.connect(lock=str(tmp_path / "named"))
    with connection.start_agent() as agent:
        assert agent.request(pushed_job(connection, fake_job("work")), PATIENCE_S)["wall_ns"]
    assert (tmp_path / "named").exists()
    assert not (ssh_server.home / "device.lock").exists()


def test_a_killed_host_leaves_no_agent_in_mid_job(ssh_server: SshServer, fake_job: Job) -> None:
    connection = ssh_server.connect()
    job = pushed_job(connection, fake_job("hang"))
    script = ssh_server.home / "host.py"
    script.write_text(
        "from devices.ssh import SshConnection\n"
        f"agent = {connection!r}.start_agent()\n"
        f"agent.request({job!r}, 600.0)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(AGENT_FOLDER.parents[1])}
    with subprocess.Popen([sys.executable, str(script)], env=environment) as host:
        assert wait_until((ssh_server.home / "device.lock").exists)
        host.kill()
    assert wait_until(lambda: not ssh_server.agents)


def test_a_key_that_is_not_accepted_is_permission_denied(ssh_server: SshServer) -> None:
    shutil.copy(ssh_server.home / "other_key.pub", ssh_server.home / "authorized")
    error = start_error(ssh_server.connect())
    assert error.type == "permission_denied"
    assert f"`ssh -F {ssh_server.home / 'client'} device`" in error.advice


def test_a_host_key_that_is_not_known_is_refused_and_nobody_is_asked(
    ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_server.trust(None)
    asks = ssh_server.home / "asks"
    asks.write_text("#!/bin/sh\necho yes\n")
    asks.chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(asks))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    error = start_error(ssh_server.connect())
    assert error.type == "host_key"
    assert "is not known" in error.message
    assert "fingerprint" in error.advice
    assert "StrictHostKeyChecking" not in str(error)
    assert (ssh_server.home / "known_hosts").read_text() == ""


def test_a_host_key_that_has_changed_is_refused(ssh_server: SshServer) -> None:
    ssh_server.trust("other_key")
    error = start_error(ssh_server.connect())
    assert error.type == "host_key"
    assert "has another host key" in error.message
    assert "StrictHostKeyChecking" not in str(error)


def test_a_server_that_does_not_listen_is_unreachable(ssh_server: SshServer) -> None:
    ssh_server.stop()
    error = start_error(ssh_server.connect())
    assert error.type == "unreachable"
    assert "Connection refused" in error.message


def test_a_name_that_nobody_knows_is_unreachable(ssh_server: SshServer) -> None:
    ssh_server.configure_client("HostName no-such-host.invalid")
    assert start_error(ssh_server.connect()).type == "unreachable"


def test_a_server_that_says_nothing_is_unreachable(ssh_server: SshServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = ("-p", str(silent.getsockname()[1]), "-o", "ConnectTimeout=1")
        connection = ssh_server.connect(options=(*ssh_server.options, *options))
        assert start_error(connection).type == "unreachable"


def test_a_device_that_lets_us_in_and_says_nothing_is_unreachable(ssh_server: SshServer) -> None:
    command(ssh_server, "exec sleep 60")
    error = start_error(ssh_server.connect(start_timeout_s=1.0))
    assert error.type == "unreachable"
    assert "answered nothing for 1 s" in error.message


def test_options_that_ssh_does_not_have_are_the_users_to_mend(ssh_server: SshServer) -> None:
    error = start_error(ssh_server.connect(options=(*ssh_server.options, "-o", "NoSuch=1")))
    assert error.type == "start_failed"
    assert "ssh_options" in error.advice


def test_a_python_that_is_not_there_is_named(ssh_server: SshServer) -> None:
    error = start_error(ssh_server.connect(python="/no/such/python3"))
    assert error.type == "no_python"
    assert "/no/such/python3" in error.message
    assert "python =" in error.advice


@pytest.mark.parametrize("python", [needs("2.7")])
def test_a_python_that_is_too_old_is_named(ssh_server: SshServer, python: str) -> None:
    error = start_error(ssh_server.connect(python=python))
    assert error.type == "old_python"
    assert "has Python 2.7." in error.message
    assert "python =" in error.advice


@pytest.mark.parametrize("python", [needs("3.6")])
def test_the_oldest_python_will_do(ssh_server: SshServer, fake_job: Job, python: str) -> None:
    connection = ssh_server.connect(python=python)
    with connection.start_agent() as agent:
        assert agent.environment.python.startswith("3.6.")
        assert agent.request(pushed_job(connection, fake_job("work")), PATIENCE_S)["wall_ns"]
    connection.close()
    assert not ssh_server.folder.exists()


def test_a_program_that_is_no_python_does_not_start(ssh_server: SshServer) -> None:
    error = start_error(ssh_server.connect(python="/bin/false"))
    assert error.type == "start_failed"
    assert "exit status 1" in error.message
    assert "/bin/false --version" in error.advice


def test_a_disk_without_room_for_the_agent_is_full(small_disk: Path, ssh_server: SshServer) -> None:
    connection = ssh_server.connect(folder=str(small_disk / "root"))
    (small_disk / "ballast").write_bytes(bytes(small_disk_left_bytes(small_disk)))
    error = start_error(connection)
    assert error.type == "disk_full"
    assert "folder =" in error.advice


def test_a_disk_without_room_for_a_file_is_full_and_the_agent_goes_on(
    small_disk: Path, ssh_server: SshServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(4_000_000))
    connection = ssh_server.connect(folder=str(small_disk / "root"))
    with connection.start_agent() as agent:
        with pytest.raises(JobFailedError) as caught:
            connection.push([tmp_path / "file"])
        assert caught.value.type == "disk_full"
        assert not list((small_disk / "root" / "files").iterdir())
        assert agent.request({"do": "hello"}, PATIENCE_S)
    connection.close()
    assert not (small_disk / "root").exists()


@pytest.mark.parametrize("noise", ["echo hello; echo world", "printf 'no line end'"])
def test_what_login_scripts_print_does_not_matter(ssh_server: SshServer, noise: str) -> None:
    command(ssh_server, f'{noise}; eval "$SSH_ORIGINAL_COMMAND"')
    with ssh_server.connect().start_agent() as agent:
        assert agent.alive


@pytest.mark.parametrize("noise", ["yes", "tr '\\0' x </dev/zero"])
def test_login_scripts_that_print_without_end_are_named(ssh_server: SshServer, noise: str) -> None:
    command(ssh_server, noise)
    error = start_error(ssh_server.connect())
    assert error.type == "start_failed", error
    assert "login scripts" in error.message


@pytest.mark.parametrize("shell", ["sh", "bash -l", "bash -i", "csh", "fish"])
def test_a_login_shell_that_starts_another_is_named_and_runs_nothing_that_is_sent(
    ssh_server: SshServer, shell: str
) -> None:
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"no {shell} is installed here")
    command(ssh_server, f"exec {shell}")
    error = start_error(ssh_server.connect())
    assert (error.type, error.exit_status) == ("start_failed", SHELL_STATUS)
    assert "starts another one" in error.message
    assert not ssh_server.folder.exists()


def test_a_login_shell_that_starts_another_first_is_no_obstacle(ssh_server: SshServer) -> None:
    command(ssh_server, 'bash; eval "$SSH_ORIGINAL_COMMAND"')
    with ssh_server.connect().start_agent() as agent:
        assert agent.alive


def test_login_scripts_that_read_the_agent_are_named(ssh_server: SshServer) -> None:
    command(ssh_server, 'dd bs=1 count=9 of=/dev/null; eval "$SSH_ORIGINAL_COMMAND"')
    error = start_error(ssh_server.connect())
    assert error.type == "start_failed"
    assert "login script" in error.advice


def test_an_agent_with_a_file_too_much_is_not_ours(ssh_server: SshServer) -> None:
    connection = ssh_server.connect()
    connection.start_agent().close()
    [agent_folder] = ssh_server.folder.glob("agent-*")
    (agent_folder / "stranger.py").touch()
    error = start_error(connection)
    assert error.type == "protocol_version"
    assert f"remove the folders agent-* from {ssh_server.folder}" in error.advice


def test_a_jump_host_is_the_configurations_own_affair(ssh_server: SshServer, fake_job: Job) -> None:
    connection = ssh_server.connect(ssh_server.far)
    with connection.start_agent() as agent:
        assert agent.request(pushed_job(connection, fake_job("work")), PATIENCE_S)["wall_ns"]
    connection.close()
    assert not ssh_server.folder.exists()


def test_what_a_configuration_has_for_sessions_by_hand_is_not_in_the_way(
    ssh_server: SshServer,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ssh_server.configure_client(
            "RequestTTY force",
            "RemoteCommand false",
            "ExitOnForwardFailure yes",
            f"LocalForward 127.0.0.1:{taken.getsockname()[1]} 127.0.0.1:22",
            "ForwardX11 yes",
        )
        with ssh_server.connect().start_agent() as agent:
            assert agent.alive


def test_no_master_connection_stays_behind(ssh_server: SshServer, control_path: Path) -> None:
    ssh_server.configure_client("ControlMaster auto", f"ControlPath {control_path}")
    connection = ssh_server.connect(
        options=(*ssh_server.options, "-o", "ControlPersist=600"), keep=True
    )
    with connection.start_agent():
        assert not control_path.exists()
    assert not control_path.exists()


def test_a_master_connection_that_the_user_has_is_used(
    ssh_server: SshServer, control_path: Path
) -> None:
    ssh_server.configure_client(f"ControlPath {control_path}")
    by_hand = ["ssh", *ssh_server.options, ssh_server.host]
    with subprocess.Popen([*by_hand, "-M", "-N"]) as master:
        assert wait_until(control_path.exists)
        make_key(ssh_server.home / "user_key")  # nobody else gets in now
        with ssh_server.connect().start_agent() as agent:
            assert agent.alive
        assert master.poll() is None
        master.terminate()


def test_the_agent_listens_nowhere(ssh_server: SshServer) -> None:
    with ssh_server.connect().start_agent():
        [pid] = ssh_server.agents
        links = [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()]
        tables = "".join(Path(f"/proc/{pid}/net/{name}").read_text() for name in NETWORK_TABLES)
        inodes = {line.split()[9] for line in tables.splitlines() if "inode" not in line}
        assert inodes  # the server's own are there, so the tables are read rightly
        assert not [link for link in links if link.removeprefix("socket:[")[:-1] in inodes]


NETWORK_TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=true"])
def test_a_host_that_ssh_would_take_for_an_option_is_refused(host: str) -> None:
    with pytest.raises(InventoryError, match="is no host"):
        SshConnection(host)


def test_a_missing_ssh_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    error = start_error(SshConnection("device"))
    assert error.type == "start_failed"
    assert "OpenSSH" in error.advice


def test_closing_where_the_device_is_gone_is_short_and_no_error(ssh_server: SshServer) -> None:
    connection = ssh_server.connect()
    connection.start_agent().close()
    ssh_server.stop()
    start_s = time.monotonic()
    connection.close()
    assert time.monotonic() - start_s < 10.0
    assert f"{ssh_server.folder} on device could not be deleted" in connection.left_behind
    ssh_server.start()
    connection.close()
    assert connection.left_behind == "" and not ssh_server.folder.exists()


def test_a_folder_that_the_device_cannot_delete_is_named(ssh_server: SshServer) -> None:
    connection = ssh_server.connect()
    connection.start_agent().close()
    # Whatever the agent is asked there, it is this one that answers.
    command(ssh_server, f"printf 'dshrink: ready {ssh_server.folder}\\n{{\"ok\": false}}\\n'")
    connection.close()
    assert str(ssh_server.folder) in connection.left_behind


def test_closing_what_was_never_reached_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    SshConnection("device").close()


def test_a_connection_can_be_sent_to_another_process() -> None:
    connection = SshConnection("pi@kitchen", options=["-p", "23"], folder="/data", keep=True)
    assert pickle.loads(pickle.dumps(connection)) == connection


def test_a_connection_is_called_as_its_device() -> None:
    assert SshConnection("pi@kitchen").name == "pi@kitchen"
    assert SshConnection("pi@kitchen", name="kitchen").name == "kitchen"


def command(server: SshServer, script: str) -> None:
    """Have the server run this script in place of whatever is asked of it."""
    file = server.home / "forced"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    server.stop()
    server.configure(f"ForceCommand {file}")
    server.start()


def small_disk_left_bytes(folder: Path) -> int:
    """What can still be written, but for 32 KiB."""
    return shutil.disk_usage(folder).free - (32 << 10)


@pytest.fixture
def control_path() -> Iterator[Path]:
    """A path short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "master"
