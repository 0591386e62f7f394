"""One job at a time on a device, and jobs that the kernel ends: with real agents."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ssh_server import wait_until

from devices.agent import alarm, lock, service
from devices.agent.checks import RequestError
from devices.agent_process import AgentProcess
from devices.connection import AGENT_FOLDER
from devices.errors import AgentLostError, JobFailedError

Job = Callable[..., dict[str, Any]]
PATIENCE_S = 60.0
NOBODY = 65534


def altered_agent(change: str, before: str = "") -> AgentProcess:
    """An agent whose module constants were changed before it started."""
    script = (
        f"import signal, sys\n{before}\nsys.path.insert(0, {str(AGENT_FOLDER.parents[1])!r})\n"
        f"from devices.agent import alarm, lock, service\n{change}\nsys.exit(service.main())"
    )
    return AgentProcess([sys.executable, "-c", script])


def short_of_patience(seconds: float) -> str:
    """A change after which the host may be silent only so long, once it was greeted.

    Not before: a machine at work may well need longer to start an agent and be answered.
    """
    return (
        "def greet(line, jobs, answer=service._answer):\n"
        "    reply = answer(line, jobs)\n"
        f"    alarm.IDLE_S = {seconds}\n"
        "    return reply\n"
        "service._answer = greet"
    )


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock just now."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def warming_up(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The same job, but it takes at least so long."""
    return job | {"rule": job["rule"] | {"warmup_s": seconds, "warmup_cap_s": seconds}}


@contextmanager
def measuring(agent: AgentProcess, job: dict[str, Any], path: Path) -> Iterator[threading.Thread]:
    """The agent is in the middle of the job within."""

    def ask() -> None:
        with pytest.raises(AgentLostError, match="SIGKILL"):
            agent.request(job, PATIENCE_S)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert wait_until(lambda: not is_free(path), PATIENCE_S)
        yield asking
    finally:
        with suppress(ProcessLookupError):
            os.kill(agent._process.process.pid, signal.SIGKILL)
        asking.join(PATIENCE_S)


def test_a_job_has_waited_for_nobody_where_nobody_measures(
    agent: AgentProcess, fake_job: Job, device_lock: Path
) -> None:
    assert 0 <= agent.request(fake_job("work"), PATIENCE_S)["waited_s"] < 5
    assert is_free(device_lock)


def test_while_another_agent_measures_the_device_is_busy(
    new_agent: AgentProcess, fake_job: Job, device_lock: Path
) -> None:
    with altered_agent("lock.LOCK_PATIENCE_S = 0.2") as second:
        with measuring(new_agent, fake_job("hang"), device_lock):
            with pytest.raises(JobFailedError, match="another run") as caught:
                second.request(fake_job("work"), PATIENCE_S)
            assert caught.value.type == "device_busy"
            # Only measuring takes the device.
            assert second.request({"do": "hello"}, PATIENCE_S)
        assert second.request(fake_job("work"), PATIENCE_S)["wall_ns"]


def test_who_waits_gets_the_device_when_its_holder_is_killed(
    new_agent: AgentProcess, fake_job: Job, device_lock: Path
) -> None:
    results: list[dict[str, Any]] = []
    with altered_agent("") as second:
        with measuring(new_agent, fake_job("hang"), device_lock) as first:
            job = fake_job("work")
            ask = threading.Thread(target=lambda: results.append(second.request(job, PATIENCE_S)))
            ask.start()
            ask.join(0.5)
            assert ask.is_alive()
            os.kill(new_agent._process.process.pid, signal.SIGKILL)
            first.join(PATIENCE_S)
        ask.join(PATIENCE_S)
    assert results and results[0]["wall_ns"] and results[0]["waited_s"] > 0.01


def test_a_refused_request_neither_waits_nor_takes_the_device(
    new_agent: AgentProcess, fake_job: Job, device_lock: Path, agent: AgentProcess
) -> None:
    with measuring(new_agent, fake_job("hang"), device_lock):
        with pytest.raises(JobFailedError) as caught:
            agent.request(fake_job("work", options={"warp": 9}), 5)
        assert caught.value.type == "bad_request"


def test_every_user_can_open_the_lock_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    before = os.umask(0o077)
    try:
        with lock.device_lock(str(path)):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_waits_for_the_same_lock(tmp_path: Path) -> None:
    shared = Path("/tmp") / f"dshrink-test-{os.getpid()}"
    shared.mkdir()
    shared.chmod(0o1777)
    path = shared / "lock"
    script = (
        f"import os, sys; sys.path.insert(0, {str(AGENT_FOLDER.parents[1])!r})\n"
        "from devices.agent import lock\n"
        "from devices.agent.checks import RequestError\n"
        f"os.setuid({NOBODY})\n"
        "try:\n"
        f"    with lock.device_lock({str(path)!r}, patience_s=0.1): print('ours')\n"
        "except RequestError as error: print(error.kind)\n"
    )

    def other_user() -> str:
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True
        ).stdout.strip()

    try:
        with lock.device_lock(str(path)):
            assert other_user() == "device_busy"
        assert other_user() == "ours"
        path.unlink()
        assert other_user() == "ours"
        assert path.stat().st_uid == NOBODY
        with lock.device_lock(str(path)):
            assert other_user() == "device_busy"
    finally:
        path.unlink(missing_ok=True)
        shared.rmdir()


@pytest.mark.parametrize("kind", ["link", "no folder"])
def test_a_lock_that_cannot_be_opened_is_an_error_with_advice(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock" if kind == "link" else tmp_path / "gone" / "lock"
    if kind == "link":
        (tmp_path / "elsewhere").touch()
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match=str(path)) as caught, lock.device_lock(str(path)):
        pass
    assert caught.value.kind == "not_permitted"
    assert lock.PATH_VARIABLE in caught.value.advice


