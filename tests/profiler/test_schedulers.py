from pathlib import Path
from typing import Any

import pytest
from small_network import STEM, latency_ms

from devices.errors import AgentLostError
from profiler.errors import SessionError
from profiler.fake_device import FakeAgent, FakeConnection, write_spec
from profiler.jobs import PROFILE_RULE
from profiler.replies import Failure, Samples
from profiler.schedulers import SerialScheduler


def scheduler(tmp_path: Path, **device: Any) -> tuple[SerialScheduler, dict[str, Any]]:
    connection = FakeConnection(**{"latency_ms": latency_ms} | device)
    serial = SerialScheduler(connection)
    file = tmp_path / "stem.onnx"
    file.write_bytes(write_spec(STEM))
    pushed = serial.push(file)
    rule = dict(PROFILE_RULE._asdict())
    return serial, {"do": "measure", "file": pushed.path, "sha256": pushed.sha256, "rule": rule}


def test_a_request_becomes_samples(tmp_path: Path) -> None:
    serial, request = scheduler(tmp_path)
    assert serial.start_round().cpu_model == "scripted"
    outcome = serial.execute(request, 1.0)
    assert isinstance(outcome, Samples)
    assert outcome.wall_ns[0] == round(latency_ms(STEM) * 1e6)


def test_a_lost_agent_is_replaced_by_the_next_request(tmp_path: Path) -> None:
    serial, request = scheduler(tmp_path, fault=lambda spec, call: "crash" if call == 0 else None)
    serial.start_round()
    lost = serial.execute(request, 1.0)
    assert isinstance(lost, Failure)
    assert lost.type == "agent_crashed"
    assert isinstance(serial.execute(request, 1.0), Samples)


def test_an_agent_that_said_no_goes_on(tmp_path: Path) -> None:
    serial, request = scheduler(
        tmp_path, fault=lambda spec, call: "out_of_memory" if call == 0 else None
    )
    serial.start_round()
    assert serial.execute(request, 1.0) == Failure(
        type="out_of_memory", message="the script says so", advice="change the script"
    )
    assert isinstance(serial.execute(request, 1.0), Samples)
    assert isinstance(serial.execute({**request, "sha256": "0" * 64}, 1.0), Failure)


def test_a_reply_that_is_no_result_is_a_failure_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial, request = scheduler(tmp_path)
    monkeypatch.setattr(FakeAgent, "request", lambda *arguments: {"wall_ns": []})
    outcome = serial.execute(request, 1.0)
    assert isinstance(outcome, Failure)
    assert outcome.type == "runtime_error"


def test_an_agent_that_does_not_start_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: FakeConnection) -> FakeAgent:
        raise AgentLostError("start_failed", "no python3 there", "install one")

    serial, request = scheduler(tmp_path)
    monkeypatch.setattr(FakeConnection, "start_agent", fail)
    with pytest.raises(SessionError, match="no python3 there; install one"):
        serial.start_round()
    with pytest.raises(SessionError):
        serial.execute(request, 1.0)


def test_a_new_round_ends_the_last_agent(tmp_path: Path) -> None:
    agents: list[FakeAgent] = []

    class Watched(FakeConnection):
        def start_agent(self) -> FakeAgent:
            agents.append(super().start_agent())
            return agents[-1]

    serial = SerialScheduler(Watched(latency_ms=latency_ms))
    serial.start_round()
    serial.start_round()
    assert [agent.lost for agent in agents] == [True, False]
    serial.close()
    assert agents[-1].lost
