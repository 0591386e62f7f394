"""Pieces costed alone, in pairs and by layers, on devices whose truth is known."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from small_network import (
    CONDITIONS,
    HEAD,
    STEM,
    compose,
    duplicates_of,
    is_whole_network,
    merged,
    network_pieces,
    original,
    session,
)

from latency_tables.io import load_table, save_table
from latency_tables.opspec import Activation, Conv, OpSpec, join
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.table import LatencyTable
from profiler.errors import InvalidJobError, JournalError
from profiler.estimate import DurationEstimate
from profiler.fake_device import FakeConnection, write_spec
from profiler.planning.contexts import choose_contexts
from profiler.planning.places import network_order, pair_spec, piece_before
from profiler.planning.profile_plan import ProfilePlan, layers_job_id, plan_jobs
from profiler.profile import Profile, ProfileRequest, profile
from profiler.scheduling.serial import SerialScheduler
from profiler.session import SessionResult
from profiler.settings import ProfileSettings
from profiler.table.builder import ContextTables, build_tables
from profiler.table.rows import FLOOR_MS

ALL = ("isolated", "pair", "layers")
GPU = dataclasses.replace(CONDITIONS, clock="cuda_events")
QUICK = ProfileSettings()
PROVENANCE: dict[str, Any] = dict(fingerprint={}, seed=0, date="", dshrink_version="1")
#: A profiler slows a network by so much.
SLOWED = 1.4


def truth_ms(spec: OpSpec) -> float:
    """What a piece costs inside of a network."""
    return 1e-5 * spec.macs + 0.01 * len(spec.ops)


def seam_ms(spec: OpSpec) -> float:
    """What a graph pays at its beginning: its layout is changed for kernels larger than 1x1.

    Within a network that is free, and so it is for the image; how much depends on the shape.
    """
    first = spec.ops[0]
    if not isinstance(first, Conv) or first.kernel == (1, 1) or spec.input_shape[0] == 3:
        return 0.0
    return {8: 0.1, 16: 0.4, 24: 3.0}.get(spec.input_shape[0], 0.0)


def with_seams_ms(spec: OpSpec) -> float:
    return truth_ms(spec) + seam_ms(spec) + (0.3 if is_whole_network(spec) else 0.0)


def fused_layers(spec: OpSpec) -> list[tuple[str, float]]:
    """Each operator with the activation after it, under the names that TensorRT would give."""
    named: list[tuple[str, float]] = []
    for number, op in enumerate(spec.ops):
        output = f"t{number + 1}" if number + 1 < len(spec.ops) else "result"
        macs = op.macs([spec.shapes[tensor] for tensor in op.inputs])
        cost_ms = SLOWED * (1e-5 * macs + 0.01)
        if isinstance(op, Activation) and named:
            before, before_ms = named.pop()
            named.append((f"{before} + {output}/Clip", before_ms + cost_ms))
        else:
            named.append((f"{output}/{op.kind.title()}", cost_ms))
    return named


def device(
    latency_ms: Callable[[OpSpec], float] = with_seams_ms,
    layers: Callable[[OpSpec], Sequence[tuple[str, float]]] | None = fused_layers,
    **more: object,
) -> FakeConnection:
    return FakeConnection(latency_ms=latency_ms, layers=layers, **more)  # type: ignore[arg-type]


@cache
def plan(contexts: tuple[str, ...] = ALL) -> ProfilePlan:
    return plan_jobs(network_pieces(), compose, hold_out=8, contexts=contexts)


def measure(folder: Path, on: FakeConnection) -> SessionResult:
    with session(folder, on, QUICK, plan=plan()) as opened:
        return opened.run()


def build(folder: Path, on: FakeConnection) -> ContextTables:
    measurements = measure(folder, on).measurements
    return build_tables(plan(), measurements, CONDITIONS, PROVENANCE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ContextTables:
    """All contexts on a device with seams, without noise."""
    return build(tmp_path_factory.mktemp("seams"), device())


def errors_ms(table: LatencyTable) -> list[float]:
    specs = {(p.kind, p.block): p.spec for p in plan().pieces.pieces}
    return [
        row.latency_ms - truth_ms(specs[row.kind, row.block])
        for row in table.rows
        if row.latency_ms is not None
    ]


# what is planned


def with_between() -> NetworkPieces:
    """The small network with a piece between its blocks 1 and 2, and dense counterparts."""
    pieces = network_pieces()
    between = OpSpec(input_shape=(16, 12, 12), ops=(Activation(inputs=(0,), function="relu6"),))
    dense = OpSpec(input_shape=(11, 12, 12), ops=merged(0, False).ops)
    more = (
        Piece(kind="between", block=1, layers=("act",), spec=between),
        Piece(kind="dense", block=1, layers=("x",), spec=dense),
    )
    return dataclasses.replace(pieces, pieces=(*pieces.pieces, *more))


def name_before(pieces: NetworkPieces, kind: str, block: int | None) -> str | None:
    found = piece_before(pieces, pieces.piece(kind, block))
    return found.name if found else None


def test_what_stands_before_a_piece_is_the_original_form_of_its_neighbour() -> None:
    pieces = with_between()
    assert name_before(pieces, "stem", None) is None
    assert name_before(pieces, "dense", 1) is None
    for kind in ("original", "merged", "merged_bias_map"):
        assert name_before(pieces, kind, 0) == "stem"
        assert name_before(pieces, kind, 1) == "block 0 original"
        assert name_before(pieces, kind, 2) == "between 1"
    assert name_before(pieces, "between", 1) == "block 1 original"
    assert name_before(pieces, "head", None) == "block 5 original"


def test_a_network_is_its_pieces_one_after_the_other() -> None:
    pieces = network_pieces()
    for mask in ("111111", "000000", "010011"):
        for padding in ("repad", "bias_map"):
            order = network_order(pieces, mask, padding)
            joined = join([piece.spec for piece in order])
            assert joined.digest == compose(mask, padding).digest
    between = [piece.name for piece in network_order(with_between(), "101111", "repad")]
    assert between[:5] == [
        "stem",
        "block 0 original",
        "block 1 merged",
        "between 1",
        "block 2 original",
    ]


def test_equal_pairs_are_one_job() -> None:
    pieces = network_pieces()
    twice = tuple(
        dataclasses.replace(piece, spec=merged(1, False))
        if (piece.kind, piece.block) == ("merged_bias_map", 1)
        else piece
        for piece in pieces.pieces
    )
    planned = plan_jobs(dataclasses.replace(pieces, pieces=twice), compose, contexts=("pair",))
    pairs = [job for job in planned.jobs if job.kind == "pair"]
    assert len(pairs) == len(pieces.pieces) - 2  # but for the stem and one that is there already
    labels = [job.label for job in pairs if "equal" in job.label]
    assert labels == ["block 0 original + block 1 merged (and 1 equal)"]


def test_each_context_adds_its_jobs() -> None:
    alone, pairs, every = plan(("isolated",)), plan(("isolated", "pair")), plan()
    assert {job.kind for job in alone.jobs} == {"piece", "network", "duplicate"}
    assert alone.jobs == pairs.jobs[: len(alone.jobs)] == every.jobs[: len(alone.jobs)]
    added = [job for job in pairs.jobs if job.kind == "pair"]
    specs = [pair_spec(pairs.pieces, piece) for piece in pairs.pieces.pieces]
    digests = {spec.digest for spec in specs if spec}
    assert {job.digest for job in added} == digests
    assert len(added) == len(digests)
    layers = [job for job in every.jobs if job.kind == "layers"]
    assert [job.id for job in layers] == [
        layers_job_id(n) for role in ("base", "merged") for n in every.networks_of(role)
    ]
    assert [job.spec for job in layers] == [
        compose("1" * 6, "repad"), compose("0" * 6, "repad"), compose("0" * 6, "bias_map")
    ]  # fmt: skip
    assert every.shared == alone.shared
    assert duplicates_of(every) == duplicates_of(alone)


def test_the_digest_of_a_plan_changes_with_its_jobs_alone_so_that_journals_can_be_resumed() -> None:
    assert plan(("isolated",)).digest == plan_jobs(network_pieces(), compose, hold_out=8).digest
    assert plan(("isolated",)).digest == "550acd18"
    assert len({plan(ALL[:count]).digest for count in (1, 2, 3)}) == 3


def test_a_network_that_is_not_its_pieces_has_no_layers_to_share_out() -> None:
    def other(mask: str, padding: str) -> OpSpec:
        return compose(mask, padding) if "0" in mask else join([STEM, original(0), HEAD_8])

    with pytest.raises(InvalidJobError, match="network 111111 repad is not its pieces"):
        plan_jobs(network_pieces(), other, contexts=("layers",))
    assert plan_jobs(network_pieces(), other, contexts=("pair",)).jobs


HEAD_8 = OpSpec(input_shape=(8, 12, 12), ops=HEAD.ops)


@pytest.mark.parametrize(
    ("asked", "on_gpu", "profiles", "chosen"),
    [
        ([], False, True, ("isolated",)),
        ([], True, True, ALL),
        ([], True, False, ("isolated", "pair")),
        (["best"], False, False, ("isolated", "pair")),
        (["best"], False, True, ALL),
        (["layers", "isolated"], False, True, ("isolated", "layers")),
        (["layers, pair", "pair"], True, True, ("pair", "layers")),
        (["isolated"], True, True, ("isolated",)),
    ],
)
def test_contexts_are_those_asked_for_or_what_suits_the_processor(
    asked: list[str], on_gpu: bool, profiles: bool, chosen: tuple[str, ...]
) -> None:
    conditions = GPU if on_gpu else CONDITIONS
    assert choose_contexts(asked, conditions, layer_profiles=profiles) == chosen


def test_contexts_that_do_not_exist_or_cannot_be_are_refused() -> None:
    with pytest.raises(
        InvalidJobError, match="unknown context 'alone'; known: isolated, pair, layers"
    ):
        choose_contexts(["pair,alone"], CONDITIONS, layer_profiles=True)
    with pytest.raises(
        InvalidJobError, match="onnxruntime with launch plain does not report how long"
    ):
        choose_contexts(["layers"], CONDITIONS, layer_profiles=False)
    compiled = dataclasses.replace(GPU, launch="compiled")
    with pytest.raises(InvalidJobError, match="with launch compiled does not report how long"):
        choose_contexts(["layers"], compiled, layer_profiles=True)
    assert choose_contexts([], compiled, layer_profiles=True) == ("isolated", "pair")


# what is measured


def test_pairs_and_layers_find_what_a_piece_costs_inside_of_a_network(
    made: ContextTables,
) -> None:
    alone, pair, layers = (made.tables[context] for context in ALL)
    # Alone, merged pieces pay for their ends.
    assert max(errors_ms(alone)) == pytest.approx(3.0, rel=1e-3)
    assert min(errors_ms(alone)) == pytest.approx(0.0, abs=1e-4)
    assert errors_ms(pair) == pytest.approx([0.0] * len(pair.rows), abs=1e-4)
    # Layers: the network's own 0.3 ms are spread over its pieces.
    base = compose("1" * 6, "repad")
    factor = with_seams_ms(base) / truth_ms(base)
    for row in layers.rows:
        if row.kind in ("stem", "original", "head"):
            spec = plan().pieces.piece(row.kind, row.block).spec
            assert row.latency_ms == pytest.approx(factor * truth_ms(spec), rel=1e-4)


def test_the_layers_of_a_network_add_up_to_its_measured_latency(made: ContextTables) -> None:
    layers = made.tables["layers"]
    assert layers.sum_ms("1" * 6) == pytest.approx(with_seams_ms(compose("1" * 6, "repad")))
    merged_ms = sum(row.latency_ms or 0.0 for row in layers.rows if row.kind == "merged_bias_map")
    network = compose("0" * 6, "bias_map")
    factor = with_seams_ms(network) / truth_ms(network)
    expected = sum(truth_ms(merged(block, True)) for block in range(6))
    assert merged_ms == pytest.approx(factor * expected, rel=1e-4)


def test_the_context_with_the_smallest_error_on_unseen_networks_is_the_table(
    made: ContextTables,
) -> None:
    checks = made.table.contexts
    assert list(checks) == list(ALL)
    errors = {name: check.mape_percent for name, check in checks.items()}
    assert errors["isolated"] is not None and errors["pair"] is not None
    assert errors["isolated"] > 1.0 > errors["pair"] + 0.9
    assert made.best == made.table.context == "pair"
    assert made.table.fit_for_search
    for name, table in made.tables.items():
        assert (table.context, table.contexts) == (name, checks)
        assert table.hold_out is not None
        assert table.hold_out.mape_percent == errors[name]
    assert checks["layers"].unnamed_percent == 0.0
    assert checks["pair"].unnamed_percent is None


def test_where_pieces_add_up_alone_the_simplest_context_is_the_table(tmp_path: Path) -> None:
    found = build(tmp_path, device(lambda spec: truth_ms(spec) + 0.1 * is_whole_network(spec)))
    assert found.best == "isolated"


def test_every_table_comes_back_from_its_files(made: ContextTables, tmp_path: Path) -> None:
    for name, table in made.tables.items():
        save_table(table, tmp_path / name)
        assert load_table(tmp_path / name) == table


def test_the_interval_of_a_pair_joins_both_in_quadrature(tmp_path: Path) -> None:
    result = measure(tmp_path, device(noise=0.004, round_noise=0.004))
    tables = build_tables(plan(), result.measurements, CONDITIONS, PROVENANCE).tables
    row = tables["pair"].row("merged", 1)
    spec = pair_spec(plan().pieces, plan().pieces.piece("merged", 1))
    assert spec is not None
    pair, alone = (
        result.measurements[f"pair {spec.digest}"],
        result.measurements[original(0).digest],
    )
    latency_ms = pair.latency_ms - alone.latency_ms
    up = ((pair.high_ms - pair.latency_ms) ** 2 + (alone.latency_ms - alone.low_ms) ** 2) ** 0.5
    down = ((pair.latency_ms - pair.low_ms) ** 2 + (alone.high_ms - alone.latency_ms) ** 2) ** 0.5
    assert row.latency_ms == pytest.approx(latency_ms)
    assert row.low_ms == pytest.approx(latency_ms - down)
    assert row.high_ms == pytest.approx(latency_ms + up)
    assert row.min_ms == pytest.approx(pair.min_ms - alone.latency_ms)
    assert row.samples == pair.samples
    # The rows of layers move with their rounds and with the network's own interval.
    layer = tables["layers"].row("merged", 1)
    assert layer.low_ms and layer.latency_ms and layer.high_ms
    assert layer.low_ms < layer.latency_ms < layer.high_ms
    assert layer.samples == 3 * QUICK.rule.min_samples


def test_a_piece_that_costs_nothing_to_be_seen_is_noisy_and_above_nothing(tmp_path: Path) -> None:
    free = original(1)

    def hidden(spec: OpSpec) -> float:
        """Behind another piece, this one costs less than nothing."""
        pair = pair_spec(plan().pieces, plan().pieces.piece("original", 1))
        assert pair is not None
        return truth_ms(original(0)) - 0.01 if spec.digest == pair.digest else with_seams_ms(spec)

    tables = build(tmp_path, device(hidden)).tables
    row = tables["pair"].row("original", 1)
    assert (row.verdict, row.latency_ms, row.low_ms) == ("noisy", FLOOR_MS, FLOOR_MS)
    assert row.reason.startswith("after block 0 original its cost is within the noise: -0.01")
    alone = tables["isolated"].row("original", 1)
    assert (alone.verdict, alone.latency_ms) == ("ok", pytest.approx(truth_ms(free), rel=1e-4))
    save_table(tables["pair"], tmp_path / "pair")
    assert load_table(tmp_path / "pair") == tables["pair"]


def digest_of_pair(kind: str, block: int) -> str:
    spec = pair_spec(plan().pieces, plan().pieces.piece(kind, block))
    assert spec is not None
    return spec.digest


def test_a_pair_that_fails_fails_its_row_of_that_context_only(tmp_path: Path) -> None:
    broken = digest_of_pair("merged", 4)
    made = build(
        tmp_path,
        device(fault=lambda spec, call: "bad_model" if spec.digest == broken else None),
    )
    found = made.tables
    failed = [row.piece for row in found["pair"].rows if row.verdict == "failed"]
    assert made.best != "pair", "a search could not use it"
    assert failed == ["block 4 merged"]
    reason = found["pair"].row("merged", 4).reason
    assert reason == "after block 3 original: bad_model: the script says so"
    assert {row.verdict for name in ("isolated", "layers") for row in found[name].rows} == {"ok"}
    assert found["isolated"].fit_reason != found["pair"].fit_reason
    assert "block 4 merged" in found["pair"].fit_reason


def test_what_stood_before_and_failed_alone_fails_those_behind_it(tmp_path: Path) -> None:
    broken = original(4).digest
    found = build(
        tmp_path,
        device(fault=lambda spec, call: "bad_model" if spec.digest == broken else None),
    ).tables
    failed = [row for row in found["pair"].rows if row.verdict == "failed"]
    # The piece itself was measured after its neighbour.
    assert [(row.kind, row.block) for row in failed] == [
        ("original", 5), ("merged", 5), ("merged_bias_map", 5)
    ]  # fmt: skip
    assert {row.reason for row in failed} == {
        "block 4 original alone: bad_model: the script says so"
    }
    assert found["isolated"].row("original", 4).verdict == "failed"


def test_without_profiles_the_context_of_layers_fails_and_no_other(tmp_path: Path) -> None:
    found = build(tmp_path, device(layers=None))
    assert {row.verdict for row in found.tables["layers"].rows} == {"failed"}
    row = found.tables["layers"].row("stem")
    assert row.reason == "its profile by layers: runtime_error: the script says so"
    assert found.tables["layers"].contexts["layers"].mape_percent is None
    assert found.best == "pair"
    assert {row.verdict for row in found.tables["isolated"].rows} == {"ok"}


def test_layers_without_names_of_ours_are_spread_and_their_share_is_said(
    tmp_path: Path, made: ContextTables
) -> None:
    def partly_named(spec: OpSpec) -> list[tuple[str, float]]:
        layers = fused_layers(spec)
        return [*layers, ("__myl_Fc_myl0_7", 0.25 * sum(ms for _, ms in layers))]

    found = build(tmp_path, device(layers=partly_named)).tables["layers"]
    assert found.contexts["layers"].unnamed_percent == pytest.approx(20.0)
    assert any("20.0 % of a network's profile" in text for text in found.warnings)
    for row, other in zip(found.rows, made.tables["layers"].rows, strict=True):
        assert row.latency_ms == pytest.approx(other.latency_ms, rel=1e-4)


def test_a_profile_that_names_nothing_of_ours_gives_no_rows(tmp_path: Path) -> None:
    found = build(tmp_path, device(layers=lambda spec: [("__myl_1", 1.0)])).tables["layers"]
    assert {row.reason for row in found.rows} == {
        "no layer of the profile took time and names one of ours"
    }


def test_a_piece_that_no_layer_names_is_not_free_but_unknown(tmp_path: Path) -> None:
    def without_head(spec: OpSpec) -> list[tuple[str, float]]:
        last = tuple(f"t{number}/" for number in range(len(spec.ops) - 2, len(spec.ops)))
        return [one for one in fused_layers(spec) if not one[0].startswith((*last, "result/"))]

    made = build(tmp_path, device(layers=without_head))
    found = made.tables["layers"]
    row = found.row("head")
    assert (row.verdict, row.latency_ms) == ("failed", None)
    assert row.reason == "no layer of the profile names it"
    assert found.row("original", 5).verdict == "ok"
    assert found.missing_row and made.best != "layers"


@pytest.mark.parametrize(
    ("unknown", "reason"),
    [
        ("pair", "after block 1 original: only 3 of 9 rounds"),
        ("alone", "block 1 original alone: only 3 of 9 rounds"),
    ],
)
def test_the_verdict_of_a_pair_is_the_worse_of_its_two_measurements(
    unknown: str, reason: str, tmp_path: Path
) -> None:
    measured = dict(measure(tmp_path, device()).measurements)
    pair = f"pair {digest_of_pair('merged', 2)}"
    name = pair if unknown == "pair" else original(1).digest
    measured[name] = dataclasses.replace(measured[name], rounds_wanted=9)
    row = build_tables(plan(), measured, CONDITIONS, PROVENANCE).tables["pair"].row("merged", 2)
    assert (row.verdict, row.reason) == ("noisy", reason)


@pytest.mark.parametrize(
    ("which", "reason"),
    [
        ("network", "the whole network: only 3 of 9 rounds"),
        ("layers", "its profile by layers: only 3 of 9 rounds"),
    ],
)
def test_a_row_of_layers_is_as_good_as_its_network_and_its_profile(
    which: str, reason: str, tmp_path: Path
) -> None:
    measured = dict(measure(tmp_path, device()).measurements)
    (base,) = plan().networks_of("base")
    name = base.job_id if which == "network" else layers_job_id(base)
    measured[name] = dataclasses.replace(measured[name], rounds_wanted=9)
    layers = build_tables(plan(), measured, CONDITIONS, PROVENANCE).tables["layers"]
    assert {(row.verdict, row.reason) for row in layers.rows if row.kind == "original"} == {
        ("noisy", reason)
    }
    assert {row.verdict for row in layers.rows if row.kind == "merged"} == {"ok"}


def test_dense_counterparts_are_in_no_network_and_cost_what_they_cost_alone(
    tmp_path: Path,
) -> None:
    dense = OpSpec(input_shape=(11, 12, 12), ops=merged(0, False).ops)
    whole = network_pieces()
    more = Piece(kind="dense", block=1, layers=("x",), spec=dense)
    pieces = dataclasses.replace(whole, pieces=(*whole.pieces, more))
    planned = plan_jobs(pieces, compose, hold_out=8, contexts=ALL)
    with session(tmp_path, device(), QUICK, plan=planned) as opened:
        measured = opened.run().measurements
    tables = build_tables(planned, measured, CONDITIONS, PROVENANCE).tables
    rows = [tables[context].row("dense", 1) for context in ALL]
    assert rows[0] == rows[1] == rows[2]
    assert rows[0].verdict == "ok"


# the whole of it


def request(folder: Path, contexts: tuple[str, ...]) -> ProfileRequest:
    return ProfileRequest(
        pieces=network_pieces(),
        compose=compose,
        build=write_spec,
        conditions=CONDITIONS,
        folder=folder,
        date="2026-01-01",
        dshrink_version="1",
        hold_out=8,
        contexts=contexts,
    )


def run_profile(
    folder: Path, contexts: tuple[str, ...], estimates: list[DurationEstimate] | None = None
) -> Profile:
    said = estimates if estimates is not None else []
    on = device(noise=0.001)
    return profile(request(folder, contexts), SerialScheduler(on), on_start=said.append)


def test_a_profile_counts_the_jobs_of_its_contexts_and_goes_on_from_its_journal(
    tmp_path: Path,
) -> None:
    estimates: list[DurationEstimate] = []
    first = run_profile(tmp_path, ALL, estimates)
    again = run_profile(tmp_path, ALL, estimates)
    assert [one.jobs for one in estimates] == [len(plan().jobs)] * 2
    assert [one.remaining for one in estimates] == [3 * len(plan().jobs), 0]
    # What is journalled about layers is known, so no further round asks for it again.
    assert first.session.failed == 0
    assert again.session.measured == 0
    assert again.tables == first.tables
    assert first.table is first.tables[first.table.context]
    kinds: Mapping[str, list[int]] = layer_rounds(tmp_path / "journal.jsonl")
    assert set(map(tuple, kinds.values())) == {(0, 1, 2)}
    assert len(kinds) == 3


def layer_rounds(journal: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for text in journal.read_text().splitlines():
        line = json.loads(text)
        if line["line"] == "reply" and "layers" in line.get("result", {}):
            found.setdefault(line["job"], []).append(line["round"])
    return found


def test_a_journal_of_pieces_alone_goes_on_as_such_and_is_no_journal_of_other_contexts(
    tmp_path: Path,
) -> None:
    first = run_profile(tmp_path, ("isolated",))
    assert run_profile(tmp_path, ("isolated",)).table == first.table
    assert list(first.tables) == ["isolated"]
    with pytest.raises(JournalError, match="pieces and networks to measure are not the same"):
        run_profile(tmp_path, ("isolated", "pair"))
