from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from latency_tables.calibration import Calibration, CalibrationNetwork
from latency_tables.errors import CalibrationError, MaskError
from latency_tables.records import convert_record, plain

Point = tuple[float, float, str]
PLAIN, MAP = "repad", "bias_map"


def fitted(base: tuple[float, float], *others: Point) -> Calibration:
    """``base`` and the others are (sum, measured), the others also a padding."""
    points = [("1" * 8, *base, PLAIN)]
    points += [(f"{number:08b}", *point) for number, point in enumerate(others)]
    return Calibration(
        networks=tuple(
            CalibrationNetwork(keep_mask=mask, padding=padding, measured_ms=ms, sum_ms=total)
            for mask, total, ms, padding in points
        )
    )


def noisy(seed: int, *paddings: str) -> tuple[tuple[float, float], list[Point]]:
    """Eleven networks a form, scattered around the form's own line."""
    rng = random.Random(seed)
    points = [
        (total, (20.3 + slope * (total - 20.0)) * rng.uniform(0.97, 1.03), padding)
        for padding, slope in ((PLAIN, 0.94), (MAP, 1.04))
        for total in (rng.uniform(5.0, 19.0) for _ in range(11))
        if padding in paddings
    ]
    return (20.0, 20.3 * rng.uniform(0.97, 1.03)), points


def test_two_slopes_and_the_intercept_of_exact_networks_are_found() -> None:
    calibration = fitted(
        (20.0, 21.0),
        (10.0, 21.0 - 0.9 * 10, PLAIN),
        (15.0, 21.0 - 0.9 * 5, "interior"),
        (12.0, 21.0 - 1.2 * 8, MAP),
        (19.0, 21.0 - 1.2 * 1, MAP),
    )
    assert calibration.intercept_ms == pytest.approx(21.0)
    assert calibration.slopes == pytest.approx({False: 0.9, True: 1.2})
    assert (calibration.base_ms, calibration.base_sum_ms) == (21.0, 20.0)
    assert calibration.predict_ms(14.0, PLAIN) == pytest.approx(21.0 - 0.9 * 6)
    assert calibration.predict_ms(14.0, "interior") == pytest.approx(21.0 - 0.9 * 6)
    assert calibration.predict_ms(14.0, MAP) == pytest.approx(21.0 - 1.2 * 6)


@pytest.mark.parametrize("padding", [PLAIN, MAP])
@pytest.mark.parametrize("seed", range(5))
def test_one_form_is_the_weighted_line_of_numpy(seed: int, padding: str) -> None:
    base, others = noisy(seed, padding)
    sums = np.array([base[0], *(total for total, _, _ in others)])
    measured = np.array([base[1], *(ms for _, ms, _ in others)])
    slope, constant = np.polyfit(sums, measured, 1, w=1.0 / measured)
    calibration = fitted(base, *others)
    assert calibration.slopes == pytest.approx({False: slope, True: slope})
    assert calibration.intercept_ms == pytest.approx(constant + slope * base[0])
    for total in (4.0, 11.0, 20.0):
        assert calibration.predict_ms(total, padding) == pytest.approx(constant + slope * total)


@pytest.mark.parametrize("seed", range(5))
def test_two_forms_solve_the_normal_equations_of_relative_residuals(seed: int) -> None:
    base, others = noisy(seed, PLAIN, MAP)
    points = [(*base, PLAIN), *others]
    matrix = np.zeros((3, 3))
    right = np.zeros(3)
    for total, measured, padding in points:
        change = total - base[0]
        row = np.array([1.0, change * (padding != MAP), change * (padding == MAP)]) / measured
        matrix += np.outer(row, row)
        right += row
    intercept, plain, with_map = np.linalg.solve(matrix, right)
    calibration = fitted(base, *others)
    assert calibration.intercept_ms == pytest.approx(intercept)
    assert calibration.slopes == pytest.approx({False: plain, True: with_map})
    assert plain != pytest.approx(with_map, rel=0.02)


def test_the_fit_is_the_best_there_is_in_relative_terms() -> None:
    base, others = noisy(7, PLAIN, MAP)
    calibration = fitted(base, *others)

    def loss(intercept: float, plain: float, with_map: float) -> float:
        slopes = {PLAIN: plain, MAP: with_map}
        return sum(
            ((intercept + slopes[padding] * (total - base[0])) / measured - 1.0) ** 2
            for total, measured, padding in [(*base, PLAIN), *others]
        )

    best = (calibration.intercept_ms, calibration.slopes[False], calibration.slopes[True])
    for place in range(3):
        for change in (0.999, 1.001):
            moved = [value * (change if place == n else 1.0) for n, value in enumerate(best)]
            assert loss(*moved) > loss(*best)


