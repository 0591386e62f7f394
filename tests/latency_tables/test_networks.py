from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from synthetic_tables import synthetic_row, synthetic_table, without_networks

from latency_tables.errors import CalibrationError, MaskError, TableFormatError
from latency_tables.estimator import Observation
from latency_tables.in_network import with_network_costs
from latency_tables.networks import Level, MeasuredNetwork
from latency_tables.origin import Origin
from latency_tables.predictor import predict
from latency_tables.priors import Estimate, expected_costs, fit_estimate, observations
from latency_tables.schema import Row

NETWORK = MeasuredNetwork(
    keep_mask="10", padding="repad", role="fit", measured_ms=10.0, low_ms=9.8, high_ms=10.1
)
LEVEL = Level(
    level_percent_low=99.0,
    level_percent_high=101.0,
    spread_percent=2.0,
    moved_percent=5.0,
    processes=8,
)


def test_the_standard_error_of_a_network_is_of_its_interval_and_never_nothing() -> None:
    assert NETWORK.error_ms == pytest.approx(0.15 / 1.959964)
    assert replace(NETWORK, low_ms=10.0, high_ms=10.0).error_ms == pytest.approx(1e-3)


@pytest.mark.parametrize("name", ["measured_ms", "low_ms", "high_ms"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_network_refuses_latencies_that_cannot_be(name: str, value: float) -> None:
    message = rf"fit network 10 \(repad\): {name} must be above 0"
    with pytest.raises(CalibrationError, match=message):
        replace(NETWORK, **{name: value})


@pytest.mark.parametrize("changes", [{"low_ms": 10.05}, {"high_ms": 9.95}])
def test_a_network_lies_in_its_interval(changes: dict[str, float]) -> None:
    with pytest.raises(CalibrationError, match="lies outside its interval"):
        replace(NETWORK, **changes)


def test_a_network_has_a_padding_and_some_processes() -> None:
    with pytest.raises(MaskError, match="unknown padding"):
        replace(NETWORK, padding="zero")
    with pytest.raises(CalibrationError, match="processes must be 0 or more"):
        replace(NETWORK, processes=-1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level_percent_low": 102.0}, "level_percent_low <= level_percent_high"),
        ({"spread_percent": -1.0}, "spread_percent must be 0 or more"),
        ({"moved_percent": math.nan}, "moved_percent must be 0 or more"),
    ],
)
def test_a_level_refuses_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        replace(LEVEL, **changes)


def test_a_published_table_has_no_networks() -> None:
    made = synthetic_table([1.0], [0.5])
    published = tuple(
        Row(
            piece=row.piece,
            kind=row.kind,
            block=row.block,
            first_layer="",
            last_layer="",
            digest=row.digest,
            latency_ms=1.0,
            macs=0,
            parameters=0,
            peak_activations=0,
            verdict="published",
        )
        for row in made.rows
    )
    with pytest.raises(TableFormatError, match="a published table has no networks of ours"):
        replace(made, rows=published, origin=Origin(source="a paper", licence="MIT"))


def rows(**profiled: float) -> list[Row]:
    """Two blocks; ``profiled`` has keys such as "merged_0"."""
    made = [
        synthetic_row("stem", latency_ms=1.0),
        synthetic_row("original", 0, latency_ms=4.0),
        synthetic_row("merged", 0, latency_ms=2.0),
        synthetic_row("original", 1, latency_ms=6.0),
        synthetic_row("merged", 1, latency_ms=3.0),
        synthetic_row("dense", 0, latency_ms=9.0),
        replace(synthetic_row("head"), verdict="bounded", reason="slow"),
    ]
    return [
        replace(row, profiled_ms=profiled.get(f"{row.kind}_{row.block}", row.profiled_ms))
        for row in made
    ]


def test_the_prior_of_pieces_alone_is_of_those_that_networks_contain() -> None:
    expected = {
        ("stem", None): 1.0,
        ("original", 0): 4.0,
        ("merged", 0): 2.0,
        ("original", 1): 6.0,
        ("merged", 1): 3.0,
    }
    found = expected_costs(rows(merged_0=1.0))
    assert {at: one.cost_ms for at, one in found.items()} == expected
    assert not any(one.unsure_ms for one in found.values())


def test_a_piece_that_a_profile_does_not_show_costs_as_others_of_its_kind() -> None:
    # Three originals cost 3/4 of alone on the whole; a fourth one is not in the profile.
    made = [
        replace(synthetic_row("original", at, latency_ms=4.0), profiled_ms=ms)
        for at, ms in enumerate((2.0, 3.0, 4.0, None))
    ]
    made.append(replace(synthetic_row("merged", 0, latency_ms=2.0), profiled_ms=0.0))
    made.append(synthetic_row("merged", 1, latency_ms=3.0))
    found = expected_costs(made, "profile")
    assert found["original", 1].cost_ms == 3.0
    assert found["original", 1].unsure_ms == 0.0
    assert found["original", 3].cost_ms == pytest.approx(4.0 * 3 / 4)
    # The guess is as wrong as it is about the others: 1, 0 and 1 ms of 3.
    assert found["original", 3].unsure_ms == pytest.approx(np.sqrt(2 / 27) * 3.0)
    # A fused piece costs next to nothing; one of a kind says nothing about the others of the kind.
    assert 0 < found["merged", 0].cost_ms < 1e-3
    assert found["merged", 1].cost_ms == pytest.approx(3.0 * 9 / 14)
    assert {at: one.cost_ms for at, one in expected_costs(rows(), "profile").items()} == {
        at: one.cost_ms for at, one in expected_costs(rows()).items()
    }


def seen(truth: dict[str, float]) -> list[Observation]:
    networks = []
    for first in ("original", "merged"):
        for second in ("original", "merged"):
            ms = 1 + truth[f"{first}_0"] + truth[f"{second}_1"]
            places = (("stem", None), (first, 0), (second, 1))
            networks.append(Observation(places=places, latency_ms=ms, error_ms=1e-3 * ms))
    return networks


@pytest.mark.parametrize(
    ("truth", "prior"),
    [
        ({"original_0": 4.0, "merged_0": 2.0, "original_1": 6.0, "merged_1": 3.0}, "alone"),
        ({"original_0": 1.0, "merged_0": 2.5, "original_1": 7.0, "merged_1": 1.5}, "profile"),
    ],
)
def test_the_networks_choose_the_prior(truth: dict[str, float], prior: str) -> None:
    profiled = {"original_0": 1.0, "merged_0": 2.5, "original_1": 7.0, "merged_1": 1.5}
    found = fit_estimate(rows(**profiled), seen(truth))
    assert found is not None and found.prior == prior
    without = fit_estimate(rows(), seen(truth))
    assert without is not None and without.prior == "alone"


def test_where_no_row_has_a_latency_there_is_no_estimate() -> None:
    assert fit_estimate([synthetic_row("stem", latency_ms=None)], []) is None


def test_an_estimate_is_of_a_known_prior_and_of_shares() -> None:
    with pytest.raises(CalibrationError, match="prior 'pairs' is not one of alone, profile"):
        Estimate(prior="pairs", spread=0.1, floor=0.1, pairs=1e-4, noise=0.1)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="noise must be between 0 and 1"):
        Estimate(prior="alone", spread=0.1, floor=0.1, pairs=1e-4, noise=2.0)


def test_only_networks_to_fit_are_observations() -> None:
    made = synthetic_table([1.0, 2.0], [0.5, 1.5])
    roles = [network.role for network in made.networks]
    assert roles.count("check") == 8
    assert len(observations(made.networks, made.forms)) == roles.count("fit") == 4


def test_rows_get_what_networks_say_and_lose_it_without() -> None:
    made = synthetic_table([1.0, 2.0], [0.5, 1.5], slope=1.2)
    row = made.row("original", 1)
    assert made.costs is not None
    ms, sd_ms = made.costs.of(("original", 1))
    assert row.in_network_ms == ms
    assert row.in_network_high_ms == pytest.approx(ms + 1.959964 * sd_ms)
    assert with_network_costs(made) == made
    assert all(row.in_network_ms is None for row in without_networks(made).rows)


def test_networks_without_an_estimate_are_estimated() -> None:
    made = synthetic_table([1.0, 2.0], [0.5, 1.5], slope=1.2)
    bare = replace(made, estimate=None)
    assert bare.costs is None
    found = with_network_costs(bare)
    assert found.estimate is not None and found.estimate.prior == "alone"
    expected = predict(made, "00").latency_ms
    assert predict(found, "00").latency_ms == pytest.approx(expected, rel=1e-3)
