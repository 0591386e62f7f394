"""A runtime that takes its process with it costs one job: the agent, and what it holds, live on."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.agent import runtimes, service, worker
from devices.agent.checks import RequestError
from devices.agent.cuda.errors import GpuError
from devices.agent.protocol import PROTOCOL, file_digest, parse_request
from devices.agent.runtimes.fake.runtime import IsolatedFake
from devices.agent.service import Jobs
from devices.agent_process import AgentProcess

QUICK = {"warmup_s": 0.01, "warmup_cap_s": 0.01, "min_samples": 3, "min_total_s": 0.001, "cap_s": 1}


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()


def request(tmp_path: Path, script: dict[str, Any], **fields: Any) -> Any:
    """The checked request to measure a script in a process of its own."""
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
    file.write_text(json.dumps(script))
    message = {
        "protocol": PROTOCOL,
        "id": "a",
        "do": "measure",
        "runtime": "isolated_fake",
        "file": str(file),
        "sha256": file_digest(str(file)),
        "rule": QUICK,
        **fields,
    }
    return parse_request(message)


def failure(jobs: Jobs, asked: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        jobs.do(asked)
    return caught.value


def test_the_work_is_done_in_another_process_which_stays_for_the_next_job(
    jobs: Jobs, tmp_path: Path
) -> None:
    first = jobs.do(request(tmp_path, {"behaviour": "work"}))
    second = jobs.do(request(tmp_path, {"behaviour": "work"}))
    assert first["built"]["pid"] == second["built"]["pid"] != os.getpid()
    assert len(first["wall_ns"]) >= 3 and first["waited_s"] >= 0
    assert first["device_ns"] is None


@pytest.mark.parametrize("at", ["prepare", "run"])
@pytest.mark.parametrize(
    ("script", "how"),
    [
        ({"behaviour": "crash", "signal": int(signal.SIGSEGV)}, "by signal 11 (SIGSEGV)"),
        ({"behaviour": "crash"}, "by signal 9 (SIGKILL)"),
        ({"behaviour": "leave", "status": 3}, "with exit status 3"),
    ],
)
def test_its_death_is_the_error_of_one_job_and_the_next_one_has_a_new_process(
    jobs: Jobs, tmp_path: Path, script: dict[str, Any], how: str, at: str
) -> None:
    before = jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"]
    asked = request(tmp_path, {**script, "at": at})
    error = failure(jobs, asked)
    assert error.kind == "worker_crashed"
    assert how in error.message and asked.measure.file in error.message
    if script["behaviour"] == "leave":
        assert error.message.endswith("its last words: the fake runtime leaves")
    after = jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"]
    assert after != before


def test_what_hangs_is_ended_by_its_own_time_limit(jobs: Jobs, tmp_path: Path) -> None:
    error = failure(jobs, request(tmp_path, {"behaviour": "hang"}, timeout_s=1))
    assert error.kind == "timeout"
    assert jobs.do(request(tmp_path, {"behaviour": "work"}))["wall_ns"]


def test_an_error_of_the_job_comes_through_as_it_is(jobs: Jobs, tmp_path: Path) -> None:
    pid = jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"]
    assert failure(jobs, request(tmp_path, {"behaviour": "fail"})).kind == "runtime_error"
    assert failure(jobs, request(tmp_path, {"behaviour": "unheard of"})).kind == "bad_model"
    unknown = request(tmp_path, {"behaviour": "work"}, options={"speed": 9})
    assert failure(jobs, unknown).kind == "bad_request"
    asked = request(tmp_path, {"behaviour": "work"})
    Path(asked.measure.file).unlink()
    assert failure(jobs, asked).kind == "missing_file"
    assert jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"] == pid


def test_a_process_whose_gpu_is_lost_to_it_answers_and_makes_room_for_another(
    jobs: Jobs, tmp_path: Path
) -> None:
    pid = jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"]
    error = failure(jobs, request(tmp_path, {"behaviour": "spend"}))
    assert error.kind == "runtime_error" and "illegal memory access" in error.message
    assert jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"] != pid


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> IsolatedFake:
    """The isolated runtime as a worker has it, in this process."""
    made = IsolatedFake()
    monkeypatch.setitem(runtimes._loaded, "isolated_fake", made)
    return made


def ends_process(asked: Any) -> bool:
    with pytest.raises(RequestError) as caught:
        service.work("measure", asked.measure)
    return caught.value.ends_process


def test_the_runtime_is_asked_after_errors_of_every_kind(
    ours: IsolatedFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unexpected = request(tmp_path, {"behaviour": "fail"})
    expected = request(tmp_path, {"behaviour": "unheard of"})
    assert not ends_process(unexpected) and not ends_process(expected)
    monkeypatch.setattr(ours, "is_broken", lambda: True)
    assert ends_process(unexpected) and ends_process(expected)


def test_a_runtime_that_cannot_be_asked_counts_as_broken(
    ours: IsolatedFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "is_broken", lambda: 1 / 0)
    assert ends_process(request(tmp_path, {"behaviour": "fail"}))


@pytest.mark.parametrize(("code", "is_lost"), [(700, True), (2, False)])
def test_an_error_of_cuda_that_stays_ends_the_process_though_it_has_another_name(
    ours: IsolatedFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_lost: bool
) -> None:
    def prepare(*given: Any) -> Any:
        try:
            raise GpuError("launch", code, "CUDA_ERROR")
        except GpuError as error:
            raise RequestError("bad_model", "it cannot be run", "") from error

    monkeypatch.setattr(ours, "prepare", prepare)
    assert ends_process(request(tmp_path, {"behaviour": "work"})) is is_lost


def test_what_it_says_reaches_our_standard_error_once_and_as_it_happens(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chatter = '{"protocol": 1, "id": "not a reply"}'
    jobs.do(request(tmp_path, {"behaviour": "chatter"}))
    assert chatter in capsys.readouterr().err
    jobs.do(request(tmp_path, {"behaviour": "work"}))
    assert capsys.readouterr().err == ""
    failure(jobs, request(tmp_path, {"behaviour": "leave"}))
    assert capsys.readouterr().err == "the fake runtime leaves\n"


def test_last_words_are_those_of_the_request_that_was_the_last(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.do(request(tmp_path, {"behaviour": "chatter"}))
    os.write(worker._workers["isolated_fake"]._said.fileno(), b"said while idle\n")
    error = failure(jobs, request(tmp_path, {"behaviour": "crash"}))
    assert "last words" not in error.message
    assert capsys.readouterr().err.endswith("said while idle\n")


def test_what_it_says_when_it_ends_is_passed_on_too(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.do(request(tmp_path, {"behaviour": "work"}))
    os.write(worker._workers["isolated_fake"]._said.fileno(), b"good-bye\n")
    worker.close_all()
    assert capsys.readouterr().err == "good-bye\n"


def test_chatter_on_standard_output_breaks_no_reply(jobs: Jobs, tmp_path: Path) -> None:
    assert jobs.do(request(tmp_path, {"behaviour": "chatter"}))["wall_ns"]


def test_a_profile_by_layer_has_names_and_the_times_of_each_run(jobs: Jobs, tmp_path: Path) -> None:
    result = jobs.do(request(tmp_path, {"behaviour": "work"}, do="profile", passes=4))
    assert result["layers"] == [["t1/Conv", [1000] * 4], ["result/Relu", [500] * 4]]
    assert "wall_ns" not in result


def test_state_is_what_this_process_has_learned(jobs: Jobs, tmp_path: Path) -> None:
    ask = parse_request(
        {"protocol": PROTOCOL, "id": "a", "do": "state", "runtime": "isolated_fake"}
    )
    assert jobs.do(ask) == {"state": None}
    jobs.do(request(tmp_path, {"behaviour": "work"}))
    assert base64.b64decode(jobs.do(ask)["state"]) == b"1"


def test_the_version_of_an_isolated_runtime_is_asked_of_its_process(jobs: Jobs) -> None:
    assert worker.version("isolated_fake") == ("1", "")
    version, problem = worker.version("no such runtime")
    assert version is None and "no runtime called 'no such runtime'" in problem


def test_a_machine_without_room_for_another_process_tells_no_version(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **more: Any) -> Any:
        raise OSError("Cannot allocate memory")

    for module, name in ((worker.subprocess, "Popen"), (worker.tempfile, "TemporaryFile")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            assert worker.version("isolated_fake") == (None, "Cannot allocate memory")
    assert worker.version("isolated_fake") == ("1", "")


HANGS = "import os, signal\nopen(os.environ['STARTED'], 'a').write('x')\nsignal.pause()\n"


def test_runtimes_whose_version_hangs_are_left_out_and_share_one_budget(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, program = tmp_path / "started", tmp_path / "hangs.py"
    program.write_text(HANGS)
    monkeypatch.setenv("STARTED", str(started))
    monkeypatch.setattr(worker, "AGENT", str(program))
    isolated = ".fake.runtime:IsolatedFake"
    found = {"hangs": isolated, "hangs too": isolated, "fake": ".fake.runtime:FakeRuntime"}
    monkeypatch.setattr(runtimes, "RUNTIMES", found)
    monkeypatch.setattr(runtimes, "_loaded", {})
    monkeypatch.setattr(IsolatedFake, "VERSION_IMPORTS", True)
    monkeypatch.setattr(runtimes, "FINDING_S", 3.0)
    found = runtimes.found()
    assert found.versions == {"fake": "1"}
    assert "ended its process" in found.problems["hangs"]
    assert found.problems["hangs too"] == "no time was left to look for it"
    # The first used it up; nothing was started for the second, and the first is gone.
    assert started.read_text() == "x" and not worker._workers


def test_versions_are_told_in_the_order_of_the_runtimes(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"isolated_fake": ".fake.runtime:IsolatedFake", "fake": ".fake.runtime:FakeRuntime"}
    monkeypatch.setattr(runtimes, "RUNTIMES", found)
    monkeypatch.setattr(runtimes, "_loaded", {})
    monkeypatch.setattr(IsolatedFake, "VERSION_IMPORTS", True)
    assert list(runtimes.found().versions.items()) == [("isolated_fake", "1"), ("fake", "1")]


def test_a_worker_waits_for_ever_between_two_jobs() -> None:
    assert Jobs(is_worker=True).idle_s is None
    assert Jobs().idle_s is not None


def test_closing_ends_the_process(tmp_path: Path) -> None:
    jobs = Jobs()
    pid = jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"]
    os.kill(pid, 0)
    jobs.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_died_between_two_jobs_is_replaced_unnoticed(
    jobs: Jobs, tmp_path: Path
) -> None:
    pid = jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"]
    os.kill(pid, signal.SIGKILL)
    worker._workers["isolated_fake"]._process.wait()
    assert jobs.do(request(tmp_path, {"behaviour": "work"}))["built"]["pid"] != pid


def test_a_worker_itself_starts_no_further_one(tmp_path: Path) -> None:
    asked = request(tmp_path, {"behaviour": "work"})
    assert service.work("measure", asked.measure)["built"]["pid"] == os.getpid()


def test_a_worker_does_not_outlive_its_agent_even_when_that_is_killed(tmp_path: Path) -> None:
    agent = AgentProcess([sys.executable, str(Path(worker.AGENT)), "serve"])
    file = tmp_path / "script.json"
    file.write_text('{"behaviour": "work"}')
    message = {
        "do": "measure",
        "runtime": "isolated_fake",
        "file": str(file),
        "sha256": file_digest(str(file)),
        "rule": QUICK,
    }
    pid = agent.request(message, 30.0)["built"]["pid"]
    assert Path(f"/proc/{pid}").exists()
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), 9)
    deadline = time.monotonic() + 10.0
    while running(pid) and time.monotonic() < deadline:
        os.sched_yield()
    with contextlib.suppress(OSError):
        agent.kill()
    assert not running(pid)


def running(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
