from collections.abc import Sequence

import pytest

from profiler.errors import MeasurementError
from profiler.measurement import Measurement
from profiler.replies import Failure, Reply, Samples

MS = 1_000_000
CRASH = Failure(type="agent_crashed", message="ended by signal 11")


def samples(*values_ms: float, throttled: bool = False, cpu: bool = True) -> Samples:
    wall = tuple(round(value * MS) for value in values_ms)
    return Samples(
        wall_ns=tuple(2 * value for value in wall) if cpu else wall,
        cpu_ns=wall if cpu else None,
        health_before={"throttle_events": 3},
        health_after={"throttle_events": 3 + throttled},
    )


def measurement(
    outcomes: Sequence[Samples | Failure], clock: str = "thread_cpu", rounds_wanted: int = 3
) -> Measurement:
    replies = tuple(
        Reply(job_id="j", round=number, attempt=0, outcome=outcome)
        for number, outcome in enumerate(outcomes)
    )
    return Measurement(job_id="j", replies=replies, clock=clock, rounds_wanted=rounds_wanted)


STEADY = [samples(1.0, 1.0, 1.0), samples(1.001, 1.001, 1.001), samples(1.002, 1.002, 1.002)]


def test_the_latency_is_the_median_of_the_rounds_not_of_the_pool() -> None:
    m = measurement([samples(1.0), samples(2.0), samples(*[9.0] * 50)])
    assert m.latency_ms == 2.0
    assert (m.rounds, m.samples) == (3, 52)
    assert m.round_medians_ms == (1.0, 2.0, 9.0)
    assert m.round_spread_percent == pytest.approx(400.0)


def test_both_clocks_are_kept_and_the_conditions_choose_the_one_that_counts() -> None:
    by_cpu, by_wall = measurement(STEADY), measurement(STEADY, clock="wall")
    assert by_cpu.latency_ms == pytest.approx(1.001)
    assert by_wall.latency_ms == pytest.approx(2.002)
    for either in (by_cpu, by_wall):
        assert either.wall_latency_ms == pytest.approx(2.002)
        assert either.cpu_latency_ms == pytest.approx(1.001)
    assert measurement([samples(1.0, cpu=False)], clock="wall").cpu_latency_ms is None


def test_a_clock_without_samples_is_refused_with_advice() -> None:
    with pytest.raises(MeasurementError, match='use the conditions\' clock "wall"'):
        _ = measurement([samples(1.0, cpu=False)]).latency_ms
    with pytest.raises(MeasurementError, match="unknown clock"):
        measurement([], clock="sundial")


def test_pooled_statistics_are_those_of_all_samples() -> None:
    m = measurement([samples(1, 2, 3, 4), samples(5, 6, 7), samples(8, 9, 10, 11)])
    assert m.min_ms == 1.0
    assert m.p90_ms == pytest.approx(10.0)
    assert m.p99_ms == pytest.approx(10.9)
    assert m.iqr_ms == pytest.approx(5.0)


def test_rounds_that_agree_within_one_percent_are_ok() -> None:
    m = measurement(STEADY)
    assert (m.verdict, m.reason, m.settled) == ("ok", "", True)


def test_rounds_that_disagree_are_noisy_and_the_reason_says_by_how_much() -> None:
    m = measurement([samples(1.0), samples(1.02), samples(1.04)])
    assert m.verdict == "noisy"
    assert m.reason.startswith("known to 2.0 % (wanted: 1 %) after 3 rounds, which differ by 3.9 %")
    assert not m.settled


def test_too_few_rounds_are_noisy_whatever_they_say() -> None:
    m = measurement([STEADY[0], CRASH, STEADY[1]])
    assert m.verdict == "noisy"
    assert m.reason == "only 2 of 3 rounds (agent_crashed: ended by signal 11)"
    assert not m.given_up


def test_two_crashes_give_a_job_up_and_one_bad_model_does() -> None:
    assert measurement([CRASH, CRASH, STEADY[0]]).verdict == "failed"
    bad = measurement([Failure(type="bad_model", message="no such operator")])
    assert (bad.verdict, bad.reason) == ("failed", "bad_model: no such operator")
    assert bad.settled


def test_a_job_that_was_never_measured_has_failed_and_has_no_latency() -> None:
    m = measurement([])
    assert (m.verdict, m.reason) == ("failed", "never measured")
    assert not m.settled
    for name in ("latency_ms", "low_ms", "min_ms", "wall_latency_ms", "round_spread_percent"):
        with pytest.raises(MeasurementError, match="never measured"):
            getattr(m, name)


def test_a_throttled_round_counts_only_until_enough_others_are_there() -> None:
    slow = samples(5.0, 5.0, throttled=True)
    m = measurement([STEADY[0], slow, STEADY[1]])
    assert m.verdict == "throttled"
    assert "throttled itself" in m.reason
    mended = measurement([STEADY[0], slow, STEADY[1], STEADY[2]])
    assert (mended.verdict, mended.rounds) == ("ok", 3)


def test_a_used_up_quota_speaks_against_the_wall_clock_only() -> None:
    paused = Samples(
        wall_ns=(MS,),
        cpu_ns=(MS,),
        health_before={"quota_throttled": 1},
        health_after={"quota_throttled": 2},
    )
    assert paused.throttled("wall")
    assert not paused.throttled("thread_cpu")


def test_two_replies_of_one_round_are_refused() -> None:
    reply = Reply(job_id="j", round=1, attempt=0, outcome=STEADY[0])
    with pytest.raises(MeasurementError, match="one a round"):
        Measurement(job_id="j", replies=(reply, reply), clock="wall")


@pytest.mark.parametrize(
    "data",
    [{}, {"wall_ns": []}, {"wall_ns": [0]}, {"wall_ns": 3}, {"wall_ns": [5], "cpu_ns": [-1]}],
)
def test_what_is_no_result_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(MeasurementError):
        Samples.from_json(data)


def test_replies_survive_json() -> None:
    for outcome in (*STEADY, CRASH):
        reply = Reply(job_id="a b", round=2, attempt=1, outcome=outcome, took_s=0.5)
        assert Reply.from_json(reply.to_json()) == reply
