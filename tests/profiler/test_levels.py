"""Latencies freed of what the jobs of a process have in common."""

import math

import numpy as np
import pytest

from profiler.errors import MeasurementError
from profiler.levels import Visit, half_sample_mode, without_levels

NETWORKS = {f"network {number}": 4.0 + 0.3 * number for number in range(20)}


def visits(levels, *, noise=0.005, disturbed=(), seed=0):
    """A visit a network and process; ``disturbed`` are (process, share of its visits, factor)."""
    rng = np.random.default_rng(seed)
    slow = {process: (share, factor) for process, share, factor in disturbed}
    found = []
    for process, level in enumerate(levels):
        share, factor = slow.get(process, (0.0, 1.0))
        for place, name in enumerate(rng.permutation(list(NETWORKS))):
            value = NETWORKS[name] * level * math.exp(rng.normal(0.0, noise))
            is_slow = place < share * len(NETWORKS)
            value *= factor * math.exp(rng.normal(0, 0.03)) if is_slow else 1.0
            found.append(Visit(job_id=str(name), process=f"{process} here", latency_ms=value))
    return found


def errors(levelled):
    """Relative to each other: the level of the machine itself is another matter."""
    logs = np.log([levelled.jobs[name].latency_ms / ms for name, ms in NETWORKS.items()])
    return logs - logs.mean()


def test_levels_of_processes_do_not_reach_the_latencies():
    levels = (1.0, 0.97, 1.03, 1.01, 0.99, 1.04, 0.96, 1.0)

    found = without_levels(visits(levels))

    assert np.abs(errors(found)).max() < 0.006
    assert found.level.processes == 8
    assert found.level.moved_percent == pytest.approx(100 * (1.04 / 0.96 - 1), abs=1.0)
    assert {one.processes for one in found.jobs.values()} <= {7, 8}


def test_a_disturbed_stretch_and_a_disturbed_process_are_seen_through():
    quiet = without_levels(visits([1.0] * 8))
    found = without_levels(
        visits([1.0] * 8, disturbed=[(1, 0.4, 1.2), (3, 0.3, 1.5), (5, 1.0, 1.15)])
    )

    assert np.abs(errors(found)).max() < 0.008
    level = np.mean([found.jobs[n].latency_ms / quiet.jobs[n].latency_ms for n in NETWORKS])
    assert level == pytest.approx(1.0, abs=0.005)
    assert found.level.moved_percent > 10


def test_the_standard_error_is_about_the_error_that_is_made():
    scores = []
    for seed in range(30):
        found = without_levels(visits([1.0, 1.02, 0.99, 1.01, 0.98], noise=0.01, seed=seed))
        shares = np.array([one.error_ms / one.latency_ms for one in found.jobs.values()])
        scores.append(errors(found) / shares)

    assert np.std(scores) == pytest.approx(1.0, abs=0.25)


def test_with_few_jobs_a_level_is_part_of_what_a_job_takes():
    found = without_levels(
        [
            Visit(job_id="one", process=str(number), latency_ms=ms)
            for number, ms in enumerate((1.0, 1.02, 0.98, 1.01, 0.99))
        ]
    )

    assert found.jobs["one"].latency_ms == pytest.approx(1.0, abs=0.01)
    assert 0.002 < found.jobs["one"].error_ms < 0.02


def test_a_job_that_one_process_alone_measured_is_less_sure_than_the_others():
    seen = visits([1.0] * 8)
    seen.append(Visit(job_id="late", process="0 here", latency_ms=2.0))

    found = without_levels(seen)

    late, other = found.jobs["late"], found.jobs["network 3"]
    assert late.processes == 1
    assert late.error_ms / late.latency_ms > 2 * other.error_ms / other.latency_ms
    assert late.low_ms < late.latency_ms < late.high_ms


def test_nothing_measured_is_an_error():
    with pytest.raises(MeasurementError, match="no visits"):
        without_levels([])


@pytest.mark.parametrize(
    ("values", "mode"), [([3.0], 3.0), ([1.0, 1.1, 5.0, 9.0], 1.05), ([1, 5, 5.1, 5.2, 9, 12], 5.1)]
)
def test_the_mode_is_where_values_are_densest(values, mode):
    assert half_sample_mode(np.array(values, dtype=float)) == pytest.approx(mode, abs=0.1)


def test_one_job_alone_is_known_better_from_more_processes():
    rng = np.random.default_rng(0)

    def error(count):
        found = without_levels(
            [
                Visit(job_id="one", process=str(n), latency_ms=math.exp(rng.normal(0, 0.01)))
                for n in range(count)
            ]
        )
        return found.jobs["one"].error_ms

    assert np.mean([error(24) for _ in range(20)]) < 0.7 * np.mean([error(6) for _ in range(20)])


def test_a_job_that_was_clearly_faster_at_times_is_in_doubt():
    quiet = visits([1.0] * 8)
    slow = [
        Visit(job_id=v.job_id, process=v.process, latency_ms=v.latency_ms * factor)
        for v in quiet
        for factor in [1.06 if v.job_id == "network 3" and v.process < "6" else 1.0]
    ]

    known, doubtful = (without_levels(one).jobs["network 3"] for one in (quiet, slow))

    assert known.half_width < 0.01
    off = doubtful.latency_ms / NETWORKS["network 3"] - 1
    assert abs(off) < doubtful.half_width


def test_a_single_process_is_said_to_spread_as_the_visits_did():
    found = without_levels(visits([1.0] * 12, noise=0.01, disturbed=[(2, 1.0, 1.2), (7, 1.0, 1.2)]))

    level = found.level
    assert level.disturbed_percent == pytest.approx(100 * 2 / 12, abs=1)
    assert 15 < level.spread_percent < 30
    quiet = without_levels(visits([1.0] * 12, noise=0.01)).level
    assert quiet.disturbed_percent == 0
    assert quiet.spread_percent == pytest.approx(1.96, abs=0.4)


def undisturbed_mean(sd):
    """The mean level of undisturbed processes, of very many."""
    levels = np.random.default_rng(1).normal(0, sd, 100_000)
    return float(np.mean(levels[levels <= np.quantile(levels, 0.25) + 0.05]))


@pytest.mark.parametrize("sd", [0.01, 0.04])
def test_the_interval_of_the_level_holds(sd):
    held = 0
    for seed in range(60):
        levels = np.exp(np.random.default_rng(seed).normal(0, sd, 12))
        found = without_levels(visits(levels, noise=0.005, seed=seed))
        known = np.mean(
            [math.log(found.jobs[name].latency_ms / ms) for name, ms in NETWORKS.items()]
        )
        truth = 100 * math.exp(undisturbed_mean(sd) - known)
        held += found.level.level_percent_low <= truth <= found.level.level_percent_high

    assert held >= 48


def test_visits_alone_in_their_process_say_little():
    many = visits([1.0, 1.1, 0.9, 1.0, 1.05])
    slow_ms = NETWORKS["network 3"] * 1.3
    alone = [
        Visit(job_id="network 3", process=f"{n + 100} there", latency_ms=slow_ms) for n in range(3)
    ]

    found, base = without_levels([*many, *alone]), without_levels(many)

    known_ms = base.jobs["network 3"].latency_ms
    assert found.jobs["network 3"].latency_ms == pytest.approx(known_ms, rel=0.01)
