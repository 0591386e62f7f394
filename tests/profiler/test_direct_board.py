from pathlib import Path
from typing import Any

import pytest
from small_network import STEM, latency_ms

from devices.errors import AgentError, AgentLostError, JobFailedError
from profiler.errors import SessionError
from profiler.fake_device import FakeAgent, FakeConnection, write_spec
from profiler.planning.jobs import PROFILE_RULE
from profiler.replies import Failure, Samples
from profiler.scheduling.board_protocol import run_blocking
from profiler.scheduling.direct_board import DirectBoard


def board_with_file(tmp_path: Path, **device: Any) -> tuple[DirectBoard, dict[str, Any]]:
    connection = FakeConnection(**{"latency_ms": latency_ms} | device)
    board = DirectBoard(connection)
    file = tmp_path / "stem.onnx"
    file.write_bytes(write_spec(STEM))
    [pushed] = run_blocking(board.push((file,)))
    rule = dict(PROFILE_RULE._asdict())
    return board, {"do": "measure", "file": pushed.path, "sha256": pushed.sha256, "rule": rule}


def execute(board: DirectBoard, request: dict[str, Any]) -> Samples | Failure:
    [outcome] = run_blocking(board.execute((request,), 1.0))
    assert isinstance(outcome.result, Samples | Failure)
    return outcome.result


def test_a_request_becomes_samples(tmp_path: Path) -> None:
    board, request = board_with_file(tmp_path)
    assert run_blocking(board.begin()).cpu_model == "scripted"
    outcome = execute(board, request)
    assert isinstance(outcome, Samples)
    assert outcome.wall_ns[0] == round(latency_ms(STEM) * 1e6)


def test_a_lost_agent_is_replaced_by_the_next_request(tmp_path: Path) -> None:
    board, request = board_with_file(
        tmp_path, fault=lambda spec, call: "crash" if call < 2 else None
    )
    run_blocking(board.begin())
    lost = execute(board, request)
    assert isinstance(lost, Failure)
    assert lost.type == "agent_crashed"
    assert isinstance(execute(board, request), Samples)


def test_an_agent_that_was_killed_once_is_asked_again_at_once(tmp_path: Path) -> None:
    pauses: list[float] = []
    board, request = board_with_file(
        tmp_path, fault=lambda spec, call: "crash" if call == 0 else None
    )
    board._pause = pauses.append
    run_blocking(board.begin())
    assert isinstance(execute(board, request), Samples)
    assert pauses == [0.0]


def break_link(
    monkeypatch: pytest.MonkeyPatch, times: int, error: AgentError, method: str = "request"
) -> None:
    """Make the next requests fail with this error."""
    left = [times]
    whole = getattr(FakeAgent, method)

    def broken(agent: FakeAgent, *arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return whole(agent, *arguments)

    monkeypatch.setattr(FakeAgent, method, broken)


def test_a_link_that_breaks_is_waited_for_ever_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    board, request = board_with_file(tmp_path)
    board._pause = pauses.append
    run_blocking(board.begin())
    break_link(monkeypatch, 3, AgentLostError("connection_lost", "the link broke", "wait"))
    assert isinstance(execute(board, request), Samples)
    assert pauses == [1.0, 2.0, 4.0]


def test_a_link_that_stays_down_ends_the_run_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    board, request = board_with_file(tmp_path)
    board._pause = pauses.append
    run_blocking(board.begin())
    break_link(monkeypatch, 99, AgentLostError("connection_lost", "the link broke", "mend it"))
    with pytest.raises(SessionError, match="the link broke; mend it"):
        execute(board, request)
    assert 60 < sum(pauses) < 300


def test_a_device_that_is_busy_is_waited_for_and_keeps_its_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, request = board_with_file(tmp_path)
    board._pause = lambda seconds: None
    run_blocking(board.begin())
    agent = board._agent
    break_link(monkeypatch, 1, JobFailedError("device_busy", "someone measures", "wait"))
    assert isinstance(execute(board, request), Samples)
    assert board._agent is agent


def test_a_file_that_the_device_lost_is_brought_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[Path] = []

    class Watched(FakeConnection):
        def push(self, files: Any) -> Any:
            pushed.extend(files)
            return super().push(files)

    board = DirectBoard(Watched(latency_ms=latency_ms), pause=lambda seconds: None)
    file = tmp_path / "stem.onnx"
    file.write_bytes(write_spec(STEM))
    [there] = run_blocking(board.push((file,)))
    rule = dict(PROFILE_RULE._asdict())
    request = {"do": "measure", "file": there.path, "sha256": there.sha256, "rule": rule}
    run_blocking(board.begin())
    break_link(monkeypatch, 1, JobFailedError("missing_file", "no such file", "push it"))
    assert isinstance(execute(board, request), Samples)
    assert pushed == [file, file]


def test_a_device_that_was_never_reached_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: FakeConnection) -> FakeAgent:
        raise AgentLostError("unreachable", "no route to the device", "check the host")

    board, _ = board_with_file(tmp_path)
    board._pause = lambda seconds: pytest.fail("waited for a host that may be misspelt")
    monkeypatch.setattr(FakeConnection, "start_agent", fail)
    with pytest.raises(SessionError, match="no route to the device"):
        run_blocking(board.begin())


