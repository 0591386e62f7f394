import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from small_network import run as run_blocks
from small_spans import (
    CHANNELS,
    LENGTH,
    MASK,
    SKIPS,
    compose,
    fake_device,
    is_valid,
    latency_ms,
    layers,
    operators,
    request,
    run,
    small_pieces,
    span_ops,
)

from latency_tables.io import load_table, save_table
from latency_tables.opspec import Activation, Add, Conv, OpSpec
from latency_tables.predictor import predict
from latency_tables.span_masks import Span, SpanChoice, mask_spans
from profiler.duration import DurationEstimate
from profiler.errors import JournalError
from profiler.fake_device import FakeConnection
from profiler.planning import bounds, span_networks
from profiler.planning.profile_plan import NetworkRole, ProfilePlan, plan_jobs
from profiler.planning.span_networks import NETWORK_MACS, base_macs
from profiler.profile import Profile, profile
from profiler.scheduling.serial import SerialScheduler

#: What (0, 6] and (1, 7], and (0, 7], do is far slower than their layers.
SLOW = {(0, 6), (1, 7), (0, 7)}


def digest(span: Span) -> str:
    return small_pieces().piece("span", span).spec.digest


def merged(mask: str) -> list[Span]:
    return [(i, j) for i, j in mask_spans(mask) if j > i + 1]


def planned(seed: int = 0, **more: Any) -> ProfilePlan:
    return plan_jobs(
        small_pieces(), compose, operators, **{"check": 8, "candidates": 8, "seed": seed} | more
    )


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, FakeConnection]:
    device = fake_device()
    return run(request(tmp_path_factory.mktemp("spans")), device), device


def test_equal_spans_are_measured_once() -> None:
    jobs = planned().jobs
    # One span a length from 1 to 7; an addition, a pooling, stem and head.
    assert sum(job.kind == "piece" for job in jobs) == 7 + 4


@pytest.mark.parametrize("seed", range(6))
def test_planned_networks_are_all_different_and_merge_only_what_may_merge(seed: int) -> None:
    pieces = small_pieces()
    plan = planned(seed)
    masks = [network.keep_mask for network in plan.networks]
    assert len(set(masks)) == len(masks)
    assert masks[0] == pieces.forms.base
    assert len(plan.networks_of("check")) == len(plan.networks_of("candidate")) == 8
    specs = {job.id: job.spec for job in plan.jobs}
    for network in plan.networks[1:]:
        spans = merged(network.keep_mask)
        assert spans
        assert all(is_valid(i, j) for i, j in spans)
        # Wider kernels cost more than three times the MACs of their layers.
        assert all(j - i <= 5 for i, j in spans)
        macs = specs[network.job_id].macs
        assert macs <= NETWORK_MACS * base_macs(pieces)


@pytest.mark.parametrize("role", ["candidate", "check"])
def test_half_of_the_networks_have_activations_where_a_search_might_put_them(
    role: NetworkRole,
) -> None:
    masks = [network.keep_mask for network in planned().networks_of(role)]
    plain = [mask for mask in masks if mask == _with_plain_signs(mask)]
    assert masks[::2] == plain
    # Removed behind merged spans and at single convolutions, added at linear ones.
    drawn = "".join(
        MASK[j - 1] + mask[j - 1] + (" " if j == i + 1 else "m ")
        for mask in masks[1::2]
        for i, j in mask_spans(mask)
    )
    assert {"1|m", "1|", "|1", "11", "||"} <= set(drawn.split())


def _with_plain_signs(mask: str) -> str:
    """The same spans with the original's signs, and an activation behind each merged one."""
    signs = {j: "1" if j > i + 1 else MASK[i] for i, j in mask_spans(mask)}
    return "".join(signs.get(at, "0") for at in range(1, LENGTH + 1))


def test_an_activation_that_cannot_be_taken_away_stays_in_every_network() -> None:
    pieces = small_pieces()
    spec = OpSpec(
        input_shape=(CHANNELS, 12, 12),
        ops=(span_ops(0, 1)[0], Activation(inputs=(1,), function="silu")),
    )
    kept = replace(pieces.piece("span", (4, 5)), spec=spec)
    made = replace(
        pieces, pieces=tuple(kept if p.place == kept.place else p for p in pieces.pieces)
    )
    rng = random.Random(0)
    drawn = [span_networks.random_signs(made, "1|1111|01", rng) for _ in range(20)]
    assert {mask[4] for mask in drawn} == {"1"}
    assert {mask[7] for mask in drawn} == {"0"}
    assert {mask[3] for mask in drawn} == {mask[8] for mask in drawn} == {"1", "|"}


