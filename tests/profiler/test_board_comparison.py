import pytest

from latency_tables.schema import Conditions
from profiler.journal import JournalState
from profiler.replies import Failure, Reply, Samples
from profiler.scheduling.board_comparison import BOARD_LIMIT_PERCENT, compare_boards

CONDITIONS = Conditions(
    device="pi", runtime="onnxruntime", runtime_version="1.17", statistic="median"
)
PIECES = {"anchor small": 1_000_000, "anchor middle": 4_000_000, "anchor large": 9_000_000}


def state(speeds: dict[str, float], number: int = 0, spread: float = 0.001) -> JournalState:
    """Anchors of boards that take so many times as long; their samples differ by ``spread``."""
    found = JournalState()
    for board, speed in speeds.items():
        for job, nanoseconds in PIECES.items():
            for attempt in range(2):
                times = tuple(
                    round(nanoseconds * speed * (1.0 + spread * step)) for step in range(-10, 11)
                )
                reply = Reply(
                    job_id=job,
                    round=number,
                    attempt=attempt,
                    board=board,
                    outcome=Samples(wall_ns=times),
                )
                found.log(number, board).anchors.append(reply)
    return found


def test_one_board_is_compared_with_nothing() -> None:
    assert compare_boards(state({"pi-1": 1.0}), CONDITIONS) == ()


def test_boards_that_differ_less_than_the_limit_agree() -> None:
    [found] = compare_boards(state({"pi-1": 1.0, "pi-2": 1.02}), CONDITIONS)
    assert (found.board, found.reference, found.pieces) == ("pi-2", "pi-1", 3)
    assert found.slower_percent == pytest.approx(2.0, abs=0.01)
    assert found.least_percent < 2.0 < found.most_percent
    assert found.agrees


def test_the_odd_one_out_is_judged_by_what_most_boards_say() -> None:
    found = compare_boards(state({"a-odd": 1.1, "b": 1.0, "c": 1.005, "d": 0.995}), CONDITIONS)
    assert {one.board: one.agrees for one in found} == {"a-odd": False, "c": True, "d": True}
    odd = next(one for one in found if one.board == "a-odd")
    assert odd.reference == "b"
    assert f"+10.0 % off b on 3 pieces that both measured (limit {BOARD_LIMIT_PERCENT:g} %)" in (
        odd.reason
    )


def test_a_faster_board_is_no_better_than_a_slower_one() -> None:
    [found] = compare_boards(state({"pi-1": 1.0, "pi-2": 0.9}), CONDITIONS)
    assert found.slower_percent == pytest.approx(-10.0, abs=0.01)
    assert not found.agrees


def test_noise_that_covers_the_difference_proves_nothing() -> None:
    [found] = compare_boards(state({"pi-1": 1.0, "pi-2": 1.05}, spread=0.03), CONDITIONS)
    assert found.slower_percent == pytest.approx(5.0, abs=0.1)
    assert found.least_percent <= 0.0
    assert found.agrees


def test_rounds_and_boards_can_be_left_out() -> None:
    both = state({"pi-1": 1.0, "pi-2": 1.2})
    assert compare_boards(both, CONDITIONS, number=1) == ()
    assert compare_boards(both, CONDITIONS, without=["pi-2"]) == ()


def test_anchors_that_failed_or_that_one_board_lacks_are_no_comparison() -> None:
    found = state({"pi-1": 1.0})
    failed = Failure(type="timeout", message="")
    found.log(0, "pi-2").anchors.append(
        Reply(job_id="anchor small", round=0, attempt=0, board="pi-2", outcome=failed)
    )
    assert compare_boards(found, CONDITIONS) == ()
    found.log(0, "pi-2").anchors.append(
        Reply(
            job_id="another anchor",
            round=0,
            attempt=1,
            board="pi-2",
            outcome=Samples(wall_ns=(1, 2, 3)),
        )
    )
    assert compare_boards(found, CONDITIONS) == ()
