from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_tables import synthetic_row, synthetic_table, without_networks

from latency_tables.errors import CalibrationError, MaskError
from latency_tables.estimator import NORMAL_95
from latency_tables.networks import MeasuredNetwork
from latency_tables.predictor import predict
from latency_tables.priors import Estimate
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable


def network(
    mask: str, measured_ms: float, role: str = "fit", half: float = 0.01
) -> MeasuredNetwork:
    return MeasuredNetwork(
        keep_mask=mask,
        padding="bias_map",
        role=role,  # type: ignore[arg-type]
        measured_ms=measured_ms,
        low_ms=measured_ms * (1 - half),
        high_ms=measured_ms * (1 + half),
    )


def hand_made(*networks: MeasuredNetwork) -> LatencyTable:
    """Two blocks: rows add up to 10 ms, all merged to 6 ms."""
    rows = (
        synthetic_row("stem", latency_ms=1.0, macs=100),
        synthetic_row("original", 0, latency_ms=3.0, macs=300),
        synthetic_row("merged", 0, latency_ms=1.0, macs=500),
        synthetic_row("original", 1, latency_ms=4.0, macs=400),
        synthetic_row("merged", 1, latency_ms=2.0, macs=900),
        synthetic_row("head", latency_ms=2.0, macs=200),
    )
    return LatencyTable(
        model="tiny",
        resolution=(32, 32),
        in_channels=3,
        block_names=("a", "b"),
        rows=rows,
        conditions=Conditions(device="d", runtime="r", runtime_version="1", batch=4),
        networks=networks,
        estimate=Estimate(prior="alone", spread=0.1, floor=0.02, pairs=1e-4, noise=0.01)
        if networks
        else None,
    )


def by_hand(asked: list[int], seen: list[tuple[list[int], float, float]]) -> tuple[float, float]:
    """The posterior of a network of ``hand_made``'s rows by conditioning on all at once."""
    means = np.array([1.0, 3.0, 1.0, 4.0, 2.0, 2.0])
    kinds = ["stem", "original", "merged", "original", "merged", "head"]
    same = np.array([[a == b for b in kinds] for a in kinds])
    size = {kind: np.mean(means[[k == kind for k in kinds]]) for kind in kinds}
    ends = np.array([0.3 * size[kind] for kind in kinds])
    prior = 0.09 * np.outer(means, means) + same * np.outer(ends, ends)
    prior += np.diag((0.1 * means) ** 2 + (0.02 * means.mean()) ** 2)
    x = np.array([[float(n in pieces) for n in range(6)] for pieces, _, _ in seen])
    y = np.array([ms for _, ms, _ in seen])
    errors = np.diag([(0.01 * ms) ** 2 + sd**2 for _, ms, sd in seen])
    # The information form: another way to the same posterior than the estimator's.
    precision = np.linalg.inv(prior) + x.T @ np.linalg.inv(errors) @ x
    covariance = np.linalg.inv(precision)
    mean = covariance @ (np.linalg.inv(prior) @ means + x.T @ np.linalg.inv(errors) @ y)
    wanted = np.array([float(n in asked) for n in range(6)])
    latency_ms = float(wanted @ mean)
    variance = wanted @ covariance @ wanted + (0.01 * latency_ms) ** 2
    return latency_ms, float(np.sqrt(variance))


def test_the_prediction_is_what_a_hand_computes() -> None:
    table = hand_made(network("11", 11.0), network("00", 6.8))
    found = predict(table, "10")
    seen = [([0, 1, 3, 5], 11.0, 0.11 / NORMAL_95), ([0, 2, 4, 5], 6.8, 0.068 / NORMAL_95)]
    latency_ms, sd_ms = by_hand([0, 1, 4, 5], seen)
    assert found.latency_ms == pytest.approx(latency_ms)
    assert found.low_ms == pytest.approx(latency_ms - 1.959964 * sd_ms)
    assert found.high_ms == pytest.approx(latency_ms + 1.959964 * sd_ms)
    assert found.interval_method == "posterior"
    assert found.plain_sum_ms == pytest.approx(1 + 3 + 2 + 2)
    assert found.scaled_macs_ms == pytest.approx(11 * (100 + 300 + 900 + 200) / 1000)
    assert found.throughput_fps == pytest.approx(4000 / latency_ms)
    assert found.calibrated
    assert 8.0 < found.latency_ms < 9.4


