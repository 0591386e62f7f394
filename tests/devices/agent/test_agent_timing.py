from __future__ import annotations

import gc
import itertools
import math
import random
from fractions import Fraction

import pytest

from devices.agent.protocol import Rule
from devices.agent.timing import (
    CAP_STRETCH,
    Sample,
    SystemClocks,
    measure,
    median,
    median_interval,
    sample,
    undisturbed,
    warm_up,
)

RULE = Rule(
    warmup_s=0.2,
    warmup_cap_s=2.0,
    warmup_tolerance=0.01,
    window_s=0.05,
    sample_s=0.001,
    min_samples=15,
    min_total_s=0.15,
    half_width=0.01,
    cap_s=15.0,
)


class FakeMachine(SystemClocks):
    """A machine whose runs take what a script says; the clocks move only while something runs."""

    def __init__(self, times_ns, *, counts_cpu=True, others_ns=None, switches=None):
        self._times_ns = iter(times_ns)
        self._others_ns = iter(others_ns or itertools.repeat(0))
        self._switched = iter(switches or itertools.repeat(0))
        self._wall = self._cpu = self._switches = 0
        self.counts_cpu = counts_cpu
        self.calls = []
        self.gc_while_running = []
        self.placed = []

    def settle(self):
        self.placed.append("settle")

    def release(self):
        self.placed.append("release")

    def run(self, times):
        self.calls.append(times)
        self.gc_while_running.append(gc.isenabled())
        for _ in range(times):
            own, other = next(self._times_ns), next(self._others_ns)
            self._wall += own + other
            self._cpu += own
        self._switches += next(self._switched)

    def wall_ns(self):
        return self._wall

    def cpu_ns(self):
        return self._cpu

    def switches(self):
        return self._switches


def coverage_of_the_median(count: int, rank: int) -> Fraction:
    """Exact chance that the order statistics at ``rank`` from both ends enclose the median.

    Counted over all ways in which ``count`` samples can fall below or above the median.
    """
    inside = sum(
        rank < sum(below) < count - rank for below in itertools.product((0, 1), repeat=count)
    )
    return Fraction(inside, 2**count)


@pytest.mark.parametrize("count", range(6, 17))
def test_the_interval_is_the_narrowest_pair_that_covers_the_median(count: int) -> None:
    low, high = median_interval(list(range(count)))
    assert low + high == count - 1
    assert coverage_of_the_median(count, int(low)) >= Fraction(95, 100)
    assert coverage_of_the_median(count, int(low) + 1) < Fraction(95, 100)


@pytest.mark.parametrize("count", range(1, 6))
def test_with_too_few_samples_the_interval_is_their_range(count: int) -> None:
    assert median_interval(list(range(count))) == (0, count - 1)


def test_the_interval_follows_the_confidence() -> None:
    samples = list(range(30))
    widths = [high - low for low, high in (median_interval(samples, c) for c in (0.5, 0.95, 0.99))]
    assert widths == sorted(widths) and len(set(widths)) == 3


def test_the_interval_of_many_samples_agrees_with_the_normal_approximation() -> None:
    count = 20_000
    low, high = median_interval(range(count))
    expected = 1.959964 * count**0.5 / 2
    assert (high - low) / 2 == pytest.approx(expected, abs=1.5)


def test_the_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])


@pytest.mark.parametrize(("ordered", "middle"), [([3], 3), ([1, 2], 1.5), ([1, 5, 9], 5)])
def test_the_median_is_the_middle_one_or_between_the_two(ordered, middle) -> None:
    assert median(ordered) == middle


def test_warm_up_lasts_its_time_even_when_the_latency_is_steady_at_once() -> None:
    machine = FakeMachine(itertools.repeat(1_000_000))
    assert warm_up(machine.run, RULE, machine) == (pytest.approx(0.2), 1_000_000)
    assert set(machine.calls) == {1}


