import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_network import (
    CONDITIONS,
    compose,
    latency_ms,
    merged,
    network_pieces,
    run,
    session,
    small_plan,
)

from latency_tables.opspec import OpSpec
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable
from profiler.fake_device import FakeConnection
from profiler.measurement import Measurement
from profiler.planning.profile_plan import PlannedNetwork, plan_jobs
from profiler.session import SessionResult
from profiler.settings import ProfileSettings
from profiler.table.builder import LEAST_CALIBRATION, build_table

PROVENANCE: dict[str, Any] = dict(
    fingerprint={"cpu_model": "x"}, seed=0, date="2026-01-01", dshrink_version="1"
)
QUICK = ProfileSettings()


def build(result: SessionResult) -> LatencyTable:
    return build_table(small_plan(), result.measurements, CONDITIONS, PROVENANCE, result.warnings)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> SessionResult:
    device = FakeConnection(latency_ms=latency_ms, noise=0.0)
    return run(tmp_path_factory.mktemp("exact"), device, QUICK)


@pytest.fixture(scope="module")
def table(measured: SessionResult) -> LatencyTable:
    return build(measured)


def test_there_is_a_row_for_each_place_even_where_digests_are_shared(table: LatencyTable) -> None:
    pieces = network_pieces().pieces
    assert [row.piece for row in table.rows] == [piece.name for piece in pieces]
    for row, piece in zip(table.rows, pieces, strict=True):
        assert row.latency_ms == pytest.approx(latency_ms(piece.spec), rel=1e-5)
        assert (row.digest, row.macs) == (piece.spec.digest, piece.spec.macs)
        assert (row.first_layer, row.last_layer) == (piece.layers[0], piece.layers[-1])
        assert (row.verdict, row.rounds) == ("ok", 3)
    shared = [row for row in table.rows if row.piece in ("block 2 original", "block 3 original")]
    assert shared[0].digest == shared[1].digest


def test_the_calibration_finds_the_device_s_own_line(table: LatencyTable) -> None:
    # The scripted device charges a whole network 0.95 of its pieces and 0.3 ms.
    calibration = table.calibration
    assert calibration is not None
    assert calibration.slopes == pytest.approx({False: 0.95, True: 0.95}, abs=1e-3)
    assert calibration.intercept_ms == pytest.approx(calibration.base_ms, rel=1e-5)
    assert calibration.base_ms == pytest.approx(0.95 * calibration.base_sum_ms + 0.3, rel=1e-4)


def test_unseen_networks_are_predicted_and_the_plain_sum_is_worse(table: LatencyTable) -> None:
    hold_out = table.hold_out
    assert hold_out is not None
    assert len(hold_out.networks) == 8
    assert hold_out.mape_percent < 0.01
    assert hold_out.plain_sum_mape_percent > 2.0
    assert hold_out.kendall_tau == pytest.approx(1.0)
    assert table.fit_for_search
    for network in hold_out.networks:
        expected = predict(table, network.keep_mask, network.padding)
        assert network.predicted_ms == expected.latency_ms
        assert {network.keep_mask} & {"1" * 6, "0" * 6} == set()


def test_provenance_duplicates_and_conditions_are_kept(table: LatencyTable) -> None:
    assert table.fingerprint == {"cpu_model": "x"}
    assert (table.date, table.dshrink_version, table.conditions) == ("2026-01-01", "1", CONDITIONS)
    assert [duplicate["agree"] for duplicate in table.twins] == [True] * 3
    assert table.warnings == ()


@pytest.mark.parametrize("also_with_map", [False, True])
def test_a_failed_merged_row_makes_the_table_unfit_and_leaves_the_rest(
    tmp_path: Path, also_with_map: bool
) -> None:
    broken = {merged(4, False).digest, merged(4, also_with_map).digest}
    device = FakeConnection(
        latency_ms=latency_ms,
        fault=lambda spec, call: "bad_model" if spec.digest in broken else None,
    )
    table = build(run(tmp_path, device, QUICK))
    row = table.row("merged", 4)
    assert (row.verdict, row.latency_ms) == ("failed", None)
    assert table.row("original", 4).verdict == "ok"
    assert not table.fit_for_search
    count = f"{len(broken)} of 20 rows are failed: block 4 merged"
    assert any(text.startswith(count) for text in table.warnings)
    # The networks that do not need the broken piece still make a calibration.
    assert table.calibration is not None
    assert len(table.calibration.networks) > 1
    for network in table.calibration.networks:
        assert network.keep_mask[4] == "1" or (not also_with_map and network.padding == "bias_map")
    assert table.hold_out is not None
    left_out = [text for text in table.warnings if text.startswith("hold-out network ")]
    needy = [
        n
        for n in small_plan().networks_of("hold_out")
        if n.keep_mask[4] == "0" and (also_with_map or n.padding == "repad")
    ]
    assert len(left_out) == len(needy) == 8 - len(table.hold_out.networks)
    assert all("block 4 merged" in text for text in left_out)


