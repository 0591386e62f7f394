"""Real agents in real processes, and everything that ends them."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devices import agent_process, line_process
from devices.agent import protocol
from devices.agent_process import AgentProcess
from devices.connection import AGENT_FOLDER, LocalConnection
from devices.errors import AgentLostError, JobFailedError

Job = Callable[..., dict[str, Any]]
PATIENCE_S = 60.0


def stand_in(tmp_path: Path, body: str) -> list[str]:
    """The command of an agent that is none: it says hello properly, then does ``body``."""
    hello = (
        "import json, os, sys, time\n"
        f"sys.path.insert(0, {str(AGENT_FOLDER.parents[1])!r})\n"
        "from devices.agent import system\n"
        "from devices.agent.protocol import PROTOCOL\n"
        "def answer(**reply):\n"
        "    print(json.dumps({'protocol': PROTOCOL, **reply}), flush=True)\n"
        "def ask():\n"
        "    return json.loads(sys.stdin.readline())['id']\n"
        "answer(id=ask(), ok=True, result={'environment': system.describe()})\n"
    )
    script = tmp_path / "stand_in.py"
    script.write_text(hello + textwrap.dedent(body))
    return [sys.executable, str(script)]


def ends(pid: int) -> bool:
    """Whether the process ends, if it has not already."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watch], [], [], PATIENCE_S)[0])
    finally:
        os.close(watch)


def test_an_agent_says_hello_and_measures(agent: AgentProcess, fake_job: Job) -> None:
    assert agent.environment.protocol == protocol.PROTOCOL
    result = agent.request(fake_job("work"), PATIENCE_S)
    assert len(result["wall_ns"]) >= 3
    assert agent.alive


@pytest.mark.parametrize("at", ["prepare", "run"])
def test_an_agent_killed_in_mid_job_is_a_typed_failure(
    new_agent: AgentProcess, fake_job: Job, at: str
) -> None:
    with pytest.raises(AgentLostError, match="SIGKILL") as caught:
        new_agent.request(fake_job("crash", at=at), PATIENCE_S)
    assert caught.value.type == "agent_crashed"
    assert caught.value.exit_status == -signal.SIGKILL
    assert "memory" in caught.value.advice
    assert not new_agent.alive


def test_a_fault_in_native_code_names_its_signal(new_agent: AgentProcess, fake_job: Job) -> None:
    with pytest.raises(AgentLostError, match="SIGSEGV"):
        new_agent.request(fake_job("crash", signal=int(signal.SIGSEGV)), PATIENCE_S)


def test_a_library_that_exits_is_a_crash_with_its_status_and_last_words(
    new_agent: AgentProcess, fake_job: Job
) -> None:
    with pytest.raises(AgentLostError, match=r"exit status 7.*the fake runtime leaves") as caught:
        new_agent.request(fake_job("leave", status=7), PATIENCE_S)
    assert caught.value.exit_status == 7


def test_a_lost_agent_cannot_be_asked_again(new_agent: AgentProcess, fake_job: Job) -> None:
    for expected in ("SIGKILL", "was ended before"):
        with pytest.raises(AgentLostError, match=expected):
            new_agent.request(fake_job("crash"), PATIENCE_S)


def test_an_agent_that_died_between_jobs_is_a_crash_of_the_next(
    new_agent: AgentProcess, fake_job: Job
) -> None:
    os.kill(new_agent._process.process.pid, signal.SIGTERM)
    new_agent._process.process.wait()
    with pytest.raises(AgentLostError, match="SIGTERM"):
        new_agent.request(fake_job("work"), PATIENCE_S)


def test_a_job_that_hangs_is_ended_at_its_timeout(new_agent: AgentProcess, fake_job: Job) -> None:
    with pytest.raises(AgentLostError, match=r"no reply within 0\.2 s.*hang\.json") as caught:
        new_agent.request(fake_job("hang"), 0.2)
    assert caught.value.type == "timeout"
    assert ends(new_agent._process.process.pid)


def test_at_a_timeout_what_the_agent_started_is_killed_too(tmp_path: Path) -> None:
    body = """
        import subprocess
        child = subprocess.Popen(["sleep", "600"])
        answer(id=ask(), ok=True, result={"child": child.pid})
        child.wait()
    """
    with AgentProcess(stand_in(tmp_path, body)) as process:
        child = process.request({"do": "measure"}, PATIENCE_S)["child"]
        with pytest.raises(AgentLostError, match="no reply"):
            process.request({"do": "measure"}, 0.2)
    assert ends(child)


def test_an_error_of_a_job_leaves_the_agent_alive(agent: AgentProcess, fake_job: Job) -> None:
    with pytest.raises(JobFailedError, match="the fake runtime fails") as caught:
        agent.request(fake_job("fail"), PATIENCE_S)
    assert caught.value.type == "runtime_error"
    assert agent.request(fake_job("work"), PATIENCE_S)["wall_ns"]


