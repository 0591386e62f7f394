"""What measurements say about pieces in networks, on devices whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_network import (
    CONDITIONS,
    compose,
    is_whole_network,
    merged,
    network_pieces,
    operators,
    original,
    parts,
    session,
    small_plan,
)

from latency_tables.opspec import OpSpec
from latency_tables.places import Place
from profiler.fake_device import FakeConnection
from profiler.measurement import Measurement
from profiler.planning.profile_plan import ProfilePlan, plan_jobs
from profiler.table.evidence import Evidence, Measurements, Weigher, weigh

PLAN = small_plan(check=12, candidates=20, profiles=True)
ENDS_MS = 0.1


def in_network_ms(spec: OpSpec) -> float:
    """Additive over operators; each piece differs from that by up to a tenth, by its digest."""
    return 1e-5 * spec.macs + 0.02 * len(spec.ops)


def own_share(place: Place) -> float:
    return random.Random(str(place)).uniform(0.9, 1.1)


TRUTH_MS: dict[str, dict[Place, float]] = {
    compose(mask, padding).digest: {
        place: own_share(place) * in_network_ms(spec) for place, spec in parts(mask, padding)
    }
    for mask, padding in ((n.keep_mask, n.padding) for n in PLAN.networks)
}


def latency_ms(spec: OpSpec) -> float:
    """Alone a piece costs more: a tenth, and its ends. A network is the sum of its pieces."""
    if is_whole_network(spec):
        return sum(TRUTH_MS[spec.digest].values())
    return in_network_ms(spec) / 0.9 + ENDS_MS


def layers(spec: OpSpec) -> Sequence[tuple[str, float]]:
    """Each piece's time at its first operator; the profiler slows all of them."""
    mask, padding = next(
        (n.keep_mask, n.padding)
        for n in PLAN.networks
        if PLAN.by_id[n.job_id].spec.digest == spec.digest
    )
    owners = operators(mask, padding)
    return [
        (f"t{owners.index(place) + 1}/Conv", 1.4 * ms)
        for place, ms in TRUTH_MS[spec.digest].items()
        if place[0] != "head"
    ] + [("result/Gemm", 1.4 * TRUTH_MS[spec.digest]["head", None])]


def measure(folder: Path, plan: ProfilePlan = PLAN, **script: object) -> Measurements:
    device = FakeConnection(**{"latency_ms": latency_ms, "layers": layers} | script)  # type: ignore[arg-type]
    with session(folder, device, plan=plan) as opened:
        return opened.run().measurements


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measurements:
    return measure(tmp_path_factory.mktemp("truth"), noise=0.002, round_noise=0.02)


def found_by(plan: ProfilePlan, measurements: Measurements) -> Evidence:
    found = weigh(plan, CONDITIONS, measurements)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def evidence(measured: Measurements) -> Evidence:
    return found_by(PLAN, measured)


def without(measured: Measurements, *jobs: str) -> Measurements:
    never = {job: replace(measured[job], replies=()) for job in jobs}
    return {**measured, **never}


def errors(found: Evidence, plan: ProfilePlan = PLAN) -> list[float]:
    """Of the predictions of the networks that take no part, as shares."""
    return [
        found.costs.predict(plan.places(n))[0] / sum(TRUTH_MS[plan.by_id[n.job_id].digest].values())
        - 1.0
        for n in plan.networks_of("check")
    ]


def without_level(values: Sequence[float]) -> list[float]:
    """The machine's own level is known to about a per cent from three processes."""
    middle = sum(values) / len(values)
    assert abs(middle) < 0.03
    return [value - middle for value in values]


def test_networks_that_took_no_part_are_predicted_within_a_per_cent(evidence: Evidence) -> None:
    assert max(map(abs, without_level(errors(evidence)))) < 0.01
    assert set(evidence.errors) == {network.job_id for network in PLAN.networks}
    assert all(0.0003 < error < 0.01 for error in evidence.errors.values())


