"""From measurements to a table, and what its users are told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from small_network import (
    CONDITIONS,
    compose,
    latency_ms,
    merged,
    network_pieces,
    operators,
    original,
    run,
    session,
    small_plan,
)

from latency_tables.opspec import OpSpec
from latency_tables.pieces import Piece
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable
from profiler.fake_device import FakeConnection
from profiler.planning.profile_plan import PlannedNetwork, ProfilePlan, plan_jobs
from profiler.replies import Reply, Samples
from profiler.session import SessionResult
from profiler.table import rows
from profiler.table.builder import NAMED, UNNAMED_LIMIT_PERCENT, build_table, precision_notes

PROVENANCE: dict[str, Any] = dict(
    fingerprint={"cpu_model": "x"}, seed=0, date="2026-01-01", dshrink_version="1"
)


def build(result: SessionResult, plan: ProfilePlan | None = None) -> LatencyTable:
    plan = plan or small_plan()
    return build_table(plan, result.measurements, CONDITIONS, PROVENANCE, result.warnings)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> SessionResult:
    device = FakeConnection(latency_ms=latency_ms, noise=0.0)
    return run(tmp_path_factory.mktemp("exact"), device)


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
        assert (row.verdict, row.reason, row.rounds) == ("ok", "", 3)
    shared = [row for row in table.rows if row.piece in ("block 2 original", "block 3 original")]
    assert shared[0].digest == shared[1].digest


def test_rows_have_what_pieces_cost_in_the_network_with_its_interval(table: LatencyTable) -> None:
    # The scripted device charges a whole network 0.95 of its pieces and 0.3 ms.
    for row in table.rows:
        assert row.in_network_ms is not None and row.latency_ms is not None
        assert row.in_network_low_ms < row.in_network_ms < row.in_network_high_ms  # type: ignore[operator]
        if row.kind not in ("stem", "head"):
            assert row.in_network_ms == pytest.approx(0.95 * row.latency_ms, rel=0.01, abs=0.06)
    total_ms = sum(row.in_network_ms or 0.0 for row in table.rows if row.kind in _IN_BASE)
    assert total_ms == pytest.approx(latency_ms(compose("1" * 6, "repad")), rel=1e-3)


_IN_BASE = ("stem", "original", "head")


def test_unseen_networks_are_predicted_and_the_plain_sum_is_worse(table: LatencyTable) -> None:
    hold_out = table.hold_out
    assert hold_out is not None
    assert len(hold_out.networks) == 8
    assert hold_out.mape_percent < 0.1
    assert hold_out.plain_sum_mape_percent > 2.0
    for network in hold_out.networks:
        predicted = predict(table, network.keep_mask, padding=network.padding)
        assert network.predicted_ms == predicted.latency_ms
        assert {network.keep_mask} & {"1" * 6, "0" * 6} == set()


def test_the_networks_of_a_table_are_those_that_were_measured(table: LatencyTable) -> None:
    planned = {(n.keep_mask, n.padding): n.role == "check" for n in small_plan().networks}
    found = {(n.keep_mask, n.padding): n.role == "check" for n in table.networks}
    assert found == planned
    for network in table.networks:
        truth_ms = latency_ms(compose(network.keep_mask, network.padding))
        assert network.measured_ms == pytest.approx(truth_ms, rel=1e-3)
    assert table.level is not None and table.level.processes == 3


def test_provenance_and_conditions_are_kept(table: LatencyTable) -> None:
    assert table.fingerprint == {"cpu_model": "x"}
    assert (table.date, table.dshrink_version, table.conditions) == ("2026-01-01", "1", CONDITIONS)
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
    table = build(run(tmp_path, device))
    row = table.row("merged", 4)
    assert (row.verdict, row.latency_ms) == ("failed", None)
    assert row.reason == "bad_model: the script says so"
    assert table.row("original", 4).verdict == "ok"
    assert not table.fit_for_search
    count = f"{len(broken)} of 20 rows are failed: block 4 merged"
    assert any(text.startswith(count) for text in table.warnings)
    # The networks that do not need the broken piece are still learned from, and checked.
    assert len(table.known_networks) > 5
    for network in table.known_networks:
        assert network.keep_mask[4] == "1" or (not also_with_map and network.padding == "bias_map")
    assert table.hold_out is not None
    needy = [
        n
        for n in small_plan().networks_of("check")
        if n.keep_mask[4] == "0" and (also_with_map or n.padding == "repad")
    ]
    assert len(needy) == 8 - len(table.hold_out.networks)


def without(measured: SessionResult, *lost: PlannedNetwork) -> SessionResult:
    gone = {
        n.job_id: dataclasses.replace(measured.measurements[n.job_id], replies=()) for n in lost
    }
    return dataclasses.replace(measured, measurements={**measured.measurements, **gone})


def test_networks_that_were_never_asked_for_are_no_failures(measured: SessionResult) -> None:
    lost = small_plan().networks_of("candidate")[1:4]
    table = build(without(measured, *lost))
    assert table.warnings == ()
    assert len(table.networks) == len(small_plan().networks) - 3


def test_without_networks_to_check_a_table_is_not_fit_and_says_so(measured: SessionResult) -> None:
    table = build(without(measured, *small_plan().networks_of("check")))
    assert table.estimate is not None
    assert table.hold_out is None
    assert "no hold-out check" in table.fit_reason


def test_without_any_network_the_rows_stay_and_the_table_is_not_fit(
    measured: SessionResult,
) -> None:
    table = build(without(measured, *small_plan().networks))
    assert table.warnings == (
        "no piece, or no whole network, has a latency: see the reasons in the journal",
    )
    assert (table.networks, table.estimate, table.level) == ((), None, None)
    assert {row.verdict for row in table.rows} == {"ok", "noisy"} - {"noisy"}
    assert {row.in_network_ms for row in table.rows} == {None}
    assert "no whole network was measured" in table.fit_reason


def test_rows_that_are_not_ok_are_counted_and_some_are_named(measured: SessionResult) -> None:
    pieces = [job.id for job in small_plan().jobs if job.kind == "piece"]
    never = {name: dataclasses.replace(measured.measurements[name], replies=()) for name in pieces}
    found = dataclasses.replace(measured, measurements={**measured.measurements, **never})
    (first, *_) = build(found).warnings
    assert first.startswith("20 of 20 rows are failed: stem, block 0 original, ")
    assert first.endswith(", ...; `dshrink table show` gives the reasons")
    assert first.count(", ") == NAMED
    assert {row.reason for row in build(found).rows} == {"never measured"}


def unsure(measured: SessionResult, *specs: OpSpec) -> SessionResult:
    """These pieces take another time in each round."""
    found = dict(measured.measurements)
    for spec in specs:
        replies = []
        for reply in found[spec.digest].replies:
            assert isinstance(reply.outcome, Samples)
            factor = (1.0, 1.3, 1.7)[reply.round]
            times = tuple(round(factor * ns) for ns in reply.outcome.wall_ns)
            outcome = dataclasses.replace(reply.outcome, wall_ns=times, cpu_ns=times)
            replies.append(dataclasses.replace(reply, outcome=outcome))
        found[spec.digest] = dataclasses.replace(found[spec.digest], replies=tuple(replies))
    return dataclasses.replace(measured, measurements=found)


def test_a_piece_that_networks_hold_need_not_be_known_well_alone(
    measured: SessionResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PIECE_HALF_WIDTH", 1e-6)
    assert {row.verdict for row in build(measured).rows} == {"ok"}


def test_a_piece_that_no_network_holds_is_noisy_where_it_is_not_known_well_alone(
    tmp_path: Path,
) -> None:
    dense = OpSpec(input_shape=(11, 12, 12), ops=merged(0, False).ops)
    whole = network_pieces()
    more = Piece(kind="dense", block=1, layers=("x",), spec=dense)
    plan = plan_jobs(
        dataclasses.replace(whole, pieces=(*whole.pieces, more)),
        compose,
        operators,
        check=8,
        candidates=6,
    )
    with session(tmp_path, FakeConnection(latency_ms=latency_ms), plan=plan) as opened:
        measured = opened.run()
    table = build(measured, plan)
    assert (table.row("dense", 1).verdict, table.row("dense", 1).in_network_ms) == ("ok", None)
    assert table.fit_for_search
    table = build(unsure(measured, dense, original(1)), plan)
    row = table.row("dense", 1)
    assert row.verdict == "noisy"
    assert row.reason.startswith("known to ±") and "(target: ±10 %)" in row.reason
    assert table.row("original", 1).verdict == "ok"
    # Predictions are right all the same: rough rows are said with the verdict, not as a warning.
    assert table.fit_for_search and table.warnings == ()
    unchecked = build(
        without(unsure(measured, dense, original(1)), *plan.networks_of("check")), plan
    )
    assert any(
        text.startswith("1 of 21 rows are noisy: block 1 dense; ") for text in unchecked.warnings
    )


def test_time_of_a_profile_that_names_nothing_of_ours_is_a_warning(tmp_path: Path) -> None:
    plan = small_plan(profiles=True)
    for share, is_said in ((0.5, False), (2.0, True)):
        ms = share * UNNAMED_LIMIT_PERCENT / 100
        device = FakeConnection(
            latency_ms=latency_ms,
            layers=lambda spec, ms=ms: [("result/Gemm", 1 - ms), ("__myl_1", ms)],  # type: ignore[misc]
        )
        with session(tmp_path / str(share), device, plan=plan) as opened:
            table = build(opened.run(), plan)
        found = [text for text in table.warnings if "of a network's profile is in layers" in text]
        assert len(found) == is_said
        assert not is_said or found[0].startswith("up to 10.0 % of")


def test_what_is_faster_than_arithmetic_is_a_warning_of_the_table(tmp_path: Path) -> None:
    device = FakeConnection(latency_ms=lambda spec: 1e-9 * spec.macs)
    (warning,) = build(run(tmp_path, device)).warnings
    assert "faster than any such machine computes" in warning


def test_a_network_that_cannot_merge_gets_a_table_all_the_same(tmp_path: Path) -> None:
    plan = plan_jobs(network_pieces(dict.fromkeys(range(6), "squeeze-excite")), compose, operators)
    with session(tmp_path, FakeConnection(latency_ms=latency_ms), plan=plan) as opened:
        table = build(opened.run(), plan)
    assert [network.keep_mask for network in table.networks] == ["111111"]
    assert table.estimate is not None
    assert table.hold_out is None
    assert not table.fit_for_search


def on_gpu(table: LatencyTable, precision: str, built: str) -> LatencyTable:
    """As if a GPU had been asked for a precision, and had built another for all rows but one."""
    conditions = dataclasses.replace(
        table.conditions, runtime="tensorrt", clock="cuda_events", precision=precision
    )
    first, *others = table.rows
    new = [dataclasses.replace(first, built_precision=f"{precision}+fp32")]
    new += [dataclasses.replace(row, built_precision=built) for row in others]
    return dataclasses.replace(table, conditions=conditions, rows=tuple(new))


def test_a_table_names_the_rows_that_were_built_in_another_precision(table: LatencyTable) -> None:
    multiplying = sum(row.macs > 0 for row in table.rows[1:])
    (note,) = precision_notes(on_gpu(table, "fp16", "fp32 / tf32"))
    assert note.startswith(f"{multiplying} of {len(table.rows)} rows have nothing in fp16")
    assert table.rows[1].piece in note and table.rows[0].piece not in note
    assert precision_notes(on_gpu(table, "fp16", "fp16 / fp16+fp32")) == []
    assert precision_notes(table) == []


def test_a_table_in_int8_says_that_its_pieces_alone_look_dear(table: LatencyTable) -> None:
    (note,) = precision_notes(on_gpu(table, "int8", "int8"))
    assert "read and write fp32" in note and "in_network_ms" in note


def test_what_was_built_in_place_of_what_was_asked_for_is_a_warning_of_the_table(
    measured: SessionResult,
) -> None:
    built = {
        name: dataclasses.replace(one, replies=tuple(in_fp32(reply) for reply in one.replies))
        for name, one in measured.measurements.items()
    }
    conditions = dataclasses.replace(CONDITIONS, precision="fp16")
    table = build_table(small_plan(), built, conditions, PROVENANCE, [])
    assert table.warnings[0] == precision_notes(table)[0]
    assert "rows have nothing in fp16" in table.warnings[0]


def in_fp32(reply: Reply) -> Reply:
    """As if an engine of fp32 had answered."""
    assert isinstance(reply.outcome, Samples)
    samples = dataclasses.replace(reply.outcome, built={"precision": "fp32"})
    return dataclasses.replace(reply, outcome=samples)
