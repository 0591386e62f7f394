import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from profiler.errors import MeasurementError
from profiler.journal_lines import read_entry, write_entry
from profiler.measurement import UNDISTURBED_ROUNDS, Measurement
from profiler.replies import Failure, Reply, Samples, parse_result

MS = 1_000_000
CRASH = Failure(type="agent_crashed", message="ended by signal 11")


def samples(
    *values_ms: float,
    throttled: bool = False,
    cpu: bool = True,
    dropped: int = 0,
    disturbed: int = 0,
) -> Samples:
    wall = tuple(round(value * MS) for value in values_ms)
    return Samples(
        wall_ns=tuple(2 * value for value in wall) if cpu else wall,
        cpu_ns=wall if cpu else None,
        dropped=dropped,
        disturbed=disturbed,
        health_before={"throttle_events": 3},
        health_after={"throttle_events": 3 + throttled},
    )


def steady(value_ms: float, count: int = 10, **how: Any) -> Samples:
    return samples(*[value_ms] * count, **how)


def measurement(
    outcomes: Sequence[Samples | Failure],
    clock: str = "thread_cpu",
    rounds_wanted: int = 3,
    statistic: str = "median",
) -> Measurement:
    replies = tuple(
        Reply(job_id="j", round=number, attempt=0, board="b", outcome=outcome)
        for number, outcome in enumerate(outcomes)
    )
    return Measurement(
        job_id="j",
        replies=replies,
        clock=clock,
        statistic=statistic,
        rounds_wanted=rounds_wanted,
    )


STEADY = [steady(1.0), steady(1.001), steady(1.002)]


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
    with pytest.raises(MeasurementError, match='use the clock "wall"'):
        _ = measurement([samples(1.0, cpu=False)]).latency_ms


def test_pooled_statistics_are_those_of_all_samples() -> None:
    m = measurement([samples(1, 2, 3, 4), samples(5, 6, 7), samples(8, 9, 10, 11)])
    assert m.min_ms == 1.0
    assert m.p90_ms == pytest.approx(10.0)
    assert m.p99_ms == pytest.approx(10.9)
    assert m.iqr_ms == pytest.approx(5.0)


def test_rounds_that_agree_within_one_percent_are_ok() -> None:
    m = measurement(STEADY)
    assert (m.verdict, m.reason) == ("ok", "")


def test_rounds_that_disagree_are_noisy_and_the_reason_says_by_how_much() -> None:
    m = measurement([steady(1.0), steady(1.02), steady(1.04)])
    assert m.verdict == "noisy"
    assert m.reason.startswith(
        "interval of ±2.0 % (target: ±1 %) after 3 rounds, which differ by 3.9 %"
    )
    assert m.verdict == "noisy" and not m.given_up


def test_too_few_rounds_are_noisy_whatever_they_say() -> None:
    m = measurement([STEADY[0], CRASH, STEADY[1]])
    assert m.verdict == "noisy"
    assert m.reason == "only 2 of 3 rounds (agent_crashed: ended by signal 11)"
    assert not m.given_up


def test_the_quiet_latency_is_the_middle_one_of_what_calm_processes_take() -> None:
    # A quarter of each visit is undisturbed; where its memory lies moves a process by a per cent.
    centres = (1.0, 1.01, 1.02, 0.99, 0.98)
    rounds = [samples(*[base] * 10, *[1.3 * base] * 20) for base in centres]
    quiet, usual = measurement(rounds, statistic="quiet"), measurement(rounds)
    assert quiet.latency_ms == 1.0
    assert quiet.low_ms <= 0.98 and quiet.high_ms >= 1.02
    assert usual.latency_ms == 1.3
    assert (quiet.samples, quiet.rounds) == (150, 5)


def test_more_processes_make_the_interval_narrower_than_they_differ() -> None:
    centres = [1.0 + 0.005 * step for step in range(-4, 5)]
    few, many = (measurement([steady(c) for c in centres * n]) for n in (1, 12))
    assert few.relative_half_width == pytest.approx(0.015)
    assert many.relative_half_width == pytest.approx(0.005)
    assert (few.verdict, many.verdict) == ("noisy", "ok")


@pytest.mark.parametrize("statistic", ["quiet", "median"])
def test_disturbed_rounds_do_not_count_where_there_are_calm_ones(statistic: str) -> None:
    # The agent drops all disturbed samples, or, where hardly any other is left, none of them.
    calm = [steady(1.0), steady(1.001, dropped=7, disturbed=7), steady(1.002)]
    busy = steady(0.7, disturbed=10)
    assert [part.undisturbed for part in (*calm, busy)] == [True, True, True, False]
    m = measurement([calm[0], busy, calm[1], busy, calm[2]], statistic=statistic)
    alone = measurement(calm, statistic=statistic)
    for name in ("latency_ms", "low_ms", "high_ms", "median_ms", "min_ms", "p99_ms", "samples"):
        assert getattr(m, name) == getattr(alone, name), name
    assert (m.wall_latency_ms, m.cpu_latency_ms) == (alone.wall_latency_ms, alone.cpu_latency_ms)
    assert (m.verdict, m.rounds) == ("ok", 5)