def test_a_pipe_in_the_lock_s_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with lock.device_lock(str(tmp_path / "lock"), patience_s=0.1) as waited_s:
        assert waited_s < 5


def test_the_lock_is_in_the_folder_for_temporary_files_unless_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert lock.default_path() == os.environ[lock.PATH_VARIABLE]
    monkeypatch.delenv(lock.PATH_VARIABLE)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert lock.default_path() == str(tmp_path / lock.FILE_NAME)


def test_the_lock_does_not_move_when_its_folder_is_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(lock.PATH_VARIABLE)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    # What Python answers where it cannot write to /tmp.
    monkeypatch.setattr(lock.tempfile, "gettempdir", lambda: str(tmp_path))
    assert lock.default_path() == f"/tmp/{lock.FILE_NAME}"


def test_a_lock_for_which_there_is_no_room_is_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock, "_create", full)
    with (
        pytest.raises(RequestError, match="No space left") as caught,
        lock.device_lock(str(tmp_path / "lock")),
    ):
        pass
    assert caught.value.kind == "disk_full"
    assert "make room" in caught.value.advice


def test_outside_the_main_thread_a_taken_lock_is_busy_at_once(tmp_path: Path) -> None:
    kinds: list[str] = []

    def take() -> None:
        try:
            with lock.device_lock(str(tmp_path / "lock")):
                kinds.append("ours")
        except RequestError as error:
            kinds.append(error.kind)

    for held in (True, False):
        if held:
            with lock.device_lock(str(tmp_path / "lock")):
                thread = threading.Thread(target=take)
                thread.start()
                thread.join(PATIENCE_S)
        else:
            thread = threading.Thread(target=take)
            thread.start()
            thread.join(PATIENCE_S)
    assert kinds == ["device_busy", "ours"]


def test_a_job_that_hangs_is_ended_by_the_kernel_though_the_host_waits_on(
    new_agent: AgentProcess, fake_job: Job, device_lock: Path
) -> None:
    said = r"the device ended measure .*hang\.json after its time limit of 1 s"
    with pytest.raises(AgentLostError, match=said) as caught:
        new_agent.request(fake_job("hang") | {"timeout_s": 1}, PATIENCE_S)
    assert caught.value.type == "timeout"
    assert caught.value.exit_status == -signal.SIGALRM
    assert is_free(device_lock)


def test_an_alarm_that_was_inherited_ignored_and_blocked_ends_the_job_all_the_same(
    fake_job: Job,
) -> None:
    before = (
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])"
    )
    with (
        altered_agent("", before) as agent,
        pytest.raises(AgentLostError, match="time limit"),
    ):
        agent.request(fake_job("hang") | {"timeout_s": 1}, PATIENCE_S)


def test_the_limit_of_a_job_ends_with_the_job(agent: AgentProcess, fake_job: Job) -> None:
    assert agent.request(fake_job("work") | {"timeout_s": 1}, PATIENCE_S)["wall_ns"]
    long = agent.request(warming_up(fake_job("work"), 1.2), PATIENCE_S)
    assert long["warmup_s"] >= 1.2


def test_an_agent_that_is_asked_nothing_ends() -> None:
    with altered_agent(short_of_patience(0.3)) as agent:
        assert agent._process.process.wait(PATIENCE_S) == -signal.SIGALRM


def test_an_agent_that_was_asked_too_late_crashed_and_its_next_job_took_no_time(
    fake_job: Job,
) -> None:
    with altered_agent(short_of_patience(0.3)) as agent:
        agent._process.process.wait(PATIENCE_S)
        with pytest.raises(AgentLostError, match="SIGALRM") as caught:
            agent.request(fake_job("work") | {"timeout_s": 1}, PATIENCE_S)
    assert caught.value.type == "agent_crashed"


def test_who_holds_clocks_is_not_waited_for_as_long() -> None:
    holds_nothing = "from devices.agent import power; power.hold = lambda: power.Held([])"
    change = f"{holds_nothing}; service.HOLDING_IDLE_S = 0.3"
    with altered_agent(change) as agent:
        agent.request({"do": "hold"}, PATIENCE_S)
        assert agent._process.process.wait(PATIENCE_S) == -signal.SIGALRM
    assert service.HOLDING_IDLE_S < alarm.IDLE_S


def test_a_job_may_take_longer_than_a_host_may_be_silent(fake_job: Job) -> None:
    with altered_agent(short_of_patience(1.0)) as agent:
        assert agent.request(warming_up(fake_job("work"), 1.3), PATIENCE_S)["wall_ns"]


def test_an_interrupted_call_leaves_no_alarm_behind() -> None:
    blocked, other_end = os.pipe()
    try:
        assert not alarm.returns_within(0.05, lambda: os.read(blocked, 1))
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert alarm.returns_within(PATIENCE_S, lambda: None)
        with pytest.raises(ZeroDivisionError):
            alarm.returns_within(PATIENCE_S, lambda: 1 / 0)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        os.close(blocked)
        os.close(other_end)


def test_nothing_is_limited_outside_the_main_thread() -> None:
    thread = threading.Thread(target=lambda: alarm.end_process_after(0.001))
    thread.start()
    thread.join(PATIENCE_S)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_loop_in_this_process_leaves_no_alarm_behind(tmp_path: Path) -> None:
    with (tmp_path / "in").open("w+b") as requests, (tmp_path / "out").open("w+b") as replies:
        service.serve(requests, replies)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