def test_a_hold_out_network_that_failed_is_left_out_with_a_warning(
    measured: SessionResult,
) -> None:
    lost = small_plan().networks_of("hold_out")[0]
    table = build(without(measured, lost))
    assert table.hold_out is not None
    assert len(table.hold_out.networks) == 7
    assert table.warnings == (f"hold-out network {lost.keep_mask} failed: never measured",)


def without(measured: SessionResult, *lost: PlannedNetwork) -> SessionResult:
    gone = {n.job_id: Measurement(job_id=n.job_id, replies=(), clock="thread_cpu") for n in lost}
    return dataclasses.replace(measured, measurements={**measured.measurements, **gone})


def noisy(measured: SessionResult, *networks: PlannedNetwork) -> SessionResult:
    """The same numbers, of which these are not known well enough."""
    found = {
        n.job_id: dataclasses.replace(measured.measurements[n.job_id], rounds_wanted=9)
        for n in networks
    }
    assert {m.verdict for m in found.values()} <= {"noisy"}
    return dataclasses.replace(measured, measurements={**measured.measurements, **found})


def fitted(table: LatencyTable) -> list[tuple[str, str]]:
    assert table.calibration is not None
    return [(n.keep_mask, n.padding) for n in table.calibration.networks]


def places(networks: Sequence[PlannedNetwork]) -> list[tuple[str, str]]:
    return [(n.keep_mask, n.padding) for n in networks]


@pytest.mark.parametrize("roles", [("base",), ("merged", "calibration")])
def test_without_the_original_or_any_other_network_there_is_no_calibration(
    measured: SessionResult, roles: tuple[str, ...]
) -> None:
    lost = [n for role in roles for n in small_plan().networks_of(role)]
    table = build(without(measured, *lost))
    assert table.calibration is None
    assert table.hold_out is None
    assert "no calibration: network " in table.warnings[0]
    assert not table.fit_for_search


def test_the_line_is_fitted_to_all_networks_but_the_held_out_ones(
    measured: SessionResult, table: LatencyTable
) -> None:
    plan = small_plan()
    assert fitted(table) == places([n for n in plan.networks if n.role != "hold_out"])
    assert table.calibration is not None
    for network, planned in zip(table.calibration.networks, plan.networks, strict=False):
        assert network.measured_ms == measured.measurements[planned.job_id].latency_ms
        assert network.sum_ms == table.sum_ms(planned.keep_mask, planned.padding)
    # Without the all-merged networks those between show the same line.
    other = build(without(measured, *plan.networks_of("merged"))).calibration
    assert other is not None
    assert other.slopes == pytest.approx(table.calibration.slopes, rel=1e-3)


def test_noisy_networks_are_not_learnt_from_where_enough_others_are_known(
    measured: SessionResult,
) -> None:
    candidates = [n for n in small_plan().networks if n.role not in ("base", "hold_out")]
    spare = 1 + len(candidates) - LEAST_CALIBRATION
    lost = candidates[:spare]
    assert fitted(build(noisy(measured, *lost))) == places(
        [*small_plan().networks_of("base"), *candidates[spare:]]
    )
    # One more, and the noisy ones are better than none.
    too_many = candidates[: spare + 1]
    assert len(fitted(build(noisy(measured, *too_many)))) == 1 + len(candidates)
    # The original takes part however noisy it is.
    base = small_plan().networks_of("base")
    assert fitted(build(noisy(measured, *base)))[0] == places(base)[0]


def test_noisy_networks_are_held_against_the_prediction_like_all_others(tmp_path: Path) -> None:
    plan = small_plan(hold_out=10)
    with session(tmp_path, FakeConnection(latency_ms=latency_ms), QUICK, plan=plan) as opened:
        measured = opened.run()
    unseen = plan.networks_of("hold_out")
    table = build_table(plan, noisy(measured, *unseen[:4]).measurements, CONDITIONS, PROVENANCE)
    assert table.hold_out is not None
    assert [(n.keep_mask, n.padding) for n in table.hold_out.networks] == places(unseen)


def test_a_suspicious_slope_is_a_warning(tmp_path: Path) -> None:
    def half(spec: OpSpec) -> float:
        return latency_ms(spec) * (0.5 if len(spec.ops) > 8 else 1.0)

    table = build(run(tmp_path, FakeConnection(latency_ms=half), QUICK))
    assert any("slope is 0.4" in text for text in table.warnings)


def test_a_network_that_cannot_merge_gets_a_table_with_slope_one(tmp_path: Path) -> None:
    plan = plan_jobs(network_pieces(dict.fromkeys(range(6), "squeeze-excite")), compose)
    device = FakeConnection(latency_ms=latency_ms)
    with session(tmp_path, device, QUICK, plan=plan) as opened:
        result = opened.run()
    table = build_table(plan, result.measurements, CONDITIONS, PROVENANCE)
    assert table.calibration is not None
    assert table.calibration.slopes == {False: 1.0, True: 1.0}
    assert table.hold_out is None
    assert not table.fit_for_search