def test_two_calm_rounds_are_enough_and_do_without_the_others() -> None:
    busy = steady(1.4, disturbed=10)
    m = measurement([*STEADY[:UNDISTURBED_ROUNDS], busy, busy], statistic="quiet")
    assert (m.verdict, m.samples, m.rounds) == (
        "ok",
        10 * UNDISTURBED_ROUNDS,
        UNDISTURBED_ROUNDS + 2,
    )
    assert m.latency_ms < 1.01


def test_where_hardly_a_round_is_calm_all_count() -> None:
    busy = [steady(value, disturbed=10) for value in (1.2, 1.3, 1.4)]
    m = measurement([*STEADY[: UNDISTURBED_ROUNDS - 1], *busy], statistic="quiet")
    assert (m.samples, m.latency_ms) == (40, pytest.approx(1.25))
    assert m.verdict == "noisy"


def test_two_crashes_give_a_job_up_and_one_bad_model_does() -> None:
    assert measurement([CRASH, CRASH, STEADY[0]]).verdict == "failed"
    bad = measurement([Failure(type="bad_model", message="no such operator")])
    assert (bad.verdict, bad.reason) == ("failed", "bad_model: no such operator")
    assert bad.given_up


def test_a_job_that_was_never_measured_has_failed_and_has_no_latency() -> None:
    m = measurement([])
    assert (m.verdict, m.reason) == ("failed", "never measured")
    assert not m.given_up
    for name in ("latency_ms", "low_ms", "min_ms", "wall_latency_ms", "round_spread_percent"):
        with pytest.raises(MeasurementError, match="never measured"):
            getattr(m, name)


def test_a_throttled_round_counts_only_until_enough_others_are_there() -> None:
    slow = steady(5.0, throttled=True)
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


def taking(resources: dict[str, object], **how: Any) -> Samples:
    return dataclasses.replace(steady(1.0, **how), resources=resources)


def test_memory_is_the_most_of_the_rounds_that_tell_it_and_energy_the_middle_one() -> None:
    told = measurement(
        [
            taking({"peak_memory_bytes": 300, "energy_j": 0.2}),
            taking({"peak_memory_bytes": 700, "energy_j": 0.9}),
            taking({"energy_j": 0.3}),
            taking({}),
        ]
    )
    assert told.peak_memory_bytes == 700
    assert told.energy_j == 0.3


def test_the_energy_of_disturbed_rounds_counts_only_where_no_other_is_known() -> None:
    disturbed = taking({"energy_j": 7.0}, disturbed=3)
    calm = [taking({"energy_j": 0.2})] * UNDISTURBED_ROUNDS
    assert measurement([*calm, disturbed]).energy_j == 0.2
    assert measurement([*STEADY, disturbed]).energy_j == 7.0


def test_a_disturbed_round_tells_memory_as_well_as_a_calm_one() -> None:
    told = measurement([*STEADY, taking({"peak_memory_bytes": 900}, disturbed=3)])
    assert told.peak_memory_bytes == 900


def test_agents_that_tell_no_memory_and_energy_leave_both_unknown() -> None:
    silent = measurement(STEADY)
    assert silent.peak_memory_bytes is None
    assert silent.energy_j is None


def test_two_replies_of_one_round_are_refused() -> None:
    reply = Reply(job_id="j", round=1, attempt=0, board="b", outcome=STEADY[0])
    with pytest.raises(MeasurementError, match="one a round"):
        Measurement(job_id="j", replies=(reply, reply), clock="wall")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"wall_ns": []},
        {"wall_ns": [0]},
        {"wall_ns": 3},
        {"wall_ns": [5], "cpu_ns": [-1]},
        {"wall_ns": [math.inf]},
        {"wall_ns": [5], "waited_s": "long"},
        {"wall_ns": [5], "resources": 3},
        {"wall_ns": [5], "resources": {"energy_j": 0}},
        {"wall_ns": [5], "resources": {"energy_j": math.nan}},
        {"wall_ns": [5], "resources": {"peak_memory_bytes": "4 MiB"}},
        {"wall_ns": [5], "resources": {"peak_memory_bytes": True}},
    ],
)
def test_what_is_no_result_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(MeasurementError):
        parse_result(data)


def test_replies_survive_json() -> None:
    for outcome in (*STEADY, taking({"energy_j": 0.25, "energy_source": "rapl"}), CRASH):
        reply = Reply(job_id="a b", round=2, attempt=1, board="b", outcome=outcome, took_s=0.5)
        line = json.loads(json.dumps(write_entry(reply)))
        assert read_entry(line, "here") == reply


@pytest.mark.parametrize(("run_ms", "is_undisturbed"), [(150.0, False), (210.0, True)])
def test_a_run_that_is_always_interrupted_counts_as_it_is(
    run_ms: float, is_undisturbed: bool
) -> None:
    run_ns = int(run_ms * 1e6)
    samples = Samples(wall_ns=(run_ns, run_ns + 1), cpu_ns=(run_ns, run_ns), disturbed=2)
    assert samples.undisturbed == is_undisturbed


@pytest.mark.parametrize("told", [1e308, 0, -1.0, True, "1"])
def test_resources_beyond_measure_are_refused(told: object) -> None:
    with pytest.raises(MeasurementError, match=r"resources\.energy_j"):
        Samples(wall_ns=(1,), resources={"energy_j": told})