def test_what_libraries_print_does_not_reach_the_replies(
    agent: AgentProcess, fake_job: Job
) -> None:
    assert agent.request(fake_job("chatter"), PATIENCE_S)["wall_ns"]
    assert agent.request({"do": "hello"}, PATIENCE_S)["environment"]


def test_memory_beyond_the_limit_is_an_error_of_that_job_alone(
    agent: AgentProcess, fake_job: Job
) -> None:
    limit = {"memory_limit_mib": 2048}
    with pytest.raises(JobFailedError) as caught:
        agent.request(fake_job("allocate", mib=4096, options=limit), PATIENCE_S)
    assert caught.value.type == "out_of_memory"
    assert agent.request(fake_job("allocate", mib=16, options=limit), PATIENCE_S)["wall_ns"]
    # The limit was that of its job: 3 GiB of address space, never touched, can be had again.
    assert agent.request(fake_job("reserve", mib=3072), PATIENCE_S)["wall_ns"]


@pytest.mark.parametrize("size", [protocol.MAX_LINE_BYTES, 5_000_000])
def test_an_over_long_request_is_refused_and_does_not_block(agent: AgentProcess, size: int) -> None:
    with pytest.raises(JobFailedError, match="longer than"):
        agent.request({"do": "hello", "ballast": "x" * size}, PATIENCE_S)
    assert agent.request({"do": "hello"}, PATIENCE_S)


def test_closing_ends_the_agent_at_the_end_of_its_input(tmp_path: Path) -> None:
    process = LocalConnection().start_agent()
    process.close()
    assert process._process.process.returncode == 0
    process.close()


def test_quit_ends_the_agent(new_agent: AgentProcess) -> None:
    assert new_agent.request({"do": "quit"}, PATIENCE_S) == {}
    assert new_agent._process.process.wait(PATIENCE_S) == 0


def test_the_agent_has_a_process_group_of_its_own(agent: AgentProcess) -> None:
    assert os.getpgid(agent._process.process.pid) == agent._process.process.pid != os.getpgrp()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's own")
def test_a_killed_host_leaves_no_agent_in_mid_job(fake_job: Job, tmp_path: Path) -> None:
    script = tmp_path / "host.py"
    script.write_text(
        "import sys\n"
        "from devices.connection import LocalConnection\n"
        "agent = LocalConnection().start_agent()\n"
        "print(agent._process.process.pid, flush=True)\n"
        f"agent.request({fake_job('hang')!r}, 600.0)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(AGENT_FOLDER.parents[1])}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env=environment
    ) as host:
        assert host.stdout is not None
        agent_pid = int(host.stdout.readline())
        host.kill()
        assert ends(agent_pid)


@pytest.mark.parametrize(
    "body",
    [
        "ask(); print('Segmentation what?', flush=True); time.sleep(600)",
        "answer(id='99', ok=True, result={}); time.sleep(600)",
        "answer(id=ask(), ok=True); time.sleep(600)",
        "answer(id=ask(), ok=True, result=[]); time.sleep(600)",
        "answer(id=ask(), ok=False, error={'type': 'bad_luck', 'message': '', 'advice': ''})",
        "answer(id=ask(), ok=False, error=[])",
        "answer(id=ask(), ok=2, result={})",
    ],
)
def test_a_reply_that_is_none_ends_the_agent(tmp_path: Path, body: str) -> None:
    with AgentProcess(stand_in(tmp_path, body)) as process:
        with pytest.raises(AgentLostError, match="what is no reply"):
            process.request({"do": "hello"}, PATIENCE_S)
        assert not process.alive


def test_an_agent_that_fills_its_standard_error_is_not_blocked(tmp_path: Path) -> None:
    body = "sys.stderr.write('x' * 1_000_000); answer(id=ask(), ok=True, result={'a': 1}); ask()"
    with AgentProcess(stand_in(tmp_path, body)) as process:
        assert process.request({"do": "hello"}, PATIENCE_S) == {"a": 1}


def test_a_reply_without_end_ends_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "ask()\nwhile True: sys.stdout.write('x' * 1000)"
    with AgentProcess(stand_in(tmp_path, body)) as process:
        monkeypatch.setattr(agent_process, "MAX_REPORT_BYTES", 100_000)
        with pytest.raises(AgentLostError, match="more than 100000 bytes"):
            process.request({"do": "hello"}, PATIENCE_S)


def test_an_interrupted_request_ends_the_agent_so_that_no_late_reply_is_mistaken(
    new_agent: AgentProcess, fake_job: Job
) -> None:
    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            new_agent.request(fake_job("hang"), PATIENCE_S)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not new_agent.alive


