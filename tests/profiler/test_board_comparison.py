from typing import Any

import pytest

from latency_tables.schema import Conditions
from profiler.journal import JournalState
from profiler.journal_lines import SharedLine
from profiler.replies import Failure, Reply, Samples
from profiler.scheduling.board_comparison import (
    BOARD_LIMIT_PERCENT,
    BoardComparison,
    compare_boards,
)

CONDITIONS = Conditions(
    device="pi", runtime="onnxruntime", runtime_version="1.17", statistic="median"
)
PIECES = {"small": 1_000_000, "middle": 4_000_000, "large": 9_000_000}


def reply_of(job: str, board: str, outcome: Samples | Failure, number: int = 0) -> Reply:
    return Reply(job_id=job, round=number, attempt=0, board=board, outcome=outcome)


def compared(state: JournalState, **scope: Any) -> tuple[BoardComparison, ...]:
    return compare_boards(state, CONDITIONS, list(PIECES), **scope)


def state(speeds: dict[str, float], number: int = 0, spread: float = 0.001) -> JournalState:
    """Boards that take so many times as long; their samples differ by ``spread``."""
    found = JournalState()
    for board, speed in speeds.items():
        for job, nanoseconds in PIECES.items():
            times = tuple(
                round(nanoseconds * speed * (1.0 + spread * step)) for step in range(-10, 11)
            )
            for one in (number, number + 10):
                samples = Samples(wall_ns=times)
                found.take(SharedLine(reply_of(job, board, samples, one)))
    return found


def test_one_board_is_compared_with_nothing() -> None:
    assert compared(state({"pi-1": 1.0})) == ()


def test_boards_that_differ_less_than_the_limit_agree() -> None:
    [found] = compared(state({"pi-1": 1.0, "pi-2": 1.02}))
    assert (found.board, found.reference, found.pieces) == ("pi-2", "pi-1", 3)
    assert found.slower_percent == pytest.approx(2.0, abs=0.01)
    assert found.least_percent < 2.0 < found.most_percent
    assert found.agrees


def test_the_odd_one_out_is_judged_by_what_most_boards_say() -> None:
    found = compared(state({"a-odd": 1.1, "b": 1.0, "c": 1.005, "d": 0.995}))
    assert {one.board: one.agrees for one in found} == {"a-odd": False, "c": True, "d": True}
    odd = next(one for one in found if one.board == "a-odd")
    assert odd.reference == "b"
    assert f"+10.0 % off b on 3 pieces that both measured (limit {BOARD_LIMIT_PERCENT:g} %)" in (
        odd.reason
    )


def test_a_faster_board_is_no_better_than_a_slower_one() -> None:
    [found] = compared(state({"pi-1": 1.0, "pi-2": 0.9}))
    assert found.slower_percent == pytest.approx(-10.0, abs=0.01)
    assert not found.agrees


def test_noise_that_covers_the_difference_proves_nothing() -> None:
    [found] = compared(state({"pi-1": 1.0, "pi-2": 1.05}, spread=0.03))
    assert found.slower_percent == pytest.approx(5.0, abs=0.1)
    assert found.least_percent <= 0.0
    assert found.agrees


def test_rounds_and_boards_can_be_left_out() -> None:
    both = state({"pi-1": 1.0, "pi-2": 1.2})
    assert compared(both, number=1) == ()
    assert compared(both, without=["pi-2"]) == ()


def test_jobs_that_failed_or_that_one_board_lacks_are_no_comparison() -> None:
    found = state({"pi-1": 1.0})
    failed = Failure(type="timeout", message="")
    found.take(SharedLine(reply_of("small", "pi-2", failed)))
    assert compared(found) == ()
    found.take(SharedLine(reply_of("another", "pi-2", Samples(wall_ns=(1, 2, 3)))))
    assert compared(found) == ()


def test_what_boards_measured_in_their_own_rounds_is_compared_too() -> None:
    found = JournalState()
    for number, (board, nanoseconds) in enumerate({"pi-1": 1000, "pi-2": 1200}.items()):
        for job in ("small", "not shared"):
            found.take(reply_of(job, board, Samples(wall_ns=(nanoseconds,) * 9), number))
    [comparison] = compared(found)
    assert (comparison.board, comparison.pieces, comparison.agrees) == ("pi-2", 1, False)
    assert compared(found, number=0) == ()
