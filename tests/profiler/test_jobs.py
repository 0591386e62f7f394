import dataclasses
import hashlib
from pathlib import Path

import pytest
from small_network import CHANNELS, compose, network_pieces, operators, small_plan

from devices.agent.protocol import PROTOCOL, parse_request
from devices.connection import PushedFile
from latency_tables.opspec import OpSpec
from latency_tables.schema import Conditions
from profiler.errors import InvalidJobError
from profiler.planning.hold_out import between_masks
from profiler.planning.jobs import PROFILE_RULE, FileJob, JobPlan, expected_s, measure_request
from profiler.planning.profile_plan import ProfilePlan, plan_jobs

BLOCKS = len(CHANNELS) - 1


def test_every_digest_is_measured_once_and_every_piece_is_covered() -> None:
    plan = small_plan()
    pieces = [job for job in plan.jobs if job.kind == "piece"]
    assert {job.spec.digest for job in pieces} == {p.spec.digest for p in plan.pieces.pieces}
    assert len({job.spec.digest for job in pieces}) == len(pieces)
    shared = [job.label for job in pieces if "equal" in job.label]
    # Blocks 2 and 3 both map 16 channels to 16.
    assert "block 2 original (and 1 equal)" in shared


def keys(plan: ProfilePlan, *roles: str) -> list[tuple[str, str]]:
    return [(n.keep_mask, n.padding) for n in plan.networks_of(*roles)]  # type: ignore[arg-type]


def test_a_profile_starts_from_the_original_network_and_the_all_merged_ones() -> None:
    plan = small_plan(check=8)
    assert keys(plan, "start") == [
        ("1" * BLOCKS, "repad"),
        ("0" * BLOCKS, "repad"),
        ("0" * BLOCKS, "bias_map"),
    ]
    assert len(plan.networks_of("check")) == 8
    assert keys(plan, "start", "check", "candidate") == [
        (n.keep_mask, n.padding) for n in plan.networks
    ]
    for network in plan.networks:
        assert plan.by_id[network.job_id].spec == compose(network.keep_mask, network.padding)


def test_candidates_lie_between_and_are_none_of_the_networks_that_check() -> None:
    # 62 masks lie between none and all of six blocks: there is room for both.
    plan = small_plan(check=20, candidates=40)
    candidates, checks = ([mask for mask, _ in keys(plan, role)] for role in ("candidate", "check"))
    assert (len(candidates), len(checks)) == (40, 20)
    assert len({*candidates, *checks}) == 60
    assert not {"0" * BLOCKS, "1" * BLOCKS} & {*candidates, *checks}
    for role in ("candidate", "check"):
        assert {padding for _, padding in keys(plan, role)} == {"repad", "bias_map"}
    # Those that check stay the same however many candidates there are.
    assert keys(small_plan(check=20, candidates=3), "check") == keys(plan, "check")


def test_the_layers_of_networks_are_profiled_but_for_those_that_check() -> None:
    plan = small_plan(profiles=True)
    by_id = plan.by_id
    learnt = plan.networks_of("start", "candidate")
    assert [job.id for job in plan.jobs if job.kind == "layers"] == [n.profile_id for n in learnt]
    for network in learnt:
        assert by_id[network.profile_id].spec == by_id[network.job_id].spec
    assert {network.profile_id for network in plan.networks_of("check")} == {""}
    without = small_plan()
    assert without.jobs == tuple(job for job in plan.jobs if job.kind != "layers")
    assert {network.profile_id for network in without.networks} == {""}
    assert without.piece_ids == plan.piece_ids
    assert without.shared == plan.shared


def test_networks_of_equal_operators_are_one_job() -> None:
    def blind(mask: str, padding: str) -> OpSpec:
        """Moving padding inside changes nothing that takes time."""
        return compose(mask, "repad")

    plan = plan_jobs(network_pieces(), blind, operators, check=2, candidates=4, profiles=True)
    first, second = plan.networks_of("start")[1:]
    assert first.job_id == second.job_id == "network 000000 repad"
    assert first.profile_id == second.profile_id
    assert sum(job.kind == "layers" for job in plan.jobs) == 2 + 4


