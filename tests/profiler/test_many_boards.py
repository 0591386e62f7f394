"""Several scripted boards in this process, their lanes taking turns step by step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from journal_counts import accepted_replies
from small_network import (
    CONDITIONS,
    compose,
    jobs_by_round,
    latency_ms,
    layers,
    request,
    small_plan,
)

from devices.connection import PushedFile
from devices.environment import Environment
from latency_tables.opspec import OpSpec
from profiler.errors import JournalError, SessionError
from profiler.fake_device import FakeConnection, write_spec
from profiler.profile import profile
from profiler.schedule import FixedRounds
from profiler.scheduling.board_protocol import Board, MakeLane, Outcome, Request
from profiler.scheduling.serial import SerialScheduler
from profiler.session import Session, SessionResult
from profiler.settings import ProfileSettings

SETTINGS = ProfileSettings()
JOBS = len(small_plan().jobs)


class Turn:
    """Awaited, it lets the other lanes run first."""

    def __await__(self) -> Iterator[None]:
        yield


class TakingTurns:
    """A board whose lane is suspended at each request."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def begin(self) -> Environment:
        await Turn()
        return await self._board.begin()

    async def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        await Turn()
        return await self._board.push(files)

    async def execute(self, requests: Sequence[Request], timeout_s: float) -> tuple[Outcome, ...]:
        await Turn()
        return await self._board.execute(requests, timeout_s)

    async def recall(self, runtime: str) -> bytes | None:
        await Turn()
        return await self._board.recall(runtime)


class Fleet:
    """Boards by name; a job goes to each in turn."""

    def __init__(self, boards: Mapping[str, FakeConnection], jobs_at_once: int = 1) -> None:
        self.jobs_at_once = jobs_at_once
        self._boards = {name: SerialScheduler(device) for name, device in boards.items()}

    @property
    def lanes(self) -> int:
        return len(self._boards)

    def boards(self) -> tuple[str, ...]:
        return tuple(self._boards)

    def probe(self) -> Environment:
        return next(iter(self._boards.values())).probe()

    def drive(self, make_lane: MakeLane) -> None:
        lanes = {
            name: make_lane(name, TakingTurns(one.board)) for name, one in self._boards.items()
        }
        while lanes:
            for name, lane in list(lanes.items()):
                try:
                    lane.send(None)
                except StopIteration:
                    del lanes[name]

    def close(self) -> None:
        for board in self._boards.values():
            board.close()


def board(**script: Any) -> FakeConnection:
    return FakeConnection(**{"latency_ms": latency_ms, "noise": 0.001} | script)


def slow(now_s: float) -> float:
    return 1.2


def run(
    folder: Path, fleet: Fleet, settings: ProfileSettings = SETTINGS, stop_at: int | None = None
) -> SessionResult:
    def report(done: int, total: int, label: str) -> None:
        if stop_at is not None and done >= stop_at:
            raise KeyboardInterrupt

    with Session(
        plan=small_plan(),
        conditions=CONDITIONS,
        scheduler=fleet,
        build=write_spec,
        folder=folder,
        schedule=FixedRounds(rounds=settings.rounds),
        settings=settings,
    ) as session:
        return session.run(report)


def boards_of(result: SessionResult) -> set[str]:
    return {name for m in result.measurements.values() for name in m.board.split("+")}


def check_whole(folder: Path, settings: ProfileSettings = SETTINGS) -> None:
    counts = accepted_replies(folder)
    assert set(counts.values()) == {1}
    assert len(counts) == JOBS * settings.rounds


@pytest.mark.parametrize("jobs_at_once", [1, 4, 50])
def test_however_many_jobs_share_a_step_each_is_measured_once(
    tmp_path: Path, jobs_at_once: int
) -> None:
    result = run(tmp_path, Fleet({"a": board(), "b": board()}, jobs_at_once))
    check_whole(tmp_path)
    assert boards_of(result) == {"a", "b"}


def test_a_board_that_cannot_take_part_is_named_in_a_warning(tmp_path: Path) -> None:
    result = run(tmp_path, Fleet({"a": board(runtime_version="0.9"), "b": board()}))
    check_whole(tmp_path)
    assert boards_of(result) == {"b"}
    assert [w for w in result.warnings if "a was excluded from the run: a has onnxruntime 0.9" in w]


def test_boards_of_different_rounds_are_compared_too(tmp_path: Path) -> None:
    run(tmp_path, Fleet({"a": board()}), replace(SETTINGS, rounds=1))
    # Only the slower one is left: what it measures must not be mixed with what a did.
    with pytest.raises(SessionError, match=r"b is \+\d+\.\d % off a .* are discarded"):
        run(tmp_path, Fleet({"b": board(speed=slow)}))
    result = run(tmp_path, Fleet({"a": board()}))
    assert boards_of(result) == {"a"}
    check_whole(tmp_path)


def test_a_board_that_turns_slow_in_a_later_round_loses_that_round_only(tmp_path: Path) -> None:
    run(tmp_path, Fleet({"a": board(), "b": board()}))
    turned = replace(SETTINGS, rounds=4)
    result = run(tmp_path, Fleet({"a": board(), "b": board(speed=slow)}), turned)
    check_whole(tmp_path, turned)
    assert boards_of(result) == {"a", "b"}
    last = [reply for m in result.measurements.values() for reply in m.replies if reply.round == 3]
    assert {reply.board for reply in last} == {"a"}