def test_networks_that_check_merge_few_and_many_convolutions_and_across_blocks() -> None:
    held_out = [merged(network.keep_mask) for network in planned().networks_of("check")]
    counts = [sum(j - i for i, j in spans) for spans in held_out]
    assert counts[0] <= 3
    assert counts[-1] >= 6
    assert len(set(counts)) > 3
    ends = (3, 6)
    assert any(i < end < j for spans in held_out for i, j in spans for end in ends)
    assert any(j - i > 2 for spans in held_out for i, j in spans)


def test_another_seed_draws_other_networks_and_the_same_seed_the_same() -> None:
    plans = [planned(seed) for seed in (0, 0, 1)]
    assert plans[0].networks == plans[1].networks
    assert plans[0].networks[2:] != plans[2].networks[2:]


def test_the_merged_network_is_the_one_of_the_fewest_macs() -> None:
    pieces = small_pieces()
    # Cheap: one convolution for (2 convolutions and an addition) of a chain that is wide inside.
    wide = replace(pieces.piece("span", (1, 2)), spec=_wide(CHANNELS, 10 * CHANNELS))
    narrow = replace(pieces.piece("span", (2, 3)), spec=_wide(10 * CHANNELS, CHANNELS))
    changed = {wide.place: wide, narrow.place: narrow}
    made = replace(pieces, pieces=tuple(changed.get(p.place, p) for p in pieces.pieces))
    plan = plan_jobs(made, lambda mask, padding: _coded(mask), operators, check=0, candidates=0)
    assert [network.keep_mask for network in plan.networks] == [MASK, "101111|11"]
    # Where no merge saves MACs there is no such network.
    assert [network.keep_mask for network in planned().networks_of("start")] == [MASK]


def _wide(into: int, out: int) -> OpSpec:
    convolution, activation = span_ops(0, 1)
    assert isinstance(convolution, Conv)
    ops = (replace(convolution, out_channels=out), activation)
    return OpSpec(input_shape=(into, 12, 12), ops=ops)


def _coded(mask: str) -> OpSpec:
    """Some spec that differs from mask to mask."""
    return OpSpec(input_shape=(1 + int(mask.replace("|", "2"), 3), 2, 2), ops=(span_ops(0, 1)[0],))


def test_a_span_table_predicts_networks_that_took_no_part(
    profiled: tuple[Profile, FakeConnection], tmp_path: Path
) -> None:
    table = profiled[0].table
    assert table.fit_for_search, table.fit_reason
    assert table.hold_out is not None
    assert len(table.hold_out.networks) == 8
    assert table.hold_out.max_error_percent < 0.5
    mask = "101000|11"
    measured_ms = latency_ms(compose(mask, "repad"))
    assert predict(table, mask).latency_ms == pytest.approx(measured_ms, rel=0.005)
    assert predict(table, mask).padding == "repad"
    save_table(table, tmp_path)
    assert load_table(tmp_path) == table
    assert {row.span for row in table.rows if row.kind == "span"} == {
        (i, j) for i in range(LENGTH) for j in range(i + 1, LENGTH + 1) if is_valid(i, j)
    }


def test_a_span_that_one_round_shows_to_be_too_slow_is_bounded(
    profiled: tuple[Profile, FakeConnection],
) -> None:
    table, device = profiled[0].table, profiled[1]
    bounded = {row.span for row in table.rows if row.verdict == "bounded"}
    assert bounded == SLOW
    for span in SLOW:
        row = table.row("span", span)
        assert row.rounds == 1
        assert row.reason.startswith("after 1 of 2 rounds it takes ")
        assert "more than 2 times the " in row.reason
        assert row.in_network_ms is None
        # (0, 6] and (1, 7] are equal pieces.
        assert device.calls[digest(span)] == 1
    others = {row.rounds for row in table.rows if row.verdict == "ok"}
    assert others == {2}
    assert {digest((0, 1)), digest((0, 4))} <= {
        name for name, count in device.calls.items() if count == 2
    }