def test_without_networks_the_prediction_is_the_plain_sum_without_interval() -> None:
    found = predict(hand_made(), "10")
    assert found.latency_ms == found.plain_sum_ms == pytest.approx(8)
    assert (found.low_ms, found.high_ms, found.interval_method) == (None, None, None)
    assert not found.calibrated
    assert found.scaled_macs_ms == pytest.approx(10 * 1500 / 1000)


def test_scaled_macs_start_from_another_network_where_the_original_was_not_measured() -> None:
    found = predict(hand_made(network("01", 7.0)), "11")
    assert found.scaled_macs_ms == pytest.approx(7 * 1000 / 1200)


def test_networks_to_check_change_no_prediction() -> None:
    fitted = [network("11", 11.0), network("00", 6.8)]
    checked = [network("10", 20.0, "check"), network("01", 30.0, "check")]
    assert predict(hand_made(*fitted, *checked), "10") == predict(hand_made(*fitted), "10")


def test_an_interval_that_held_too_few_networks_is_widened_to_what_holds() -> None:
    fitted = [network("11", 11.0), network("00", 6.8)]
    usual = predict(hand_made(*fitted), "10")
    off = [network("10", usual.latency_ms * (1 + e / 100), "check", 0.001) for e in range(10, 18)]
    table = hand_made(*fitted, *off)
    found = predict(table, "10")
    assert table.hold_out is not None and table.hold_out.interval_factor > 1
    assert (found.interval_method, found.latency_ms) == ("conformal", usual.latency_ms)
    assert usual.high_ms is not None and found.high_ms is not None
    wider = (found.high_ms - found.latency_ms) / (usual.high_ms - usual.latency_ms)
    assert wider == pytest.approx(table.hold_out.interval_factor)


def test_the_padding_chooses_the_row() -> None:
    table = without_networks(synthetic_table([3.0], [1.0], bias_map_ms={0: 1.5}))
    assert predict(table, "0", "bias_map").plain_sum_ms == pytest.approx(3.5)
    assert predict(table, "0", "repad").plain_sum_ms == pytest.approx(3.0)
    assert predict(table, "0", "repad").padding == "repad"


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MaskError, match="tiny has 2 blocks"):
        predict(hand_made(), "101")


def test_a_prediction_below_zero_is_refused() -> None:
    absurd = hand_made(network("11", 10.0), network("01", 1.0), network("10", 1.0))
    absurd = replace(
        absurd, estimate=Estimate(prior="alone", spread=0.9, floor=0.9, pairs=1e-4, noise=1e-4)
    )
    with pytest.raises(CalibrationError, match=r"prediction for 00 is -[\d.]+ ms, which cannot be"):
        predict(absurd, "00")


def test_each_form_of_a_merged_block_has_a_cost_of_its_own() -> None:
    table = synthetic_table([3.0, 2.0], [1.0, 1.0], bias_map_ms={0: 1.5, 1: 1.25}, slope=1.1)
    for mask, padding, change_ms in (("01", "repad", -2.0), ("01", "bias_map", -1.5)):
        expected_ms = 7 + 1.1 * change_ms
        assert predict(table, mask, padding).latency_ms == pytest.approx(expected_ms, rel=1e-5)
    assert predict(table, "01", "interior").latency_ms == predict(table, "01", "repad").latency_ms


def test_costs_of_rows_add_up_to_the_prediction() -> None:
    table = synthetic_table([3.0, 2.0], [1.0, None], slope=1.1)
    for mask in ("11", "01"):
        rows_ms = math.fsum(table.row(*at).in_network_ms or 0 for at in table.places(mask))
        assert rows_ms == pytest.approx(predict(table, mask).latency_ms)