@pytest.mark.parametrize(("shown", "other"), [(PLAIN, MAP), (MAP, PLAIN)])
def test_a_form_that_no_network_showed_takes_the_slope_of_the_other(shown: str, other: str) -> None:
    calibration = fitted((20.0, 21.0), (10.0, 21.0 - 0.93 * 10, shown))
    assert calibration.slopes == pytest.approx({False: 0.93, True: 0.93})
    assert calibration.predict_ms(15.0, other) == pytest.approx(21.0 - 0.93 * 5)


def test_where_no_block_can_merge_the_slope_is_one() -> None:
    calibration = fitted((10.0, 11.0))
    assert calibration.slopes == {False: 1.0, True: 1.0}
    assert calibration.intercept_ms == pytest.approx(11.0)
    assert calibration.predict_ms(9.0, MAP) == pytest.approx(10.0)
    assert calibration.warning == ""


def test_a_network_whose_sum_is_that_of_the_original_says_nothing_about_slopes() -> None:
    calibration = fitted((10.0, 11.0), (10.0, 12.0, MAP))
    assert calibration.slopes == {False: 1.0, True: 1.0}
    # The least relative residuals: sum(1 / m) / sum(1 / m ** 2).
    expected = (1 / 11 + 1 / 12) / (1 / 121 + 1 / 144)
    assert calibration.intercept_ms == pytest.approx(expected)
    assert calibration.base_ms == 11.0


@pytest.mark.parametrize("padding", [PLAIN, MAP])
@pytest.mark.parametrize("measured_ms", [12.0, 11.0])
def test_networks_that_contradict_their_pieces_are_refused(
    padding: str, measured_ms: float
) -> None:
    # The sum falls from 10 to 6 ms, and the network does not.
    other = MAP if padding == PLAIN else PLAIN
    with pytest.raises(CalibrationError, match="contradict each other"):
        fitted((10.0, 11.0), (6.0, measured_ms, padding), (6.0, 6.8, other))


def test_without_the_original_there_is_no_calibration() -> None:
    merged = fitted((10.0, 11.0), (6.0, 6.8, PLAIN)).networks[1:]
    for networks in ((), merged):
        with pytest.raises(CalibrationError, match="needs the original network"):
            Calibration(networks=networks)


@pytest.mark.parametrize("name", ["measured_ms", "sum_ms"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_network_without_latency_is_refused(name: str, value: float) -> None:
    values: dict[str, Any] = {"measured_ms": 1.0, "sum_ms": 1.0, name: value}
    with pytest.raises(CalibrationError, match=f"network 10: {name} must be above 0"):
        CalibrationNetwork(keep_mask="10", padding=PLAIN, **values)


def test_a_network_of_an_unknown_padding_is_refused() -> None:
    with pytest.raises(MaskError, match="unknown padding 'same'"):
        CalibrationNetwork(keep_mask="10", padding="same", measured_ms=1.0, sum_ms=1.0)


@pytest.mark.parametrize(
    ("plain", "with_map", "named"),
    [(1.05, 0.95, ""), (1.2, 1.0, "1.200"), (1.0, 0.8, "0.800"), (1.2, 0.8, "1.200, 0.800")],
)
def test_a_slope_far_from_one_is_a_warning_that_names_it(
    plain: float, with_map: float, named: str
) -> None:
    calibration = fitted(
        (20.0, 21.0), (10.0, 21.0 - plain * 10, PLAIN), (10.0, 21.0 - with_map * 10, MAP)
    )
    assert (f"slope is {named}, outside" in calibration.warning) == bool(named)
    assert bool(calibration.warning) == bool(named)


def read_calibration(data: Any) -> Calibration:
    return convert_record(data, Calibration, where="here", error=CalibrationError, fix="edit it")


def test_json_holds_the_networks_and_the_line_is_derived_again() -> None:
    base, others = noisy(3, PLAIN, MAP)
    calibration = fitted(base, *others)
    data = plain(calibration)
    assert data["method"] == "least-squares"
    assert data["slope"] == calibration.slopes[False] != data["slope_bias_map"]
    flattered = data | {"slope": 1.0, "slope_bias_map": 1.0, "intercept_ms": 1.0}
    for document in (data, flattered):
        found = read_calibration(document)
        assert found == calibration
        assert found.slopes == calibration.slopes


def test_an_unknown_method_is_refused() -> None:
    data = plain(fitted((10.0, 11.0))) | {"method": "spline"}
    with pytest.raises(CalibrationError, match='must be "least-squares", got "spline"'):
        read_calibration(data)
