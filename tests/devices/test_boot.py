"""What goes ahead of the agent, run by a shell as ssh would, with agents that are none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pythons import needs

from devices import boot as boot_program
from devices import parcel
from devices.agent import store
from devices.agent.checks import RequestError
from devices.agent.protocol import folder_digest
from devices.errors import InventoryError
from devices.parcel import Parcel, agent_parcel, boot_command

DIGEST = "0123456789abcdef"
SHELLS = ("sh", "bash", "dash", "zsh", "csh", "tcsh", "fish", "busybox")
PATIENCE_S = 30.0
#: An agent that says how it was started, and what is left for it to read.
ECHO = "import os, sys; print(os.getcwd(), *sys.argv[1:], sys.stdin.read(), sep='|')"


def pack(program: str) -> Parcel:
    """A parcel with an agent of one file."""
    return Parcel(digest=DIGEST, archive=parcel._archive({"__main__.py": program.encode()}))


def start(
    *, python: str = sys.executable, shell: str = "sh", cwd: Path, **environment: str
) -> subprocess.Popen[bytes]:
    words = [shell, "sh", "-c"] if shell == "busybox" else [shell, "-c"]
    return subprocess.Popen(
        [*words, boot_command(python)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=cwd,
        env=os.environ | {"HOME": str(cwd)} | environment,
    )


def remove(root: Path) -> bool:
    """Whether the folder is removed, as a run that ends would do it; True where it is gone."""
    try:
        return store.remove(str(root))
    except RequestError:
        return True


def boot(
    tmp_path: Path,
    program: str = ECHO,
    *,
    folder: str | None = "root",
    sent: bytes | None = None,
    more: bytes = b"",
    **start_with: str,
) -> tuple[list[str], int]:
    """Boot to the end; the lines that were printed, and the exit status."""
    preamble = pack(program).preamble("serve", folder) if sent is None else sent
    with start(cwd=tmp_path, **start_with) as process:
        output, _ = process.communicate(preamble + more, PATIENCE_S)
    return [line for line in output.decode().splitlines() if line], process.returncode


def status_of(process: subprocess.Popen[bytes]) -> int:
    """Its exit status, whether it ends by itself or has to be killed for not doing so."""
    try:
        return process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def test_the_agent_is_unpacked_and_finds_its_input_untouched(tmp_path: Path) -> None:
    lines, status = boot(tmp_path, more=b"a request")
    root = tmp_path / "root"
    assert lines == [f"dshrink: ready {root}", f"{tmp_path}|serve|{root}|a request"]
    assert status == 0
    assert (root / f"agent-{DIGEST}" / "__main__.py").read_text() == ECHO
    assert (root / "in-use").exists()
    assert root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("shell", [name for name in SHELLS if shutil.which(name)])
def test_every_login_shell_takes_the_command(tmp_path: Path, shell: str) -> None:
    lines, status = boot(tmp_path, shell=shell)
    assert lines[0].startswith("dshrink: ready ")
    assert status == 0


@pytest.mark.parametrize("python", [needs(f"3.{minor}") for minor in (6, 7, 8, 10, 12, 13, 14)])
def test_every_python_that_is_new_enough_boots(tmp_path: Path, python: str) -> None:
    lines, status = boot(tmp_path, python=python)
    assert lines[0].startswith("dshrink: ready ")
    assert status == 0


@pytest.mark.parametrize("python", [needs("2.7")])
def test_a_python_that_is_too_old_says_so(tmp_path: Path, python: str) -> None:
    lines, status = boot(tmp_path, python=python)
    assert lines[0].startswith("dshrink: old_python 2.7.")
    assert status == 3
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("folder", "environment", "expected"),
    [
        (None, {"XDG_CACHE_HOME": ""}, ".cache/dshrink"),
        (None, {"XDG_CACHE_HOME": "{home}/elsewhere"}, "elsewhere/dshrink"),
        ("~/a/b", {}, "a/b"),
        ("with space", {}, "with space"),
    ],
)
def test_the_folder_is_where_it_is_asked_for(
    tmp_path: Path, folder: str | None, environment: Mapping[str, str], expected: str
) -> None:
    given = {name: value.format(home=tmp_path) for name, value in environment.items()}
    lines, _ = boot(tmp_path, folder=folder, **given)
    assert lines[0] == f"dshrink: ready {tmp_path / expected}"


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("raise SystemExit(7)", 7),
        ("raise SystemExit(255)", 254),
        ("import os; os.kill(os.getpid(), 11)", 128 + signal.SIGSEGV),
    ],
)
def test_the_status_is_the_agents_and_never_that_of_ssh(
    tmp_path: Path, program: str, status: int
) -> None:
    assert boot(tmp_path, program)[1] == status


def link_to_elsewhere(root: Path) -> None:
    (root.parent / "elsewhere").mkdir()
    root.symlink_to(root.parent / "elsewhere")


def folder_of_another_user(root: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    root.mkdir()
    os.chown(root, 12345, 12345)


def folder_open_to_others(root: Path) -> None:
    root.mkdir()
    root.chmod(0o777)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (link_to_elsewhere, "is a link, or no folder"),
        (Path.touch, "is a link, or no folder"),
        (folder_of_another_user, "belongs to another user"),
        (folder_open_to_others, "can be written by other users"),
    ],
)
def test_a_folder_in_which_others_could_change_the_agent_is_refused(
    tmp_path: Path, prepare: Callable[[Path], None], says: str
) -> None:
    root = tmp_path / "root"
    prepare(root)
    lines, status = boot(tmp_path)
    assert lines == [f"dshrink: failed start_failed {root} {says}"]
    assert status == 3


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    lines, _ = boot(tmp_path, folder="/dev/null/root")
    assert lines[0].startswith("dshrink: failed start_failed ")


def test_a_full_disk_is_said_to_be_full_and_nothing_stays(small_disk: Path) -> None:
    lines, _ = boot(small_disk, "#" + os.urandom(2_000_000).hex())
    assert lines[0].startswith("dshrink: failed disk_full ")
    assert not list((small_disk / "root").glob("agent-*"))


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    processes = [start(cwd=tmp_path) for _ in range(6)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(pack(ECHO).preamble("serve", "root"))
        process.stdin.close()
    for process in processes:
        with process:
            assert process.stdout is not None
            assert b"dshrink: ready" in process.stdout.read()
        assert process.returncode == 0
    assert [one.name for one in (tmp_path / "root").glob("agent-*")] == [f"agent-{DIGEST}"]


@pytest.mark.parametrize("mode", ["serve", "receive"])
def test_nobody_removes_the_folder_before_the_agent_holds_it_itself(
    tmp_path: Path, mode: str
) -> None:
    waits = "import sys; print('started', flush=True); sys.stdin.read()"
    root = tmp_path / "root"
    with start(cwd=tmp_path) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(pack(waits).preamble(mode, "root"))
        process.stdin.flush()
        assert b"started\n" in iter(process.stdout.readline, b"")
        assert not store.remove(str(root))
        process.stdin.close()
        assert status_of(process) == 0
    assert store.remove(str(root)) and not root.exists()


def test_an_agent_that_removes_the_folder_has_it_for_itself(tmp_path: Path) -> None:
    with start(cwd=tmp_path) as process:
        output, _ = process.communicate(agent_parcel().preamble("remove", "root"), PATIENCE_S)
    assert json.loads(output.splitlines()[-1]) == {"ok": True, "removed": True}
    assert not (tmp_path / "root").exists()


def test_of_those_who_remove_the_folder_at_once_the_last_does_and_none_fails(
    tmp_path: Path,
) -> None:
    for _ in range(3):
        processes = [start(cwd=tmp_path) for _ in range(4)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(agent_parcel().preamble("remove", "root"))
            process.stdin.close()
        for process in processes:
            with process:
                assert process.stdout is not None
                assert json.loads(process.stdout.read().splitlines()[-1])["ok"]
        assert not (tmp_path / "root").exists()


def test_a_folder_that_is_removed_while_it_is_claimed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removals = [tmp_path.joinpath("root", "in-use").unlink, lambda: remove(tmp_path / "root")]
    real = os.open

    def removed_after_opening(path: Any, *how: int) -> int:
        file = real(path, *how)
        if removals:
            removals.pop()()
        return file

    monkeypatch.setattr(boot_program.os, "open", removed_after_opening)
    root, in_use = boot_program.claim(str(tmp_path / "root"))
    monkeypatch.undo()
    assert not removals and not store.remove(root)
    os.close(in_use)
    assert store.remove(root)


def test_agents_start_while_other_runs_remove_what_they_brought(tmp_path: Path) -> None:
    root, ended = tmp_path / "root", threading.Event()

    def remove_again_and_again() -> None:
        while not ended.is_set():
            remove(root)

    remover = threading.Thread(target=remove_again_and_again)
    remover.start()
    try:
        for _ in range(10):
            with start(cwd=tmp_path) as process:
                preamble = agent_parcel().preamble("serve", "root")
                output, _ = process.communicate(preamble, PATIENCE_S)
            assert output.strip() == f"dshrink: ready {root}".encode()
            assert process.returncode == 0
    finally:
        ended.set()
        remover.join(PATIENCE_S)


def test_the_agent_learns_which_file_the_device_has_to_lock(tmp_path: Path) -> None:
    program = "import os; print(os.environ['DSHRINK_DEVICE_LOCK'])"
    for lock, expected in ((None, "usual"), ("/run/lock/ours", "/run/lock/ours")):
        sent = pack(program).preamble("serve", "root", lock)
        assert boot(tmp_path, sent=sent, DSHRINK_DEVICE_LOCK="usual")[0][-1] == expected


@pytest.mark.parametrize("damage", ["", "raise SystemExit(1)", None])
def test_an_agent_that_was_damaged_on_the_device_is_replaced(
    tmp_path: Path, damage: str | None
) -> None:
    boot(tmp_path)
    file = tmp_path / "root" / f"agent-{DIGEST}" / "__main__.py"
    file.unlink() if damage is None else file.write_text(damage)
    assert boot(tmp_path)[1] == 0
    assert file.read_text() == ECHO
    assert [one.name for one in (tmp_path / "root").glob("agent-*")] == [f"agent-{DIGEST}"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"not what the host sends\n",
        pack(ECHO).preamble("serve", "root")[:-10],
        pack(ECHO).preamble("serve", "root")[:-10] + b"0123456789",
        b"x" * 100_000,
    ],
)
def test_an_agent_that_does_not_arrive_whole_is_not_started(tmp_path: Path, sent: bytes) -> None:
    lines, status = boot(tmp_path, sent=sent)
    assert lines == ["dshrink: failed damaged the agent did not arrive whole"]
    assert status == 3
    assert not (tmp_path / "root").exists()


def test_a_module_in_the_users_home_hides_none_of_pythons(tmp_path: Path) -> None:
    for name in ("base64", "json", "zipfile"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')")
    assert boot(tmp_path)[1] == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="poll says less elsewhere")
@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_an_agent_whose_host_has_gone_is_ended_in_mid_job(tmp_path: Path, stream: str) -> None:
    hangs = "import time; print('started', flush=True); time.sleep(600)"
    with start(cwd=tmp_path) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(pack(hangs).preamble("serve", "root"))
        process.stdin.flush()
        while process.stdout.readline() != b"started\n":
            assert process.poll() is None
        getattr(process, stream).close()
        assert status_of(process) == 128 + signal.SIGKILL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="poll says less elsewhere")
def test_an_agent_behind_a_socket_is_ended_too(tmp_path: Path) -> None:
    # Some builds of sshd give a command pipes, others a pair of sockets.
    here, there = socket.socketpair()
    command = ["sh", "-c", boot_command(sys.executable)]
    with here, subprocess.Popen(command, stdin=there, stdout=there, cwd=tmp_path) as process:
        there.close()
        hangs = "import time; print('started', flush=True); time.sleep(600)"
        here.sendall(pack(hangs).preamble("serve", "root"))
        with here.makefile("rb") as output:
            assert b"started\n" in iter(output.readline, b"")
        here.shutdown(socket.SHUT_WR)
        assert status_of(process) == 128 + signal.SIGKILL


def test_the_archive_depends_on_the_files_alone_and_holds_what_its_digest_says(
    tmp_path: Path,
) -> None:
    first = agent_parcel()
    agent_parcel.cache_clear()
    assert agent_parcel() == first
    with zipfile.ZipFile(BytesIO(first.archive)) as archive:
        archive.extractall(tmp_path)
    assert folder_digest(str(tmp_path)) == first.digest


@pytest.mark.parametrize(
    "python", ["", "-c", "python3 -c", "a;b", "$(a)", "a`b`", 'a"b', "a'b", "a\nb", "a\\b", "a!b"]
)
def test_a_python_that_a_shell_would_not_take_as_one_word_is_refused(python: str) -> None:
    with pytest.raises(InventoryError, match="plain path"):
        boot_command(python)


def test_a_user_without_a_home_gets_no_folder_of_the_name_of_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(boot_program.RefusedError, match="has no home folder"):
        boot_program.own_folder(None)
    assert not list(tmp_path.iterdir())
