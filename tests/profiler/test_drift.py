import dataclasses

import pytest

from latency_tables.schema import Conditions
from profiler.drift import drift_percent
from profiler.replies import Failure, Reply, Samples


def anchor(*times: int, job: str = "anchor a") -> Reply:
    return Reply(job_id=job, round=0, attempt=0, board="b", outcome=Samples(wall_ns=times))


WALL = Conditions(device="d", runtime="r", runtime_version="1", clock="wall")
QUIET = Conditions(device="d", runtime="r", runtime_version="1", clock="wall", statistic="quiet")
STILL = anchor(*[1000] * 20)
FAILED = Reply(
    job_id="anchor a", round=0, attempt=0, board="b", outcome=Failure(type="timeout", message="")
)


def test_a_move_above_the_limit_is_drift_in_either_direction() -> None:
    slower = anchor(*[1020] * 20)
    assert drift_percent([STILL, slower], WALL) == pytest.approx(2.0)
    assert drift_percent([slower, STILL], WALL) == pytest.approx(-1.96, abs=0.01)
    assert drift_percent([STILL, anchor(*[1009] * 20)], WALL) is None


def test_the_last_two_anchors_count() -> None:
    slower = anchor(*[1020] * 20)
    assert drift_percent([STILL, slower, slower], WALL) is None


def test_a_move_within_the_noise_of_the_anchors_is_none() -> None:
    noisy = anchor(*([900] * 10 + [1100] * 11))
    assert drift_percent([STILL, noisy], WALL) is None


def test_the_limit_is_an_argument() -> None:
    assert drift_percent([STILL, anchor(*[1020] * 20)], WALL, 0.03) is None
    assert drift_percent([STILL, anchor(*[1009] * 20)], WALL, 0.005) == pytest.approx(0.9)


def test_a_quiet_latency_drifts_only_where_the_quiet_samples_do() -> None:
    busier = anchor(*([1000] * 30 + [1300] * 70))
    calm = anchor(*[1000] * 100)
    assert drift_percent([calm, busier], WALL) == pytest.approx(30.0)
    assert drift_percent([calm, busier], QUIET) is None
    assert drift_percent([calm, anchor(*[1020] * 100)], QUIET) == pytest.approx(2.0)


def test_drift_is_read_from_the_clock_of_the_conditions() -> None:
    def cpu(nanoseconds: int) -> Reply:
        samples = Samples(wall_ns=(1000,) * 20, cpu_ns=(nanoseconds,) * 20)
        return Reply(job_id="anchor a", round=0, attempt=0, board="b", outcome=samples)

    by_cpu = dataclasses.replace(WALL, clock="thread_cpu")
    assert drift_percent([cpu(900), cpu(990)], by_cpu) == pytest.approx(10.0)
    assert drift_percent([cpu(900), cpu(990)], WALL) is None


def test_anchors_that_cannot_be_compared_say_nothing() -> None:
    slower = anchor(*[1020] * 20, job="anchor b")
    for anchors in ([], [STILL], [STILL, slower], [STILL, FAILED], [FAILED, STILL]):
        assert drift_percent(anchors, WALL) is None