def test_the_places_of_the_planned_networks_are_those_of_their_pieces() -> None:
    plan = small_plan()
    for network in plan.networks:
        owners = plan.operators(network.keep_mask, network.padding)
        assert tuple(dict.fromkeys(owners)) == plan.places(network)
    assert plan.in_networks == {piece.place for piece in plan.pieces.pieces}


def test_without_bias_maps_there_is_one_form() -> None:
    whole = network_pieces()
    pieces = dataclasses.replace(
        whole, pieces=tuple(p for p in whole.pieces if p.kind != "merged_bias_map")
    )
    plan = plan_jobs(pieces, compose, operators)
    assert {network.padding for network in plan.networks} == {"repad"}
    assert len(plan.networks_of("start")) == 2


def test_a_network_that_cannot_merge_is_the_only_one() -> None:
    pieces = network_pieces(dict.fromkeys(range(BLOCKS), "squeeze-excite"))
    plan = plan_jobs(pieces, compose, operators)
    assert keys(plan, "start", "check", "candidate") == [("1" * BLOCKS, "repad")]


def test_of_one_block_that_can_merge_there_is_no_network_between() -> None:
    pieces = network_pieces(dict.fromkeys(range(1, BLOCKS), "squeeze-excite"))
    plan = plan_jobs(pieces, compose, operators)
    assert [mask for mask, _ in keys(plan, "start")] == ["111111", "011111", "011111"]
    assert not plan.networks_of("check", "candidate")


def test_the_plan_digest_changes_with_any_job_and_with_nothing_else() -> None:
    plan = small_plan()
    assert small_plan().digest == plan.digest
    assert small_plan(check=7).digest != plan.digest
    assert small_plan(candidates=5).digest != plan.digest
    assert small_plan(seed=1).digest != plan.digest
    assert small_plan(profiles=True).digest != plan.digest


def test_a_plan_refuses_two_jobs_of_one_name() -> None:
    plan = small_plan()
    with pytest.raises(InvalidJobError, match="share their id"):
        dataclasses.replace(plan, jobs=plan.jobs * 2)
    with pytest.raises(InvalidJobError, match="share their id"):
        JobPlan(jobs=(*plan.jobs, plan.jobs[0]))
    with pytest.raises(InvalidJobError, match="nothing to measure"):
        JobPlan(jobs=())
    with pytest.raises(InvalidJobError, match=r"not in the plan: \['another'\]"):
        JobPlan(jobs=plan.jobs, shared=(plan.jobs[0].id, "another"))


def test_the_agent_takes_the_request() -> None:
    conditions = Conditions(device="d", runtime="onnxruntime", runtime_version="1", threads=2)
    file = PushedFile(path="/there/a.onnx", sha256="0" * 64)
    job = dataclasses.replace(small_plan().jobs[0], weights_seed=1)
    request = measure_request(job, file, conditions, PROFILE_RULE)
    parsed = parse_request({"protocol": PROTOCOL, "id": "1", **request}).measure
    assert parsed is not None
    assert (parsed.threads, parsed.seed, parsed.rule) == (2, 1, PROFILE_RULE)
    assert parsed.resources is False


def test_memory_and_energy_are_asked_of_what_is_measured_and_not_of_layers() -> None:
    conditions = Conditions(device="d", runtime="onnxruntime", runtime_version="1")
    file = PushedFile(path="/there/a.onnx", sha256="0" * 64)
    for job in small_plan(profiles=True).jobs:
        request = measure_request(job, file, conditions, PROFILE_RULE, resources=True)
        parsed = parse_request({"protocol": PROTOCOL, "id": "1", **request}).measure
        assert parsed is not None and parsed.resources is (job.kind != "layers")


