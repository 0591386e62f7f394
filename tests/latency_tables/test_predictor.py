from __future__ import annotations

import math
from dataclasses import replace

import pytest
from synthetic_tables import synthetic_row, synthetic_table

from latency_tables.calibration import Calibration, CalibrationNetwork
from latency_tables.errors import CalibrationError, MaskError
from latency_tables.hold_out import HoldOut, HoldOutNetwork
from latency_tables.predictor import predict
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable


def line(base_ms: float, base_sum_ms: float, merged_ms: float, merged_sum_ms: float) -> Calibration:
    """The calibration through the original and the all-merged network of two blocks."""
    points = (("11", base_ms, base_sum_ms), ("00", merged_ms, merged_sum_ms))
    return Calibration(
        networks=tuple(
            CalibrationNetwork(keep_mask=mask, padding="bias_map", measured_ms=ms, sum_ms=sum_ms)
            for mask, ms, sum_ms in points
        )
    )


def hand_made() -> LatencyTable:
    """Two blocks: rows add up to 10 ms, all merged to 6 ms; measured 11 and 6.8 ms."""
    rows = (
        synthetic_row("stem", latency_ms=1.0, macs=100),
        synthetic_row("original", 0, latency_ms=3.0, macs=300),
        synthetic_row("merged", 0, latency_ms=1.0, macs=500),
        synthetic_row("original", 1, latency_ms=4.0, macs=400),
        synthetic_row("merged", 1, latency_ms=2.0, macs=900),
        synthetic_row("head", latency_ms=2.0, macs=200),
    )
    network = HoldOutNetwork(
        keep_mask="10",
        padding="bias_map",
        measured_ms=9.0,
        measured_low_ms=8.9,
        measured_high_ms=9.1,
        predicted_ms=8.9,
        plain_sum_ms=8.0,
        scaled_macs_ms=16.5,
    )
    other = replace(network, keep_mask="01", measured_ms=8.95)
    return LatencyTable(
        model="tiny",
        resolution=(32, 32),
        in_channels=3,
        block_names=("a", "b"),
        rows=rows,
        conditions=Conditions(device="d", runtime="r", runtime_version="1", batch=4),
        calibration=line(11, 10, 6.8, 6),
        hold_out=HoldOut((network, other)),
    )


def test_the_prediction_is_what_a_hand_computes() -> None:
    found = predict(hand_made(), "10")
    # slope (11 - 6.8) / (10 - 6) = 1.05; 11 + 1.05 * (8 - 10) = 8.9
    assert found.latency_ms == pytest.approx(8.9)
    assert found.plain_sum_ms == pytest.approx(1 + 3 + 2 + 2)
    assert found.scaled_macs_ms == pytest.approx(11 * (100 + 300 + 900 + 200) / 1000)
    assert found.throughput_fps == pytest.approx(4 / 0.0089)
    assert found.calibrated
    # Residuals in per cent: 100 * 0.1 / 8.9 and 100 * 0.05 / 8.9; t(0.975, 1) = 12.7062.
    first, second = 10 / 8.9, 5 / 8.9
    spread = 12.706205 * (first - second) / math.sqrt(2) * math.sqrt(1.5)
    margin_ms = 8.9 * ((first + second) / 2 + spread) / 100
    assert found.low_ms == pytest.approx(8.9 - margin_ms)
    assert found.high_ms == pytest.approx(8.9 + margin_ms)


def test_the_two_calibrated_networks_are_predicted_exactly() -> None:
    assert predict(hand_made(), "11").latency_ms == pytest.approx(11)
    assert predict(hand_made(), "00").latency_ms == pytest.approx(6.8)
    assert predict(hand_made(), "11").scaled_macs_ms == pytest.approx(11)


def test_without_calibration_the_prediction_is_the_plain_sum_without_interval() -> None:
    found = predict(replace(hand_made(), calibration=None), "10")
    assert found.latency_ms == pytest.approx(8)
    assert (found.low_ms, found.high_ms, found.calibrated) == (None, None, False)
    assert found.scaled_macs_ms == pytest.approx(10 * 1500 / 1000)


def test_without_hold_out_there_is_no_interval() -> None:
    found = predict(replace(hand_made(), hold_out=None), "10")
    assert found.latency_ms == pytest.approx(8.9)
    assert (found.low_ms, found.high_ms, found.calibrated) == (None, None, True)


def test_the_padding_chooses_the_row() -> None:
    table = synthetic_table([3.0], [1.0], bias_map_ms={0: 1.5})
    assert predict(table, "0", "bias_map").plain_sum_ms == pytest.approx(3.5)
    assert predict(table, "0", "repad").plain_sum_ms == pytest.approx(3.0)
    assert predict(table, "0", "repad").padding == "repad"


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MaskError, match="tiny has 2 blocks"):
        predict(hand_made(), "101")


def test_a_prediction_below_zero_is_refused() -> None:
    absurd = line(1, 10, 0.1, 9)
    with pytest.raises(CalibrationError, match=r"the prediction for 00 is -2\.6 ms"):
        predict(replace(hand_made(), calibration=absurd), "00")


def test_each_form_of_a_merged_block_is_predicted_by_its_own_slope() -> None:
    table = synthetic_table([3.0, 2.0], [1.0, 1.0], bias_map_ms={0: 1.5, 1: 1.25}, offset_ms=0)
    base, mapped = synthetic_table([3.0, 2.0], [1.0, 1.0], offset_ms=0).calibration.networks  # type: ignore[union-attr]
    # Sums: 7 ms, 4 ms without maps, 4.75 ms with. The one costs 0.9 of that, the other 1.1.
    calibration = Calibration(
        networks=(
            base,
            replace(mapped, padding="repad", sum_ms=4.0, measured_ms=7 - 0.9 * 3),
            replace(mapped, padding="bias_map", sum_ms=4.75, measured_ms=7 - 1.1 * 2.25),
        )
    )
    table = replace(table, calibration=calibration, hold_out=None)
    assert predict(table, "01", "repad").latency_ms == pytest.approx(7 - 0.9 * 2.0)
    assert predict(table, "01", "interior").latency_ms == pytest.approx(7 - 0.9 * 2.0)
    assert predict(table, "01", "bias_map").latency_ms == pytest.approx(7 - 1.1 * 1.5)
    for padding in ("repad", "bias_map"):
        assert predict(table, "11", padding).latency_ms == pytest.approx(7)
