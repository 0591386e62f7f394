from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from latency_tables.errors import CalibrationError
from latency_tables.hold_out import CONFORMAL_MINIMUM, HoldOut, HoldOutNetwork


def network(measured_ms: float, predicted_ms: float = 10.0) -> HoldOutNetwork:
    return HoldOutNetwork(
        keep_mask="10",
        padding="repad",
        measured_ms=measured_ms,
        measured_low_ms=measured_ms * 0.99,
        measured_high_ms=measured_ms * 1.01,
        predicted_ms=predicted_ms,
        plain_sum_ms=predicted_ms * 1.1,
        scaled_macs_ms=predicted_ms * 0.8,
    )


def with_residuals(percents: Sequence[float]) -> HoldOut:
    """Networks measured this many per cent above a prediction of 10 ms."""
    return HoldOut(tuple(network(10 * (1 + percent / 100)) for percent in percents))


def test_errors_are_relative_to_the_measurement() -> None:
    found = HoldOut((network(8.0), network(10.0), network(12.5)))
    errors = [25.0, 0.0, 20.0]
    assert found.mape_percent == pytest.approx(sum(errors) / 3)
    assert found.max_error_percent == pytest.approx(25)
    assert found.networks[0].error_percent == pytest.approx(25)
    assert found.networks[2].error_percent == pytest.approx(-20)


def test_shares_count_networks_within_a_bound() -> None:
    found = HoldOut(tuple(network(10 / (1 + e / 100)) for e in (1, -4.9, 5.1, 9, -11)))
    assert found.within_5_percent == pytest.approx(40)
    assert found.within_10_percent == pytest.approx(80)


def test_sum_and_macs_are_evaluated_beside() -> None:
    found = HoldOut((network(10.0), network(8.8)))
    assert found.plain_sum_mape_percent == pytest.approx((10 + 25) / 2)
    assert found.plain_sum_max_error_percent == pytest.approx(25)
    assert found.scaled_macs_mape_percent == pytest.approx((20 + 100 * (1 - 8 / 8.8)) / 2)
    assert found.scaled_macs_max_error_percent == pytest.approx(20)


def test_tau_compares_prediction_with_measurement() -> None:
    found = HoldOut((network(1.0, 1.0), network(2.0, 3.0), network(3.0, 2.0)))
    assert found.kendall_tau == pytest.approx(1 / 3)
    assert HoldOut((network(1.0, 1.0),)).kendall_tau is None


def test_few_networks_give_a_student_interval_with_the_bias_in_it() -> None:
    residuals = [1.0, 2.0, 0.5, -0.5]
    mean, sd = np.mean(residuals), np.std(residuals, ddof=1)
    expected = mean + 3.182446 * sd * math.sqrt(1 + 1 / 4)
    found = with_residuals(residuals)
    assert found.interval_percent == pytest.approx(expected)
    assert found.interval_method == "student-t"
    mirrored = with_residuals([-percent for percent in residuals])
    assert mirrored.interval_percent == pytest.approx(expected)


def test_one_network_gives_no_interval() -> None:
    assert with_residuals([1.0]).interval_percent is None
    assert with_residuals([1.0]).leave_one_out_coverage_percent is None
    assert with_residuals([1.0, 2.0]).leave_one_out_coverage_percent is None


@pytest.mark.parametrize(
    ("count", "rank"), [(19, 19), (20, 20), (38, 38), (39, 38), (40, 39), (59, 57), (99, 95)]
)
def test_many_networks_give_the_conformal_interval(count: int, rank: int) -> None:
    # Absolute residuals 0.1, 0.2, ... so the k-th smallest is k / 10; signs alternate.
    residuals = [(-1) ** k * k / 10 for k in range(1, count + 1)]
    found = with_residuals(residuals[::-1])
    assert found.interval_method == "split-conformal"
    assert found.interval_percent == pytest.approx(rank / 10)


def test_leave_one_out_coverage_counts_networks_inside_the_others_interval() -> None:
    # The outlier is far outside of what nine equal networks say; each of those is inside.
    found = with_residuals([0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, 50.0])
    assert found.leave_one_out_coverage_percent == pytest.approx(90)


@pytest.mark.parametrize("count", range(2, CONFORMAL_MINIMUM))
def test_the_quantiles_are_those_of_students_distribution(count: int) -> None:
    residuals = [1.0, *([0.0] * (count - 2)), -1.0]
    interval = with_residuals(residuals).interval_percent
    assert interval is not None
    degrees = count - 1
    quantile = interval / (np.std(residuals, ddof=1) * math.sqrt(1 + 1 / count))
    x = np.linspace(0, quantile, 200_001)
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    density = constant / math.sqrt(degrees * math.pi)
    density = density * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    assert 0.5 + np.trapezoid(density, x) == pytest.approx(0.975, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("measured_ms", 0.0), ("predicted_ms", math.nan), ("plain_sum_ms", -1.0)],
)
def test_networks_refuse_latencies_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(CalibrationError, match=f"network 10: {name} must be above 0"):
        replace(network(10.0), **{name: value})


def test_a_measurement_outside_its_interval_is_refused() -> None:
    with pytest.raises(CalibrationError, match="lies outside its interval"):
        replace(network(10.0), measured_low_ms=10.5)


def test_an_empty_hold_out_is_refused() -> None:
    with pytest.raises(CalibrationError, match="at least one network"):
        HoldOut(())