@pytest.mark.parametrize("seed", range(5))
def test_hold_out_masks_are_new_networks_of_all_depths_in_both_forms(seed: int) -> None:
    pieces = network_pieces({1: "squeeze-excite"})
    chosen = between_masks(pieces, 10, seed)
    masks = [mask for mask, _ in chosen]
    assert len(set(masks)) == len(masks) == 10
    assert all(mask[1] == "1" for mask in masks)
    kept = [mask.count("1") - 1 for mask in masks]
    assert {1, 2, 3, 4} == set(kept)  # of the five that can merge, neither none nor all
    assert max(map(kept.count, range(1, 5))) - min(map(kept.count, range(1, 5))) <= 1
    forms = [padding for _, padding in chosen]
    assert forms.count("repad") == forms.count("bias_map") == 5
    assert chosen == between_masks(pieces, 10, seed)
    assert chosen != between_masks(pieces, 10, seed + 100)


def test_a_network_of_few_blocks_gets_every_mask_there_is() -> None:
    pieces = network_pieces(dict.fromkeys(range(3, BLOCKS), "no"))
    chosen = between_masks(pieces, 20, 0)
    tail = "1" * (BLOCKS - 3)
    assert sorted(mask for mask, _ in chosen) == [
        f"{number:03b}{tail}" for number in range(1, 0b111)
    ]
    assert between_masks(network_pieces(dict.fromkeys(range(1, BLOCKS), "no")), 5, 0) == ()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unmergeable", [(), (1,), (0, 5)])
def test_masks_between_leave_out_those_that_are_taken(
    seed: int, unmergeable: tuple[int, ...]
) -> None:
    pieces = network_pieces(dict.fromkeys(unmergeable, "no"))
    first = between_masks(pieces, 10, seed)
    taken = [mask for mask, _ in first]
    # Asked for more than there are: all the others come, each once.
    rest = [mask for mask, _ in between_masks(pieces, 1000, seed, taken)]
    assert not set(rest) & set(taken)
    assert len(rest) == len(set(rest)) == 2 ** (BLOCKS - len(unmergeable)) - 2 - 10
    few = [mask for mask, _ in between_masks(pieces, 4, seed, taken)]
    assert not set(few) & set(taken)
    assert len(few) == 4


def test_when_every_mask_is_taken_none_is_left() -> None:
    pieces = network_pieces(dict.fromkeys(range(3, BLOCKS), "no"))
    taken = [mask for mask, _ in between_masks(pieces, 20, 0)]
    assert between_masks(pieces, 5, 0, taken) == ()


def test_a_file_is_a_job_whose_digest_is_that_of_its_content(tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(b"one")
    job = FileJob(id="mine", kind="network", label="my network", file=file)
    assert job.digest == hashlib.sha256(b"one").hexdigest()
    before = JobPlan(jobs=(job,)).digest
    file.write_bytes(b"two")
    assert JobPlan(jobs=(job,)).digest != before


def test_three_pieces_of_middling_sizes_are_shared() -> None:
    plan = small_plan()
    by_id = {job.id: job for job in plan.jobs}
    sizes = sorted(job.spec.macs for job in plan.jobs if job.kind == "piece")
    ranks = [sizes.index(by_id[name].spec.macs) / len(sizes) for name in plan.shared]
    assert len(ranks) == 3
    assert 0.1 < ranks[0] < 0.4 < ranks[1] < 0.6 < ranks[2] < 0.9


def test_a_visit_is_short_and_its_warm_up_shorter() -> None:
    assert expected_s(PROFILE_RULE) < 0.2
    assert PROFILE_RULE.warmup_s < PROFILE_RULE.min_total_s < PROFILE_RULE.cap_s
    # Three windows have to agree before the cap.
    assert 3 * PROFILE_RULE.window_s < PROFILE_RULE.warmup_cap_s
