import dataclasses
from pathlib import Path

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
from profiler.jobs import PlannedNetwork, plan_jobs
from profiler.measurement import Measurement
from profiler.session import SessionResult
from profiler.settings import Settings
from profiler.table_builder import Provenance, build_table

PROVENANCE = Provenance(
    fingerprint={"cpu_model": "x"}, seed=0, date="2026-01-01", dshrink_version="1"
)
QUICK = Settings(anchor_every=50, extra_rounds=0)


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
    assert calibration.slope == pytest.approx(0.95, abs=1e-3)
    assert calibration.base_ms == pytest.approx(0.95 * calibration.base_sum_ms + 0.3, rel=1e-4)


def test_unseen_networks_are_predicted_and_the_plain_sum_is_worse(table: LatencyTable) -> None:
    hold_out = table.hold_out
    assert hold_out is not None
    assert len(hold_out.networks) == 8
    assert hold_out.mape_percent < 0.01
    assert hold_out.plain_sum_mape_percent > 2.0
    assert hold_out.kendall_tau == 1.0
    assert table.fit_for_search
    for network in hold_out.networks:
        expected = predict(table, network.keep_mask, network.padding)
        assert network.predicted_ms == expected.latency_ms
        assert {network.keep_mask} & {"1" * 6, "0" * 6} == set()


def test_provenance_twins_and_conditions_are_kept(table: LatencyTable) -> None:
    assert table.fingerprint == {"cpu_model": "x"}
    assert (table.date, table.dshrink_version, table.conditions) == ("2026-01-01", "1", CONDITIONS)
    assert [twin["agree"] for twin in table.twins] == [True] * 3
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
    assert (table.calibration is None) == also_with_map
    assert any(text.startswith("no calibration: ") for text in table.warnings) == also_with_map


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


@pytest.mark.parametrize("role", ["base", "merged"])
def test_without_base_or_merged_network_there_is_no_calibration(
    measured: SessionResult, role: str
) -> None:
    table = build(without(measured, *small_plan().networks_of(role)))
    assert table.calibration is None
    assert table.hold_out is None
    assert "no calibration: network " in table.warnings[0]
    assert not table.fit_for_search


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
def test_the_second_point_is_the_default_padding_or_else_what_was_measured(
    measured: SessionResult, padding: str
) -> None:
    repad, bias_map = small_plan().networks_of("merged")
    result = measured if padding == "bias_map" else without(measured, bias_map)
    calibration = build(result).calibration
    used = bias_map if padding == "bias_map" else repad
    assert calibration is not None
    assert calibration.merged_ms == measured.measurements[used.job_id].latency_ms
    assert calibration.merged_sum_ms == build(result).sum_ms("0" * 6, padding)


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
    assert table.calibration.slope == 1.0
    assert table.hold_out is None
    assert not table.fit_for_search
