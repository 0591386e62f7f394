"""Speed-ups as ratios of visits in the same processes, and what they tell apart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from profiler.levels import JobLatency, Visit, without_levels
from profiler.ratios import PairedVisits, Ratio, ranks, speedup

TRUE = 1.5
MS = {"baseline": 6.0, "network": 6.0 / TRUE}


def visits(seed, count=12, *, level_sd=0.2, noise=0.01, latencies_ms=MS, factors=()):
    """A visit a job and process; ``factors`` are (job, process, factor) on top."""
    rng = np.random.default_rng(seed)
    levels = np.exp(rng.normal(0.0, level_sd, count))
    odd = {(job, process): factor for job, process, factor in factors}
    return [
        Visit(
            job_id=job,
            process=f"{process} here",
            latency_ms=ms
            * levels[process]
            * math.exp(rng.normal(0.0, noise))
            * odd.get((job, process), 1.0),
        )
        for process in range(count)
        for job, ms in latencies_ms.items()
    ]


def ratio_of(found):
    return PairedVisits.of(found).ratio("network", "baseline")


@pytest.mark.parametrize("count", [3, 6, 12, 30])
def test_the_interval_holds_the_true_ratio_in_about_95_percent(count):
    """With levels that move by 20 % and are in both visits of a process."""
    found = [ratio_of(visits(seed, count)) for seed in range(400)]

    held = np.mean([one.low <= TRUE <= one.high for one in found])
    assert 0.92 <= held <= 0.985


def test_one_process_in_ten_that_slows_one_network_costs_no_coverage():
    held = 0
    for seed in range(300):
        draw = np.random.default_rng(seed + 10_000)
        slow = [("network", n, draw.uniform(1.1, 1.25)) for n in range(12) if draw.random() < 0.1]
        one = ratio_of(visits(seed, 12, factors=slow))
        held += one.low <= TRUE <= one.high

    assert held >= 0.91 * 300


def test_the_interval_of_the_ratio_is_much_narrower_than_the_ratio_of_intervals():
    found = visits(1, 20)
    one = ratio_of(found)

    alone = without_levels(found).jobs
    low = alone["baseline"].low_ms / alone["network"].high_ms
    high = alone["baseline"].high_ms / alone["network"].low_ms

    assert one.high - one.low < (high - low) / 5


def test_without_odd_processes_it_is_about_the_paired_t_interval():
    found = visits(3, 40, level_sd=0.02)
    one = ratio_of(found)
    logs = {job: np.log([v.latency_ms for v in found if v.job_id == job]) for job in MS}
    pairs = logs["baseline"] - logs["network"]

    oracle = stats.t.interval(0.95, 39, pairs.mean(), stats.sem(pairs))

    assert math.log(one.low) == pytest.approx(oracle[0], abs=0.001)
    assert math.log(one.high) == pytest.approx(oracle[1], abs=0.001)
    assert one.processes == 40


@pytest.mark.parametrize("count", [8, 20])
def test_disturbed_visits_and_processes_do_not_move_it(count):
    quiet = ratio_of(visits(5, count, level_sd=0.01, noise=0.004))
    factors = [("network", 1, 1.25), ("baseline", 4, 1.2), ("baseline", 6, 1.2)]
    # A neighbour on the core that slows one of them down more.
    factors += [("network", 6, 1.45)]

    disturbed = ratio_of(visits(5, count, level_sd=0.01, noise=0.004, factors=factors))

    assert disturbed.speedup == pytest.approx(quiet.speedup, rel=0.004)
    assert disturbed.low <= quiet.speedup <= disturbed.high
    assert disturbed.half_width < 0.01


def test_a_disturbed_minority_with_another_ratio_does_not_count():
    """Processes in which all is slower, and the network more so: not what it takes undisturbed."""
    slow = [("baseline", n, 1.2) for n in range(7)] + [("network", n, 1.25) for n in range(7)]

    one = ratio_of(visits(2, 20, level_sd=0.005, noise=0.003, factors=slow))

    assert one.speedup == pytest.approx(TRUE, rel=0.003)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_common_processes_give_no_interval(count):
    one = ratio_of(visits(0, count, noise=0.001))

    assert (one.low, one.high, one.verdict) == (None, None, "")
    assert one.half_width == math.inf
    assert one.speedup == pytest.approx(TRUE, rel=0.01)


def test_only_processes_of_both_count():
    found = visits(0, 8)
    alone = Visit(job_id="network", process="99 there", latency_ms=400.0)

    assert ratio_of([*found, alone]) == ratio_of(found)
    assert ratio_of([alone, *(v for v in found if v.job_id == "baseline")]) is None


def test_networks_disturbed_in_different_processes_are_compared_in_all_of_them():
    """A slow network hardly has an undisturbed process, and its baseline has other ones."""
    found = [
        replace(v, counts=(v.job_id == "network") == (int(v.process.split()[0]) % 2 == 0))
        for v in visits(4, 10, noise=0.003)
    ]

    one = ratio_of(found)

    assert (one.low, one.high) != (None, None)
    assert one == ratio_of(visits(4, 10, noise=0.003))


def test_a_ratio_turned_round_is_the_reciprocal():
    paired = PairedVisits.of(visits(7, 9))
    one, other = paired.ratio("network", "baseline"), paired.ratio("baseline", "network")

    assert one.speedup == pytest.approx(1 / other.speedup)
    assert (one.low, one.high) == pytest.approx((1 / other.high, 1 / other.low))


def test_exactly_equal_visits_are_not_known_to_nothing():
    one = ratio_of(visits(0, 10, noise=0.0, latencies_ms={"baseline": 3.0, "network": 3.0}))

    assert one.low < 1.0 < one.high
    assert one.verdict == "equal"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.01, 1.2, "faster"), (0.9, 0.99, "slower"), (0.99, 1.02, "equal"), (None, None, "")],
)
def test_a_verdict_is_whether_the_interval_holds_one(low, high, verdict):
    assert Ratio(speedup=1.0, low=low, high=high, processes=9).verdict == verdict


def test_networks_that_nothing_tells_apart_share_a_rank():
    latencies_ms = {"slow": 9.0, "fast": 3.0, "same": 3.0, "middle": 5.0}
    found = visits(1, 12, level_sd=0.1, noise=0.005, latencies_ms=latencies_ms)

    rank = ranks(PairedVisits.of(found), without_levels(found).jobs, [*latencies_ms, "failed"])

    assert rank == {"fast": 1, "same": 1, "middle": 3, "slow": 4}


def test_a_network_between_two_shares_the_rank_of_whom_it_is_not_told_from():
    """The rank counts who is clearly faster: 4.00 from 4.04 is not, from 4.08 it is."""
    latencies_ms = {"a": 4.0, "b": 4.04, "c": 4.08}
    found = visits(4, 8, level_sd=0.1, noise=0.009, latencies_ms=latencies_ms)

    rank = ranks(PairedVisits.of(found), without_levels(found).jobs, [*latencies_ms])

    assert rank["a"] == 1
    assert rank["b"] == 1
    assert rank["c"] == 2


def test_networks_of_different_processes_are_told_apart_by_their_latencies():
    """As on a fleet, where each board of a round measures a part."""
    known = {
        name: JobLatency(latency_ms=ms, error_ms=0.05, processes=6)
        for name, ms in (("a", 4.0), ("b", 4.1), ("c", 5.0))
    }
    found = [Visit(job_id=name, process=name, latency_ms=1.0) for name in known]
    paired = PairedVisits.of(found)

    assert ranks(paired, known, ["c", "b", "a"]) == {"c": 3, "b": 1, "a": 1}
    one = speedup(paired, known, "a", "c")
    assert one == Ratio(speedup=1.25, low=None, high=None, processes=0)
    assert speedup(paired, known, "a", "unmeasured") is None
