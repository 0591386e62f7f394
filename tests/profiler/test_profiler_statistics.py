import random

import numpy as np
import pytest

from profiler.errors import MeasurementError
from profiler.statistics import (
    latency_interval,
    median,
    quantile,
    round_interval,
    spread_percent,
)


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


def test_the_interval_of_three_rounds_is_their_range() -> None:
    assert round_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_three_more_rounds_outvote_a_disturbed_one() -> None:
    low, high = round_interval([1.0, 9.0, 1.01, 1.02, 1.03, 1.04])
    assert (low, high) == (1.01, 1.04)


@pytest.mark.parametrize("rounds", [3, 4, 5, 6, 9])
def test_the_interval_between_rounds_holds_the_median_as_often_as_promised(rounds: int) -> None:
    rng = random.Random(rounds)
    hits = 0
    for _ in range(4000):
        low, high = round_interval([rng.lognormvariate(0.0, 0.5) for _ in range(rounds)])
        hits += low <= 1.0 <= high
    assert hits / 4000 >= 0.75 - 0.02


def test_the_interval_covers_what_rounds_disagree_about_and_the_spread_within() -> None:
    rng = random.Random(1)
    quiet = [[base + rng.uniform(-0.001, 0.001) for _ in range(50)] for base in (1.0, 1.1, 1.2)]
    low, high = latency_interval(quiet)
    assert low <= median(quiet[0]) < median(quiet[2]) <= high
    wide = [[0.0, 0.0, 5.0, 10.0, 10.0]] * 3
    assert latency_interval(wide) == (0.0, 10.0)


def test_the_spread_is_the_range_in_percent_of_the_median() -> None:
    assert spread_percent([9.0, 10.0, 12.0]) == pytest.approx(30.0)