def test_a_python_that_is_not_there_does_not_start() -> None:
    with pytest.raises(AgentLostError, match="/no/such/python") as caught:
        LocalConnection(python="/no/such/python").start_agent()
    assert caught.value.type == "start_failed"


def test_a_program_that_is_no_python_does_not_start() -> None:
    with pytest.raises(AgentLostError, match="exit status 1") as caught:
        LocalConnection(python="false").start_agent()
    assert caught.value.type == "start_failed"


def test_an_agent_that_never_says_hello_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(AgentLostError, match="no reply within") as caught:
        AgentProcess(["sleep", "600"], timeout_s=0.2)
    assert caught.value.type == "start_failed"


@pytest.mark.parametrize("spoken", [0, protocol.PROTOCOL + 1])
def test_an_agent_of_another_protocol_does_not_start(tmp_path: Path, spoken: int) -> None:
    script = tmp_path / "old.py"
    error = {"type": "protocol_version", "message": "speaks another", "advice": "update"}
    reply = {"protocol": spoken, "id": "1", "ok": False, "error": error}
    script.write_text(f"import json; input(); print(json.dumps({reply!r}))")
    with pytest.raises(AgentLostError, match=f"speaks protocol {spoken}, this host") as caught:
        AgentProcess([sys.executable, str(script)])
    assert caught.value.type == "protocol_version"
    assert "same version" in caught.value.advice


HOLDING = """
    answer(id=ask(), ok=True, result={
        "environment": {**system.describe(), "governor": "performance"}, "held": ["governor"]
    })
    ask()
"""


def test_an_agent_that_is_to_hold_the_clocks_says_what_it_holds(tmp_path: Path) -> None:
    with AgentProcess(stand_in(tmp_path, HOLDING), hold=True) as process:
        assert process.held == ("governor",)
        assert process.environment.governor == "performance"


def test_an_agent_that_is_not_asked_to_holds_nothing(tmp_path: Path) -> None:
    with AgentProcess(stand_in(tmp_path, HOLDING)) as process:
        assert process.held == ()


def test_holding_the_clocks_has_a_limit_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agent_process.HOLD_TIMEOUT_S > 2 * agent_process.START_TIMEOUT_S
    monkeypatch.setattr(agent_process, "HOLD_TIMEOUT_S", 0.3)
    with pytest.raises(AgentLostError, match=r"no reply within 0\.3 s to hold"):
        AgentProcess(stand_in(tmp_path, "ask(); time.sleep(600)"), timeout_s=5.0, hold=True)


def test_a_local_agent_locks_the_file_that_is_named(tmp_path: Path, fake_job: Job) -> None:
    with LocalConnection(lock=str(tmp_path / "lock")).start_agent() as agent:
        assert agent.request(fake_job("work"), PATIENCE_S)["wall_ns"]
    assert (tmp_path / "lock").exists()


def test_an_agent_that_may_not_hold_the_clocks_does_not_start(tmp_path: Path) -> None:
    body = """
        error = {"type": "not_permitted", "message": "only root may", "advice": "use sudo"}
        answer(id=ask(), ok=False, error=error)
        ask()
    """
    with pytest.raises(JobFailedError, match="only root may") as caught:
        AgentProcess(stand_in(tmp_path, body), hold=True)
    assert caught.value.type == "not_permitted"


def test_an_agent_that_closes_its_output_and_lives_on_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_process, "EXIT_PATIENCE_S", 0.2)
    body = "ask(); os.close(1); time.sleep(600)"
    with AgentProcess(stand_in(tmp_path, body)) as process:
        with pytest.raises(AgentLostError, match="without a status") as caught:
            process.request({"do": "hello"}, PATIENCE_S)
        assert caught.value.exit_status is None
        assert ends(process._process.process.pid)


def test_an_answer_counts_though_its_process_ended_its_output_before_it_took_everything() -> None:
    # As a push to a full disk: the agent answers in the middle of the file, and ends.
    body = "import os, time; os.write(1, b'no room\\n'); os.close(1); time.sleep(600)"
    process = line_process.LineProcess([sys.executable, "-c", body])
    try:
        assert process.exchange([bytes(1 << 20)] * 4, PATIENCE_S, 100) == b"no room"
        with pytest.raises(EOFError):
            process.exchange([], PATIENCE_S, 100)
    finally:
        process.kill()


def test_here_files_stay_where_they_are(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    connection = LocalConnection()
    pushed = connection.push([tmp_path / "b", tmp_path / "a"])
    assert [one.path for one in pushed] == [str(tmp_path / "b"), str(tmp_path / "a")]
    assert pushed[1].sha256 == protocol.file_digest(str(tmp_path / "a"))
    connection.close()
    assert (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "error",
    [
        JobFailedError("bad_model", "what", "how"),
        AgentLostError("agent_crashed", "what", "how", exit_status=-9),
    ],
)
def test_errors_survive_the_way_between_processes(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error) and str(copy) == str(error)