def test_a_kill_before_a_stranger_is_judged_changes_nothing(tmp_path: Path) -> None:
    once = replace(SETTINGS, rounds=1)
    run(tmp_path, Fleet({"a": board(), "b": board(speed=slow)}), once)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    judged = next(n for n, line in enumerate(lines) if '"cause":"board"' in line)
    journal.write_text("".join(lines[:judged]))
    result = run(tmp_path, Fleet({"a": board()}), once)
    assert boards_of(result) == {"a"}
    check_whole(tmp_path, once)


def test_a_device_whose_power_mode_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SessionError, match="a is in power mode powersave, the conditions require perf"
    ):
        run(tmp_path, Fleet({"a": board(governor="powersave")}))


def test_another_board_under_the_same_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Fleet({"a": board(board="11111111")}), stop_at=10)
    with pytest.raises(JournalError, match="begun where board is 11111111, on a it is 22222222"):
        run(tmp_path, Fleet({"a": board(board="22222222")}))


def shared_lines(folder: Path) -> Counter[tuple[str, int, str]]:
    """How often each board measured each shared job in each round to be compared."""
    lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
    return Counter((x["board"], x["round"], x["job"]) for x in lines if x["line"] == "shared")


def test_each_board_measures_the_shared_jobs_once_a_round_even_after_a_kill(
    tmp_path: Path,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Fleet({"a": board(), "b": board()}), stop_at=JOBS + 9)
    result = run(tmp_path, Fleet({"a": board(), "b": board()}))
    shared = small_plan().shared
    assert len(shared) == 3
    rounds = range(SETTINGS.rounds)
    assert shared_lines(tmp_path) == {
        (b, n, job): 1 for b in "ab" for n in rounds for job in shared
    }
    [comparison] = result.boards
    assert comparison.agrees and comparison.pieces == 3
    check_whole(tmp_path)


class LateFleet(Fleet):
    """The second board appears in the middle of the first round."""

    present = 1

    @property
    def lanes(self) -> int:
        return self.present

    def drive(self, make_lane: MakeLane) -> None:
        first, second = self._boards.items()
        lanes = {first[0]: make_lane(first[0], TakingTurns(first[1].board))}
        steps = 0
        while lanes:
            steps += 1
            if steps == 12:
                self.present = 2
                lanes[second[0]] = make_lane(second[0], TakingTurns(second[1].board))
            for name, lane in list(lanes.items()):
                try:
                    lane.send(None)
                except StopIteration:
                    del lanes[name]


def test_a_board_that_comes_in_the_middle_of_a_round_is_compared_in_that_round(
    tmp_path: Path,
) -> None:
    once = replace(SETTINGS, rounds=1)
    result = run(tmp_path, LateFleet({"a": board(), "b": board(speed=slow)}), once)
    [comparison] = result.boards
    assert (comparison.board, comparison.agrees) == ("b", False)
    assert boards_of(result) == {"a"}
    check_whole(tmp_path, once)


def test_one_board_is_compared_with_nothing_and_measures_no_shared_job(tmp_path: Path) -> None:
    result = run(tmp_path, Fleet({"a": board()}))
    assert not shared_lines(tmp_path)
    assert result.boards == ()


def test_a_shared_job_that_fails_is_not_tried_for_a_comparison_again(tmp_path: Path) -> None:
    bad = small_plan().shared[0]

    def fault(spec: OpSpec, call: int) -> str | None:
        return "bad_model" if spec.digest == bad else None

    result = run(tmp_path, Fleet({name: board(fault=fault) for name in "ab"}))
    failed = [key for key in shared_lines(tmp_path) if key[2] == bad]
    assert 1 <= len(failed) <= 2 and {number for _, number, _ in failed} == {0}
    [comparison] = result.boards
    assert comparison.agrees and comparison.pieces == 2
    assert result.measurements[bad].failed


def of_speed(factor: float) -> FakeConnection:
    return board(layers=layers, speed=lambda now_s: factor, noise=0.0005)


def test_each_board_of_each_round_has_a_level_of_its_own(tmp_path: Path) -> None:
    """Boards that differ by less than what excludes one of them leave no trace in the table."""
    fleet = Fleet({"a": of_speed(1.01), "b": of_speed(0.99)})
    table = profile(request(tmp_path), fleet).table
    assert table.level is not None
    assert table.level.processes == 2 * len(jobs_by_round(tmp_path)) == 12
    assert table.level.moved_percent == pytest.approx(100 * (1.01 / 0.99 - 1), abs=0.5)
    ratios = [
        network.measured_ms / latency_ms(compose(network.keep_mask, network.padding))
        for network in table.networks
    ]
    middle = sum(ratios) / len(ratios)
    assert middle == pytest.approx(1.0, abs=0.012)
    assert [ratio / middle for ratio in ratios] == pytest.approx([1.0] * len(ratios), abs=0.003)
    assert table.hold_out is not None and table.hold_out.max_error_percent < 0.3
    assert all(set(row.board.split("+")) <= {"a", "b"} for row in table.rows)
    assert [comparison["agrees"] for comparison in table.boards] == [True]