def test_warm_up_goes_on_until_three_windows_agree() -> None:
    cooling = itertools.chain(range(3_000_000, 1_000_000, -5_000), itertools.repeat(1_000_000))
    machine = FakeMachine(cooling)
    seconds, run_ns = warm_up(machine.run, RULE, machine)
    assert run_ns == 1_000_000
    assert 0.8 < seconds < 1.2


def test_warm_up_that_never_settles_ends_at_its_cap() -> None:
    machine = FakeMachine(itertools.count(1_000_000, 20_000))
    seconds, _ = warm_up(machine.run, RULE, machine)
    assert 2.0 <= seconds < 2.1


def test_a_warm_up_has_two_windows_however_long_a_run_takes() -> None:
    cold_first = itertools.chain([9_000_000_000], itertools.repeat(3_000_000_000))
    machine = FakeMachine(cold_first)
    assert warm_up(machine.run, RULE, machine) == (pytest.approx(12.0), 3_000_000_000)
    assert machine.calls == [1, 1]


def test_a_sample_holds_as_many_runs_as_last_the_asked_time() -> None:
    machine = FakeMachine(itertools.repeat(30_000))
    timing = measure(machine.run, RULE, machine)
    assert timing.runs_per_sample == 34  # 34 * 30 us is the first above 1 ms
    assert set(timing.wall_ns) == set(timing.cpu_ns) == {30_000}


def test_a_run_longer_than_a_sample_is_one_sample() -> None:
    machine = FakeMachine(itertools.repeat(40_000_000))
    assert measure(machine.run, RULE, machine).runs_per_sample == 1


def test_steady_latency_stops_at_the_least_samples_that_also_last_long_enough() -> None:
    slow = FakeMachine(itertools.repeat(40_000_000))
    timing = measure(slow.run, RULE, slow)
    assert (timing.stopped, len(timing.wall_ns)) == ("interval", RULE.min_samples)
    quick = FakeMachine(itertools.repeat(1_000_000))
    timing = measure(quick.run, RULE, quick)
    assert timing.stopped == "interval"
    assert 0.15 <= sum(timing.wall_ns) / 1e9 < 0.15 * 1.15


def test_noise_that_more_samples_can_beat_is_sampled_until_the_interval_is_narrow() -> None:
    rng = random.Random(1)
    machine = FakeMachine(rng.randint(1_800_000, 2_200_000) for _ in itertools.count())
    timing = measure(machine.run, RULE, machine)
    low, high = median_interval(sorted(timing.cpu_ns))
    assert timing.stopped == "interval"
    assert (high - low) / 2 <= 0.01 * 2_000_000 * 1.1
    assert len(timing.cpu_ns) > 200


def test_known_noise_that_the_time_left_cannot_beat_stops_early_as_stable() -> None:
    rng = random.Random(1)
    machine = FakeMachine(rng.choice((60_000_000, 140_000_000)) for _ in itertools.count())
    timing = measure(machine.run, RULE, machine)
    assert timing.stopped == "stable"
    assert sum(timing.wall_ns) / 1e9 < 15.0


def test_a_latency_that_keeps_changing_is_given_up_at_the_cap() -> None:
    machine = FakeMachine(int(1_000_000 * 1.01**n) for n in itertools.count())
    timing = measure(machine.run, RULE._replace(cap_s=3.0), machine)
    assert timing.stopped == "cap"


def test_the_fewest_samples_may_take_longer_than_the_cap_but_not_for_ever() -> None:
    machine = FakeMachine(itertools.repeat(2_000_000_000))
    timing = measure(machine.run, RULE, machine)
    assert (timing.stopped, len(timing.wall_ns)) == ("interval", RULE.min_samples)
    slow = FakeMachine(itertools.repeat(40_000_000_000))
    timing = measure(slow.run, RULE, slow)
    assert timing.stopped == "cap"
    assert len(timing.wall_ns) == math.ceil(CAP_STRETCH * RULE.cap_s / 40) < RULE.min_samples
    slowest = FakeMachine(itertools.repeat(900_000_000_000))
    assert measure(slowest.run, RULE, slowest).wall_ns == [900_000_000_000]


