import math
import random
from fractions import Fraction

import numpy as np
import pytest

from devices.agent.timing import median_interval
from latency_tables.schema import STATISTICS
from profiler.errors import MeasurementError
from profiler.statistics import (
    LEAST_ROUNDS,
    latency,
    latency_interval,
    median,
    quantile,
    quantile_interval,
    spread_percent,
)

QUIET, MEDIAN = STATISTICS["quiet"], STATISTICS["median"]
SHARES = [0.05, 0.25, 0.5]
MISS = Fraction(25, 1000)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_quantiles_equal_those_of_numpy(count: int, share: float) -> None:
    values = [random.Random(count).expovariate(1.0) for _ in range(count)]
    assert quantile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-12)


def test_a_quantile_of_nothing_or_outside_of_the_data_is_refused() -> None:
    with pytest.raises(MeasurementError, match="no values"):
        median([])
    with pytest.raises(MeasurementError, match="between 0 and 1"):
        quantile([1.0], 1.5)


def at_most(count: int, hits: int, share: Fraction) -> Fraction:
    """Exact chance that at most so many of ``count`` samples lie below the quantile."""
    return sum(
        (math.comb(count, n) * share**n * (1 - share) ** (count - n) for n in range(hits + 1)),
        Fraction(0),
    )


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("count", [2, 5, 6, 10, 20, 72, 73, 100, 151])
def test_each_end_of_a_quantile_s_interval_is_the_narrowest_that_rarely_misses(
    count: int, share: float
) -> None:
    low, high = (int(end) for end in quantile_interval([float(n) for n in range(count)], share))
    exact = Fraction(share).limit_denominator(100)
    # Sample number k lies above the quantile where at most k samples lie below it.
    assert low == 0 or at_most(count, low, exact) <= MISS
    assert at_most(count, low + 1, exact) > MISS
    assert high == count - 1 or 1 - at_most(count, high, exact) <= MISS
    assert high == 0 or 1 - at_most(count, high - 1, exact) > MISS


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 10, 31, 100, 999])
def test_the_interval_of_the_median_is_that_of_the_agent(count: int) -> None:
    values = sorted(random.Random(count).random() for _ in range(count))
    assert quantile_interval(values, 0.5) == median_interval(values)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("count", [80, 300])
def test_the_interval_holds_the_quantile_as_often_as_promised(count: int, share: float) -> None:
    rng = np.random.default_rng(count)
    trials = 4000
    # The quantile of an exponential is known; its samples are skewed as latencies are.
    truth = -math.log(1.0 - share)
    above = below = 0
    for samples in np.sort(rng.exponential(size=(trials, count)), axis=1).tolist():
        low, high = quantile_interval(samples, share)
        above += low > truth
        below += high < truth
    chance = 3 * math.sqrt(0.025 * 0.975 / trials)
    assert above / trials <= 0.025 + chance
    assert below / trials <= 0.025 + chance


def test_an_interval_of_thousands_of_samples_does_not_leave_the_floats() -> None:
    low, high = quantile_interval([float(n) for n in range(20_000)], 0.25)
    half_width = 1.959964 * math.sqrt(20_000 * 0.25 * 0.75)
    assert (low + high) / 2 == pytest.approx(5000, abs=2)
    assert (high - low) / 2 == pytest.approx(half_width, abs=2)


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(MeasurementError, match="no samples"):
        quantile_interval([], 0.5)


def test_the_latency_is_a_quantile_over_rounds_of_a_quantile_within() -> None:
    rng = random.Random(5)
    rounds = [[rng.lognormvariate(0.0, 0.3) for _ in range(count)] for count in (20, 30, 41, 17)]
    for within, across in (QUIET, MEDIAN):
        expected = np.quantile([np.quantile(samples, within) for samples in rounds], across)
        assert latency(rounds, (within, across)) == pytest.approx(expected, rel=1e-12)


def test_the_statistics_are_the_ones_that_the_documents_name() -> None:
    assert STATISTICS == {"quiet": (0.25, 0.5), "median": (0.5, 0.5)}