def test_from_pieces_alone_and_networks_predictions_are_within_a_per_cent(
    measured: Measurements,
) -> None:
    profiles = [n.profile_id for n in PLAN.networks if n.profile_id]
    found = found_by(PLAN, without(measured, *profiles))
    assert found.estimate.prior == "alone"
    assert {row.profiled_ms for row in found.rows} == {None}
    assert max(map(abs, without_level(errors(found)))) < 0.01
    # A sum of pieces alone is far off.
    alone_ms = {row.place: row.latency_ms or 0.0 for row in found.rows}
    base = PLAN.networks[0]
    truth_ms = sum(TRUTH_MS[PLAN.by_id[base.job_id].digest].values())
    assert sum(alone_ms[place] for place in PLAN.places(base)) > 1.05 * truth_ms


def test_a_profile_that_is_right_is_preferred_to_pieces_alone(evidence: Evidence) -> None:
    assert evidence.estimate.prior == "profile"
    pieces = {piece.place: piece.spec for piece in PLAN.pieces.pieces}
    level = sum(errors(evidence)) / len(PLAN.networks_of("check"))
    for row in evidence.rows:
        truth_ms = own_share(row.place) * in_network_ms(pieces[row.place])
        assert row.profiled_ms == pytest.approx(truth_ms * (1.0 + level), rel=0.02), row.piece
    assert evidence.unnamed_percent == 0.0


def test_layers_without_names_of_ours_are_spread_and_their_share_is_said(tmp_path: Path) -> None:
    def partly_named(spec: OpSpec) -> Sequence[tuple[str, float]]:
        known = layers(spec)
        return [*known, ("__myl_Fc_myl0_7", 0.25 * sum(ms for _, ms in known))]

    found = found_by(PLAN, measure(tmp_path, layers=partly_named))
    assert found.unnamed_percent == pytest.approx(20.0)
    assert max(map(abs, errors(found))) < 0.01


def test_each_network_is_to_be_fitted_or_to_check(evidence: Evidence) -> None:
    roles = {(n.keep_mask, n.padding): n.role for n in evidence.networks}
    for planned in PLAN.networks:
        wanted = "check" if planned.role == "check" else "fit"
        assert roles[planned.keep_mask, planned.padding] == wanted
    assert len(roles) == len(PLAN.networks)
    assert {n.processes for n in evidence.networks} == {3}
    assert all(n.low_ms < n.measured_ms < n.high_ms for n in evidence.networks)


def test_networks_that_check_change_no_cost(measured: Measurements, evidence: Evidence) -> None:
    slow = {n.job_id: _slower(measured[n.job_id], 2) for n in PLAN.networks_of("check")}
    found = found_by(PLAN, {**measured, **slow})
    assert errors(found) == pytest.approx(errors(evidence), abs=5e-3)


def _slower(one: Measurement, factor: int) -> Measurement:
    replies = []
    for reply in one.replies:
        assert reply.samples is not None
        times = {
            name: tuple(factor * ns for ns in getattr(reply.samples, name))
            for name in ("wall_ns", "cpu_ns")
        }
        replies.append(replace(reply, outcome=replace(reply.samples, **times)))
    return replace(one, replies=tuple(replies))


def test_a_network_joins_the_estimate_from_three_processes_on(measured: Measurements) -> None:
    late = PLAN.networks_of("candidate")[0]
    wrong = _slower(measured[late.job_id], 2)
    once = replace(wrong, replies=wrong.replies[:1])
    found = found_by(PLAN, {**measured, late.job_id: once})
    assert errors(found) == pytest.approx(
        errors(found_by(PLAN, without(measured, late.job_id))), abs=1e-4
    )
    # Where none was in more, one process has to do.
    first = {name: replace(one, replies=one.replies[:1]) for name, one in measured.items()}
    assert max(map(abs, without_level(errors(found_by(PLAN, first))))) < 0.02