def test_cpu_time_decides_with_one_thread_and_wall_time_with_more() -> None:
    rng = random.Random(2)

    def machine(counts_cpu: bool) -> FakeMachine:
        others = (rng.randint(0, 50_000_000) for _ in itertools.count())
        return FakeMachine(itertools.repeat(40_000_000), counts_cpu=counts_cpu, others_ns=others)

    alone = machine(counts_cpu=True)
    timing = measure(alone.run, RULE, alone)
    assert (timing.stopped, len(timing.cpu_ns)) == ("interval", RULE.min_samples)
    assert len(set(timing.wall_ns)) > 1
    several = machine(counts_cpu=False)
    timing = measure(several.run, RULE, several)
    assert timing.cpu_ns is None
    assert len(timing.wall_ns) > RULE.min_samples


def test_samples_in_which_the_core_was_taken_away_are_dropped() -> None:
    # Every third call is disturbed and takes twice as long.
    times = itertools.cycle((40_000_000, 40_000_000, 80_000_000))
    machine = FakeMachine(times, switches=itertools.cycle((0, 0, 1)))
    samples, stopped = sample(machine.run, 1, RULE, machine)
    assert stopped == "interval"
    assert len(undisturbed(samples)) == RULE.min_samples
    assert {one.cpu_ns for one in undisturbed(samples)} == {40_000_000}
    timing = measure(machine.run, RULE, machine)
    assert timing.dropped == timing.disturbed > 0
    assert len(timing.wall_ns) == len(timing.cpu_ns) == RULE.min_samples


def test_a_core_that_is_taken_away_in_every_sample_spoils_no_count_but_shows() -> None:
    machine = FakeMachine(itertools.repeat(40_000_000), switches=itertools.repeat(1))
    timing = measure(machine.run, RULE._replace(cap_s=2.0), machine)
    assert timing.stopped == "cap"
    assert timing.dropped == 0
    assert timing.disturbed == len(timing.cpu_ns) > 0


def test_a_few_undisturbed_samples_are_used_alone_and_fewer_than_that_are_not() -> None:
    clean, busy = Sample(1, 1, False), Sample(2, 2, True)
    assert undisturbed([busy] * 97 + [clean] * 3) == [clean] * 3
    assert undisturbed([busy] * 98 + [clean] * 2) == [busy] * 98 + [clean] * 2


def test_the_clocks_settle_before_the_warm_up_and_are_released_at_the_end() -> None:
    machine = FakeMachine(itertools.repeat(1_000_000))
    measure(machine.run, RULE, machine)
    assert machine.placed == ["settle", "release"]
    failing = FakeMachine([1_000_000] * 5)
    with pytest.raises(StopIteration):
        measure(failing.run, RULE, failing)
    assert failing.placed == ["settle", "release"]


def test_the_garbage_collector_rests_while_the_clock_runs_and_wakes_after_an_error() -> None:
    machine = FakeMachine([40_000_000] * 20)  # then StopIteration
    assert gc.isenabled()
    with pytest.raises(StopIteration):
        measure(machine.run, RULE._replace(cap_s=900.0, min_samples=50), machine)
    assert machine.gc_while_running and not any(machine.gc_while_running)
    assert gc.isenabled()


def test_the_clocks_of_this_machine_move_forward_and_count_cpu_for_one_thread_only() -> None:
    one, two = SystemClocks(threads=1), SystemClocks(threads=2)
    wall, cpu = one.wall_ns(), one.cpu_ns()
    sum(range(20_000))
    assert one.wall_ns() > wall
    assert one.cpu_ns() > cpu or not one.counts_cpu
    assert not two.counts_cpu
    assert (two.cpu_ns(), two.switches()) == (0, 0)