def test_an_agent_that_said_no_goes_on(tmp_path: Path) -> None:
    board, request = board_with_file(
        tmp_path, fault=lambda spec, call: "out_of_memory" if call == 0 else None
    )
    run_blocking(board.begin())
    assert execute(board, request) == Failure(
        type="out_of_memory", message="the script says so", advice="change the script"
    )
    assert isinstance(execute(board, request), Samples)
    assert isinstance(execute(board, {**request, "sha256": "0" * 64}), Failure)


def test_a_reply_that_is_no_result_is_a_failure_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, request = board_with_file(tmp_path)
    monkeypatch.setattr(FakeAgent, "request", lambda *arguments: {"wall_ns": []})
    outcome = execute(board, request)
    assert isinstance(outcome, Failure)
    assert outcome.type == "runtime_error"


def test_an_agent_that_does_not_start_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: FakeConnection) -> FakeAgent:
        raise AgentLostError("start_failed", "no python3 there", "install one")

    board, request = board_with_file(tmp_path)
    monkeypatch.setattr(FakeConnection, "start_agent", fail)
    with pytest.raises(SessionError, match="no python3 there; install one"):
        run_blocking(board.begin())
    with pytest.raises(SessionError):
        execute(board, request)


def test_a_new_round_ends_the_last_agent(tmp_path: Path) -> None:
    agents: list[FakeAgent] = []

    class Watched(FakeConnection):
        def start_agent(self) -> FakeAgent:
            agents.append(super().start_agent())
            return agents[-1]

    board = DirectBoard(Watched(latency_ms=latency_ms))
    run_blocking(board.begin())
    run_blocking(board.begin())
    assert [agent.lost for agent in agents] == [True, False]
    board.close()
    assert agents[-1].lost


def test_what_was_lost_on_a_broken_link_is_told_apart_from_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, request = board_with_file(tmp_path)
    clock = board._connection.clock  # type: ignore[attr-defined]
    board._clock = clock
    board._pause = clock.advance
    said: list[str] = []
    board._notice = said.append
    run_blocking(board.begin())
    break_link(monkeypatch, 3, AgentLostError("connection_lost", "the link broke", "wait"))
    [outcome] = run_blocking(board.execute((request,), 1.0))
    assert outcome.lost_s == pytest.approx(1.0 + 2.0 + 4.0)
    assert said[0] == "the link broke; trying again in 1 s"


def test_an_agent_that_comes_back_on_a_changed_device_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, request = board_with_file(tmp_path)
    board._pause = lambda seconds: None
    run_blocking(board.begin())
    board._connection.governor = "powersave"  # type: ignore[attr-defined]
    break_link(monkeypatch, 1, AgentLostError("connection_lost", "the link broke", "wait"))
    # The agent that broke was already gone; the one that replaces it says what changed.
    with pytest.raises(SessionError, match="governor: powersave, was performance"):
        execute(board, request)


def test_what_is_held_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    board, _ = board_with_file(tmp_path)
    board._notice = said.append
    monkeypatch.setattr(
        FakeConnection,
        "start_agent",
        lambda device: FakeAgent(device=device, held=("governor performance on 4 cores",)),
    )
    run_blocking(board.begin())
    run_blocking(board.begin())
    assert said == ["fake: governor performance on 4 cores"]
