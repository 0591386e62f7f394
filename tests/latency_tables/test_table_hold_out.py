from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from synthetic_tables import synthetic_table, without_networks

from latency_tables.errors import CalibrationError
from latency_tables.hold_out import HoldOut, HoldOutNetwork, fitted_line


def network(
    measured_ms: float, predicted_ms: float = 10.0, sd_percent: float = 1.0
) -> HoldOutNetwork:
    return HoldOutNetwork(
        keep_mask="10",
        padding="repad",
        measured_ms=measured_ms,
        measured_low_ms=measured_ms * 0.99,
        measured_high_ms=measured_ms * 1.01,
        predicted_ms=predicted_ms,
        predicted_sd_ms=predicted_ms * sd_percent / 100,
        plain_sum_ms=predicted_ms * 1.1,
        line_ms=predicted_ms * 1.05,
        scaled_macs_ms=predicted_ms * 0.8,
    )


def with_scores(scores: Sequence[float]) -> HoldOut:
    """Networks of 10 ms whose errors are so many standard deviations of the prediction alone."""
    exact = {"measured_low_ms": 10.0, "measured_high_ms": 10.0}
    return HoldOut(
        tuple(replace(network(10.0, 10 + 0.1 * s), **exact, predicted_sd_ms=0.1) for s in scores)
    )


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
    assert found.line_mape_percent == pytest.approx((5 + 100 * (10.5 / 8.8 - 1)) / 2)
    assert found.line_max_error_percent == pytest.approx(100 * (10.5 / 8.8 - 1))
    bare = HoldOut(tuple(replace(each, line_ms=None) for each in found.networks))
    assert (bare.line_mape_percent, bare.line_max_error_percent) == (None, None)


def test_tau_compares_prediction_with_measurement() -> None:
    found = HoldOut((network(1.0, 1.0), network(2.0, 3.0), network(3.0, 2.0)))
    assert found.kendall_tau == pytest.approx(1 / 3)
    assert HoldOut((network(1.0, 1.0),)).kendall_tau is None


def test_a_network_counts_as_covered_by_its_interval_and_the_predictions_together() -> None:
    # Standard deviations of 1 % of the prediction and 1 / 1.96 % of the measurement.
    together = 1.959964 * math.hypot(1.0, 1 / 1.959964)
    inside, outside = (network(10.0, 10 * (1 + share * together / 100)) for share in (0.98, 1.05))
    assert HoldOut((inside, outside)).coverage_percent == 50
    assert inside.score < 1.959964 < outside.score


def test_what_measuring_itself_contributes_is_the_mean_error_of_a_perfect_prediction() -> None:
    found = HoldOut((network(10.0), network(20.0)))
    draws = np.random.default_rng(0).normal(0, 1 / 1.959964, 200_000)
    assert found.measuring_percent == pytest.approx(np.abs(draws).mean(), rel=0.01)


@pytest.mark.parametrize(
    ("inside", "outside", "method"),
    [
        (7, 0, "posterior"),
        (0, 7, "posterior"),
        (8, 0, "posterior"),
        (6, 2, "posterior"),
        (5, 3, "conformal"),
        (17, 3, "posterior"),
        (16, 4, "conformal"),
    ],
)
def test_the_posterior_interval_stands_until_its_coverage_is_improbable(
    inside: int, outside: int, method: str
) -> None:
    found = with_scores([0.5] * inside + [3.0] * outside)
    assert found.interval_method == method
    assert found.interval_factor == pytest.approx(3 / 1.959964 if method == "conformal" else 1)
    assert found.interval_percent == pytest.approx(1.959964 * found.interval_factor, rel=0.04)


@pytest.mark.parametrize(("count", "rank"), [(8, 8), (19, 19), (20, 20), (39, 38), (59, 57)])
def test_the_conformal_interval_is_the_rank_of_the_scores(count: int, rank: int) -> None:
    # Scores 2.1, 2.2, ... so the k-th smallest is 2 + k / 10; signs alternate.
    found = with_scores([(-1) ** k * (2 + k / 10) for k in range(count, 0, -1)])
    assert found.interval_method == "conformal"
    assert found.interval_factor * 1.959964 == pytest.approx(2 + rank / 10)


def test_a_line_through_sums_has_the_least_relative_squares() -> None:
    rng = np.random.default_rng(1)
    sums = rng.uniform(5, 20, 12)
    measured = 0.9 * sums + 1.5 + rng.normal(0, 0.1, 12)
    slope, intercept = np.polyfit(sums, measured, 1, w=1 / measured)
    assert fitted_line(sums.tolist(), measured.tolist()) == pytest.approx((slope, intercept))
    assert fitted_line([4.0], [5.0]) == pytest.approx((1.0, 1.0))
    assert fitted_line([4.0, 4.0], [5.0, 5.0]) == pytest.approx((1.0, 1.0))


def test_a_table_derives_its_hold_out_from_its_networks() -> None:
    made = synthetic_table([1.0, 2.0], [0.5, 1.5], slope=0.9, hold_out_errors_percent=[1.0, -3.0])
    found = made.hold_out
    assert found is not None
    assert [each.error_percent for each in found.networks] == pytest.approx([1.0, -3.0])
    assert found.mape_percent == pytest.approx(2.0)
    first = found.networks[0]
    assert first.plain_sum_ms == made.sum_ms(first.keep_mask)
    assert first.line_ms == pytest.approx(first.predicted_ms, rel=1e-5)
    assert without_networks(made, role="check").hold_out is None
    assert without_networks(made).hold_out is None


def test_an_empty_hold_out_is_refused() -> None:
    with pytest.raises(CalibrationError, match="at least one network"):
        HoldOut(())