def test_spans_have_what_the_profile_of_networks_says(
    profiled: tuple[Profile, FakeConnection],
) -> None:
    table = profiled[0].table
    known = [row for row in table.rows if row.profiled_ms is not None]
    assert {row.kind for row in known} == {"stem", "span", "addition", "between", "head"}
    # The device charges a network 0.95 of its pieces and 0.3 ms, which a profile spreads.
    for row in known:
        assert row.latency_ms is not None and row.profiled_ms is not None
        assert 0.95 * row.latency_ms < row.profiled_ms < 1.5 * row.latency_ms


def test_a_span_that_a_planned_network_holds_is_measured_to_the_end(tmp_path: Path) -> None:
    def slower(spec: OpSpec) -> float:
        return latency_ms(spec) + 5 * sum(
            isinstance(op, Conv) and op.kernel == (7, 7) for op in spec.ops
        )

    table = run(request(tmp_path), FakeConnection(latency_ms=slower, layers=layers)).table
    used = {
        span
        for n in (table.hold_out.networks if table.hold_out else ())
        for span in merged(n.keep_mask)
    }
    slow = next(span for span in used if span[1] - span[0] == 3)
    assert table.row("span", slow).verdict == "ok"
    assert table.row("span", slow).rounds == 2
    assert table.hold_out is not None
    assert len(table.hold_out.networks) == 8


def test_a_kernel_wider_than_asked_for_is_never_built(tmp_path: Path) -> None:
    device = fake_device()
    choice = SpanChoice(mode="exact", max_kernel=9)
    table = run(request(tmp_path, spans=choice), device).table
    assert table.spans == choice
    wide = {(i, j) for i, j in (row.span or (0, 0) for row in table.rows) if j - i > 4}
    assert len(wide) > 3
    for span in wide:
        row = table.row("span", span)
        assert (row.verdict, row.latency_ms, row.rounds) == ("bounded", None, 0)
        kernel = 2 * (span[1] - span[0]) + 1
        assert row.reason == (
            f"not measured: its merged kernel is {kernel} wide, at most 9 was asked for"
        )
        assert digest(span) not in device.calls
    assert table.fit_for_search
    for seed in range(5):
        plan = planned(seed, max_kernel=9)
        assert not any(span in wide for n in plan.networks for span in merged(n.keep_mask))


@pytest.mark.parametrize(
    ("limit", "value", "part"),
    [
        ("MOST_MACS", 3, "does 3 times the MACs of its layers; none above 3 times"),
        ("MOST_WEIGHT_BYTES", 40_000, "has 0 MiB of weights; none above 0 MiB"),
    ],
)
def test_a_span_absurd_by_its_size_is_never_built(
    limit: str, value: int, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, limit, value)
    found = bounds.too_large(small_pieces())
    assert {place[1] for place in found} == SLOW
    assert part in found["span", (0, 6)]
    plan = planned()
    assert not {job.id for job in plan.jobs} & {digest(span) for span in SLOW}


@pytest.mark.parametrize(
    ("changes", "is_bounded"),
    [
        ({}, True),
        ({"low_ms": 6.79}, False),
        ({"rounds": 3}, False),
        ({"failed": True}, False),
    ],
)
def test_only_intervals_apart_bound_a_span_that_lacks_rounds(
    changes: dict[str, object], is_bounded: bool
) -> None:
    pieces = small_pieces()
    # (0, 3] is three convolutions of at most 1.1 ms, and an addition of at most 0.1 ms.
    layer = Known(latency_ms=1.0, low_ms=0.9, high_ms=1.1)
    known = {
        digest((0, 1)): layer,
        digest((0, 3)): replace(Known(latency_ms=7.0, low_ms=6.81, high_ms=7.2), **changes),
        pieces.piece("addition", SKIPS[0]).spec.digest: Known(0.09, 0.08, 0.1),
    }
    found = bounds.too_slow(pieces, known)  # type: ignore[arg-type]
    assert (("span", (0, 3)) in found) == is_bounded
    assert ("span", (0, 3)) not in bounds.too_slow(pieces, known, [("span", (0, 3))])  # type: ignore[arg-type]
    del known[digest((0, 1))]
    assert not bounds.too_slow(pieces, known)  # type: ignore[arg-type]