@pytest.mark.parametrize("fault", ["bad_model", "crash"])
def test_a_failed_network_is_named_and_the_others_say_what_they_can(
    tmp_path: Path, fault: str
) -> None:
    lost = PLAN.networks_of("candidate")[3]
    digest = PLAN.by_id[lost.job_id].digest
    found = found_by(
        PLAN,
        measure(tmp_path, fault=lambda spec, call: fault if spec.digest == digest else None),
    )
    (reason,) = found.missing
    assert reason.startswith(f"network {lost.keep_mask} failed: {_TYPES[fault]}: ")
    assert len(found.networks) == len(PLAN.networks) - 1
    assert max(map(abs, errors(found))) < 0.01


_TYPES = {"bad_model": "bad_model", "crash": "agent_crashed"}


def test_networks_of_a_piece_that_failed_say_nothing_and_are_not_known(tmp_path: Path) -> None:
    broken = merged(4, False).digest
    found = found_by(
        PLAN,
        measure(tmp_path, fault=lambda spec, call: "bad_model" if spec.digest == broken else None),
    )
    assert ("merged", 4) not in found.costs.places
    unknown = [n for n in PLAN.networks if not found.knows(PLAN.places(n))]
    assert unknown == [n for n in PLAN.networks if ("merged", 4) in PLAN.places(n)]
    row = next(row for row in found.rows if row.place == ("merged", 4))
    assert (row.verdict, row.latency_ms) == ("failed", None)


def _nothing(measured: Measurements, kinds: Sequence[str]) -> Measurements:
    return without(measured, *(job.id for job in PLAN.jobs if job.kind in kinds))


@pytest.mark.parametrize("kinds", [("piece",), ("network",), ("piece", "network", "layers")])
def test_without_pieces_or_without_networks_there_is_no_evidence(
    measured: Measurements, kinds: Sequence[str]
) -> None:
    assert weigh(PLAN, CONDITIONS, _nothing(measured, kinds)) is None


def test_the_same_measurements_are_weighed_once(
    measured: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Measurements] = []

    def counted(plan: object, conditions: object, measurements: Measurements) -> None:
        asked.append(measurements)

    monkeypatch.setattr("profiler.table.evidence.weigh", counted)
    weigher = Weigher(PLAN, CONDITIONS)
    less = without(measured, PLAN.piece_ids[0])
    again = {name: _again(one) for name, one in measured.items()}
    for one in (measured, less, dict(measured), again, dict(less), again):
        weigher(one)
    assert asked == [measured, less, again]


def _again(one: Measurement) -> Measurement:
    """The last visit was repeated."""
    *others, last = one.replies
    return replace(one, replies=(*others, replace(last, attempt=last.attempt + 1)))


@pytest.mark.parametrize(
    ("unmergeable", "networks"), [(range(6), 1), (range(1, 6), 3)], ids=["none", "one"]
)
def test_with_hardly_a_network_pieces_decide(
    tmp_path: Path, unmergeable: Sequence[int], networks: int
) -> None:
    pieces = network_pieces(dict.fromkeys(unmergeable, "squeeze-excite"))
    plan = plan_jobs(pieces, compose, operators, check=4, candidates=4)

    def additive(spec: OpSpec) -> float:
        return in_network_ms(spec) * (0.9 if is_whole_network(spec) else 1.0)

    found = found_by(plan, measure(tmp_path, plan, latency_ms=additive))
    assert len(found.networks) == networks
    for network in plan.networks:
        latency, sd_ms = found.costs.predict(plan.places(network))
        truth_ms = additive(compose(network.keep_mask, network.padding))
        assert latency == pytest.approx(truth_ms, rel=0.01)
        assert sd_ms < 0.03 * truth_ms
    original_ms, sd_ms = found.costs.of(("original", 1))
    assert abs(original_ms - 0.9 * in_network_ms(original(1))) < 2 * sd_ms