def around(*centres: float, count: int = 100, width: float = 0.0005) -> list[list[float]]:
    """Rounds of evenly spread samples, ``width`` to either side of their centre."""
    steps = np.linspace(-width, width, count)
    return [(centre * (1.0 + steps)).tolist() for centre in centres]


def test_the_interval_of_the_median_covers_every_round() -> None:
    rounds = around(1.0, 1.1, 1.2, 9.0)
    low, high = latency_interval(rounds, MEDIAN)
    assert low <= 1.0 + 1e-9
    assert high >= 9.0 - 1e-9


def test_few_rounds_span_the_interval() -> None:
    for rounds in (around(1.0, 1.3), around(1.0, 1.3, 1.3), around(1.0, 1.3, 1.3, 1.0, 1.1)):
        low, high = latency_interval(rounds, QUIET)
        assert low <= 1.0 and high >= 1.29


def test_one_round_has_the_interval_of_its_samples() -> None:
    (only,) = around(1.0)
    assert latency_interval([only], QUIET) == quantile_interval(sorted(only), QUIET[0])


def test_of_many_rounds_those_far_off_are_left_out() -> None:
    low, high = latency_interval(around(*[1.0] * 8, 9.0), QUIET)
    assert high - low < 0.01


@pytest.mark.parametrize("shares", [QUIET, MEDIAN])
@pytest.mark.parametrize("count", [LEAST_ROUNDS, 9, 25])
def test_the_interval_of_rounds_that_differ_holds_the_latency_of_all_of_them(
    count: int, shares: tuple[float, float]
) -> None:
    # Processes differ by 1.2 %, the samples of one by 0.4 %; a quarter is slower by up to 25 %.
    rng = np.random.default_rng(count)

    def draw(rounds: int) -> list[list[float]]:
        centres = np.exp(rng.normal(0.0, 0.012, size=(rounds, 1)))
        within = 1.0 + np.abs(rng.normal(0.0, 0.004, size=(rounds, 6)))
        slower = 1.0 + 0.25 * rng.random((rounds, 6)) * (rng.random((rounds, 6)) < 0.25)
        found: list[list[float]] = (centres * within * slower).tolist()
        return found

    truth = latency(draw(20_000), shares)
    trials = 1000
    intervals = [latency_interval(draw(count), shares) for _ in range(trials)]
    hits = sum(low <= truth <= high for low, high in intervals)
    assert hits / trials >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / trials)


def test_the_interval_of_few_samples_covers_the_spread_within() -> None:
    wide = [[0.0, 0.0, 5.0, 10.0, 10.0]] * 3
    assert latency_interval(wide, MEDIAN) == (0.0, 10.0)


@pytest.mark.parametrize("shares", [QUIET, MEDIAN])
@pytest.mark.parametrize("seed", range(20))
def test_the_interval_holds_its_latency(seed: int, shares: tuple[float, float]) -> None:
    rng = random.Random(seed)
    rounds = [
        [rng.lognormvariate(rng.choice((0.0, 0.3)), 0.05) for _ in range(rng.randint(1, 40))]
        for _ in range(rng.randint(1, 9))
    ]
    low, high = latency_interval(rounds, shares)
    assert low <= latency(rounds, shares) <= high


@pytest.mark.parametrize("shares", [QUIET, MEDIAN])
def test_the_interval_of_rounds_that_agree_holds_what_the_latency_centres_on(
    shares: tuple[float, float],
) -> None:
    rng = np.random.default_rng(1)
    trials = rng.uniform(1.0, 1.01, size=(1000, 4, 60)).tolist()
    truth = float(np.median([latency(rounds, shares) for rounds in trials]))
    intervals = [latency_interval(rounds, shares) for rounds in trials]
    hits = sum(low <= truth <= high for low, high in intervals)
    assert hits / 1000 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 1000)
    # Not by being wide: a uniform density, so the order statistics' own width is known.
    within = shares[0]
    usual = 2 * 1.96 * 0.01 * math.sqrt(within * (1 - within) / 120)
    assert np.median([high - low for low, high in intervals]) < 1.5 * usual


def test_the_spread_is_the_range_in_percent_of_the_median() -> None:
    assert spread_percent([9.0, 10.0, 12.0]) == pytest.approx(30.0)