def test_the_layers_of_a_span_are_taken_with_the_additions_that_it_swallows() -> None:
    pieces = small_pieces()
    assert [piece.name for piece in bounds.one_by_one(pieces, (0, 4))] == [
        *("span 0-1", "span 1-2", "span 2-3", "span 3-4"),
        "addition 1-3",
    ]
    assert len(bounds.one_by_one(pieces, (1, 6))) == 5 + 2
    assert len(bounds.one_by_one(pieces, (3, 4))) == 1


def test_no_network_does_much_more_than_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_networks, "NETWORK_MACS", 1.1)
    pieces = small_pieces()
    base = span_networks.base_macs(pieces)
    masks = span_networks.between_span_masks(pieces, 8, 0)
    assert masks
    for mask in masks:
        assert sum(pieces.piece(*at).spec.macs for at in pieces.forms.places(mask, "repad")) <= (
            1.1 * base
        )


def test_spans_of_one_network_never_overlap() -> None:
    # (0, 4] and (3, 6] together would leave (4, 6].
    left_out = [("span", (4, 6)), ("span", (4, 7))]
    for seed in range(5):
        masks = span_networks.between_span_masks(small_pieces(), 8, seed, left_out=left_out)
        assert len(masks) == 8
        assert not any({(4, 6), (4, 7)} & set(merged(mask)) for mask in masks)


def test_each_place_of_a_piece_is_judged_by_its_own_layers() -> None:
    pieces = small_pieces()
    two = digest((7, 9))
    assert two == digest((1, 3))
    known = {
        digest((0, 1)): Known(latency_ms=1.0, high_ms=1.1),
        pieces.piece("addition", SKIPS[0]).spec.digest: Known(0.09, 0.08, 0.1),
    }
    # (1, 3] and (4, 6] swallow an addition, (7, 9] does not: twice its layers are 4.6 and 4.4 ms.
    for low_ms, places in ((4.5, {(7, 9)}), (4.7, {(1, 3), (4, 6), (7, 9)})):
        measured = {**known, two: Known(latency_ms=5.0, low_ms=low_ms, high_ms=5.5)}
        slow = bounds.too_slow(pieces, measured)  # type: ignore[arg-type]
        assert {place[1] for place in slow} == places


class Killed(BaseException):
    pass


def test_an_interrupted_profile_goes_on_to_the_same_table(tmp_path: Path) -> None:
    def stop_after(count: int):
        def progress(done: int, total: int, label: str) -> None:
            if done >= count:
                raise Killed

        return progress

    device = FakeConnection(latency_ms=latency_ms, layers=layers)
    for count in (5, 70):
        with pytest.raises(Killed):
            run(request(tmp_path), device, stop_after(count))
    made = run(request(tmp_path), device)
    whole = run(request(tmp_path / "whole"), FakeConnection(latency_ms=latency_ms, layers=layers))
    assert [(r.piece, r.verdict, r.latency_ms) for r in made.table.rows] == [
        (r.piece, r.verdict, r.latency_ms) for r in whole.table.rows
    ]
    assert made.session.reused >= 70
    # Nothing is left to do, and no file is left to write.
    estimates: list[DurationEstimate] = []
    again = run_with_estimate(tmp_path, estimates)
    assert (estimates[0].remaining, again.session.measured) == (0, 0)
    assert estimates[0].file_bytes == 0


def run_with_estimate(folder: Path, estimates: list[DurationEstimate]) -> Profile:
    device = FakeConnection(latency_ms=latency_ms, layers=layers)
    return profile(request(folder), SerialScheduler(device), on_start=estimates.append)


def test_spans_and_blocks_share_no_journal(tmp_path: Path) -> None:
    run_blocks(tmp_path, fake_device())
    with pytest.raises(JournalError):
        run(request(tmp_path), fake_device())


@dataclass(frozen=True)
class Known:
    """What the rules ask of a measurement."""

    latency_ms: float
    low_ms: float = 0.0
    high_ms: float = 0.0
    rounds: int = 1
    rounds_wanted: int = 3
    failed: bool = False


def test_the_additions_of_a_network_are_those_that_no_span_swallows() -> None:
    for mask, count in (("1|1111|11", 2), ("101111|11", 1), ("101001|11", 0)):
        assert sum(isinstance(op, Add) for op in compose(mask, "repad").ops) == count
        places = small_pieces().forms.places(mask, "repad")
        assert sum(kind == "addition" for kind, _ in places) == count
