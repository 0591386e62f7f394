import pytest

from profiler.drift import drift_percent
from profiler.replies import Failure, Reply, Samples


def anchor(*times: int, job: str = "anchor a") -> Reply:
    return Reply(job_id=job, round=0, attempt=0, outcome=Samples(wall_ns=times))


STILL = anchor(*[1000] * 20)
FAILED = Reply(job_id="anchor a", round=0, attempt=0, outcome=Failure(type="timeout", message=""))


def test_a_move_above_the_limit_is_drift_in_either_direction() -> None:
    slower = anchor(*[1020] * 20)
    assert drift_percent([STILL, slower], "wall") == pytest.approx(2.0)
    assert drift_percent([slower, STILL], "wall") == pytest.approx(-1.96, abs=0.01)
    assert drift_percent([STILL, anchor(*[1009] * 20)], "wall") is None


def test_the_last_two_anchors_count() -> None:
    slower = anchor(*[1020] * 20)
    assert drift_percent([STILL, slower, slower], "wall") is None


def test_a_move_within_the_noise_of_the_anchors_is_none() -> None:
    noisy = anchor(*([900] * 10 + [1100] * 11))
    assert drift_percent([STILL, noisy], "wall") is None


def test_anchors_that_cannot_be_compared_say_nothing() -> None:
    slower = anchor(*[1020] * 20, job="anchor b")
    for anchors in ([], [STILL], [STILL, slower], [STILL, FAILED], [FAILED, STILL]):
        assert drift_percent(anchors, "wall") is None
