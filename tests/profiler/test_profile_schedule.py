"""Which jobs the rounds of a profile have, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from small_network import small_plan

from latency_tables.estimator import NORMAL_MEAN, Costs
from latency_tables.networks import Level
from latency_tables.priors import Estimate
from profiler.errors import InvalidJobError
from profiler.measurement import Measurement
from profiler.profile_schedule import (
    BATCH,
    LEAST_ROUNDS,
    LEVEL_NETWORKS,
    NETWORK_SHARE,
    PROFILES,
    TARGET_PERCENT,
    ProfileSchedule,
    building,
)
from profiler.replies import Failure, LayerTimes, Reply, Samples
from profiler.schedule import Known
from profiler.table.evidence import Evidence

PLAN = small_plan(check=8, candidates=40, profiles=True)
CANDIDATES = [network.job_id for network in PLAN.networks_of("candidate")]
FIRST = [network.job_id for network in PLAN.networks_of("start", "check")]
PROFILE_OF = {network.job_id: network.profile_id for network in PLAN.networks}
NAME_OF_PROFILE = {profile: name for name, profile in PROFILE_OF.items() if profile}

SAMPLES = Samples(wall_ns=(1_000_000,) * 5)
LAYERS = LayerTimes(layers=(("t1/Conv", (1000, 1000)),))
CRASH = Failure(type="agent_crashed", message="ended by signal 11")
BROKEN = Failure(type="bad_model", message="unknown operator")


def measured(name: str, *outcomes: Samples | LayerTimes | Failure) -> Measurement:
    replies = tuple(
        Reply(job_id=name, round=number, attempt=0, board="b", outcome=outcome)
        for number, outcome in enumerate(outcomes)
    )
    return Measurement(job_id=name, replies=replies, clock="wall", rounds_wanted=2)


def known(
    rounds: Mapping[str, int],
    others: Mapping[str, Measurement] | None = None,
    spent_s: float = 0.0,
) -> Known:
    """So many rounds of each job, and none of those that are not named."""
    found = {}
    for job in PLAN.jobs:
        outcome = LAYERS if job.kind == "layers" else SAMPLES
        found[job.id] = measured(job.id, *[outcome] * rounds.get(job.id, 0))
    return Known(measurements={**found, **(others or {})}, spent_s=spent_s)


def first_known(count: int, chosen: Mapping[str, int] | None = None, **more: object) -> Known:
    """``count`` rounds of the first networks and of all pieces."""
    names = [*PLAN.piece_ids, *FIRST]
    return known({**dict.fromkeys(names, count), **(chosen or {})}, **more)  # type: ignore[arg-type]


#: What networks are measured to while rounds are few, with the usual target.
NETWORK_ERROR = NETWORK_SHARE * TARGET_PERCENT / 100
#: What networks are known to where nothing else is said: the later ones better.
WELL = {name: 0.001 - 1e-6 * number for number, name in enumerate((*FIRST, *CANDIDATES))}


def evidence(error_percent: float, errors: Mapping[str, float] | None = None) -> Evidence:
    """Pieces of 1 ms, of which predictions are off by this on average (eight pieces a network).

    ``errors`` are those of networks, as shares.
    """
    places = sorted(PLAN.in_networks, key=str)
    pairs = [("pair", (block, block + 1)) for block in range(5)]
    sd_ms = error_percent / 100 / NORMAL_MEAN * math.sqrt(8)
    variances = [*[sd_ms**2] * len(places), *[0.0] * len(pairs)]
    return Evidence(
        rows=(),
        networks=(),
        estimate=Estimate(prior="alone", spread=0.1, floor=0.1, pairs=0.1, noise=0.1),
        costs=Costs(
            places=(*places, *pairs),  # type: ignore[arg-type]
            mean_ms=np.array([*[1.0] * len(places), *[0.0] * len(pairs)]),
            covariance=np.diag(variances),
            noise=0.0,
        ),
        level=Level(
            level_percent_low=99,
            level_percent_high=101,
            spread_percent=1,
            moved_percent=1,
            processes=3,
        ),
        errors={**WELL, **(errors or {})},
        unnamed_percent=0.0,
        missing=(),
    )


def schedule(
    error_percent: float | None = 5.0,
    errors: Mapping[str, float] | None = None,
    **changes: object,
) -> ProfileSchedule:
    found = None if error_percent is None else evidence(error_percent, errors)
    return ProfileSchedule(plan=PLAN, weigh=lambda measurements: found, **changes)  # type: ignore[arg-type]


def networks_in(jobs: object) -> list[str]:
    return [name for name in jobs if PLAN.by_id[name].kind == "network"]  # type: ignore[attr-defined]


def profiles_in(jobs: object) -> list[str]:
    """The networks whose layers are profiled."""
    return [NAME_OF_PROFILE[name] for name in jobs if name in NAME_OF_PROFILE]  # type: ignore[attr-defined]


def test_the_first_round_has_all_pieces_and_the_networks_that_every_profile_has() -> None:
    jobs = list(schedule().next_round(0, known({})))
    assert {name for name in jobs if PLAN.by_id[name].kind == "piece"} == set(PLAN.piece_ids)
    assert networks_in(jobs) == FIRST
    # Networks that check are not profiled: nothing is learned from them.
    assert profiles_in(jobs) == [network.job_id for network in PLAN.networks_of("start")]


def test_the_second_round_adds_two_batches_of_candidates() -> None:
    jobs = list(schedule().next_round(1, first_known(1)))
    chosen = [name for name in networks_in(jobs) if name not in FIRST]
    assert len(chosen) == 2 * BATCH
    assert set(chosen) <= set(CANDIDATES)
    assert set(FIRST) <= set(jobs)
    assert set(PLAN.piece_ids) <= set(jobs)
    assert set(chosen) <= set(profiles_in(jobs))
    # Whether they are needed is known once they are measured.
    assert joining(schedule(0.1), 1, first_known(1)) == 2 * BATCH


def chosen_known(number: int, count: int, batch: int = 2 * BATCH, spent_s: float = 0.0) -> Known:
    """The first networks in ``number`` rounds, and a first batch in ``count``."""
    return first_known(number, dict.fromkeys(CANDIDATES[:batch], count), spent_s=spent_s)


def joining(found: ProfileSchedule, number: int, before: Known) -> int:
    """How many networks join in a round."""
    jobs = networks_in(found.next_round(number, before))
    there = [name for name in CANDIDATES if before.measurements[name].replies]
    return len(set(jobs) - {*FIRST, *there})


def test_pieces_are_in_two_rounds_and_never_again() -> None:
    jobs = set(schedule().next_round(2, chosen_known(2, 1)))
    assert not jobs & set(PLAN.piece_ids)


@pytest.mark.parametrize(
    ("number", "count", "error_percent", "joined"),
    [(2, 1, 5.0, 0), (3, 2, 5.0, 0), (4, 3, 5.0, BATCH), (4, 3, 0.1, 0), (7, 6, 5.0, BATCH)],
)
def test_another_batch_joins_once_the_last_one_was_in_enough_rounds_and_the_error_is_too_large(
    number: int, count: int, error_percent: float, joined: int
) -> None:
    assert joining(schedule(error_percent), number, chosen_known(number, count)) == joined


def test_a_smaller_target_needs_more_networks() -> None:
    before = chosen_known(4, 3)
    assert joining(schedule(0.5, target_percent=0.7), 4, before) == 0
    assert joining(schedule(0.5, target_percent=0.3), 4, before) == BATCH


def test_the_last_candidates_join_however_few_they_are() -> None:
    assert joining(schedule(), 6, chosen_known(6, 5, batch=len(CANDIDATES) - 3)) == 3


@pytest.mark.parametrize(
    ("number", "count", "error_percent", "worst", "is_over"),
    [
        (5, 4, 0.1, 0.001, False),  # fewer rounds than any profile has
        (6, 5, 0.1, 0.001, True),
        (6, 5, 5.0, 0.001, False),  # predictions are not right
        (6, 2, 0.1, 0.001, False),  # a network joined late
        (6, 5, 0.1, 2 * NETWORK_ERROR, False),  # a network is not known well enough
        (10, 9, 0.1, 2 * NETWORK_ERROR, True),  # nor will it be
        (10, 9, 0.1, 0.02, True),
        (10, 9, 5.0, 2 * NETWORK_ERROR, False),
        (10, 2, 0.1, 2 * NETWORK_ERROR, False),
        (16, 1, 5.0, 0.02, True),
    ],
)
def test_a_profile_ends_when_predictions_are_right_and_networks_known(
    number: int, count: int, error_percent: float, worst: float, is_over: bool
) -> None:
    found = schedule(error_percent, {FIRST[2]: worst})
    assert (not found.next_round(number, chosen_known(number, count))) == is_over


def test_later_rounds_have_the_networks_that_are_not_known_well_and_the_best_known() -> None:
    joined = CANDIDATES[: 2 * BATCH]
    unsure = [FIRST[1], joined[3]]
    found = schedule(0.1, dict.fromkeys(unsure, 2 * NETWORK_ERROR))
    before = chosen_known(6, 5)
    assert set(networks_in(schedule(0.1).next_round(5, chosen_known(5, 4)))) == {*FIRST, *joined}
    jobs = networks_in(found.next_round(6, before))
    assert jobs[:2] == unsure
    best = sorted({*FIRST, *joined} - set(unsure), key=WELL.__getitem__)
    assert jobs[2:] == best[: LEVEL_NETWORKS - 2]
    # Where more than that are unsure, those are the round.
    many = [*FIRST, *joined[:5]]
    found = schedule(0.1, dict.fromkeys(many, 2 * NETWORK_ERROR))
    assert set(networks_in(found.next_round(6, before))) == set(many)


def test_a_wider_target_needs_less_precise_networks() -> None:
    unsure = {FIRST[2]: 2 * NETWORK_ERROR}
    assert schedule(0.1, unsure).next_round(6, chosen_known(6, 5))
    assert not schedule(0.1, unsure, target_percent=2.0).next_round(6, chosen_known(6, 5))


def test_what_joins_late_is_in_the_rounds_that_it_needs() -> None:
    before = first_known(7, {**dict.fromkeys(CANDIDATES[:16], 6), CANDIDATES[20]: 1})
    assert CANDIDATES[20] in schedule(0.1).next_round(7, before)
    before = first_known(9, {**dict.fromkeys(CANDIDATES[:16], 8), CANDIDATES[20]: 3})
    assert not schedule(0.1).next_round(9, before)


def test_a_profile_ends_when_no_network_is_left_to_make_predictions_better() -> None:
    every = chosen_known(6, 5, batch=len(CANDIDATES))
    assert not schedule(5.0).next_round(6, every)
    late = chosen_known(6, 2, batch=len(CANDIDATES))
    assert schedule(5.0).next_round(6, late)


def test_no_network_joins_that_could_not_be_in_enough_rounds() -> None:
    last = 16 - LEAST_ROUNDS
    assert joining(schedule(), last, chosen_known(last, last - 1)) == BATCH
    # Then there is nothing left to do, unless a network is known poorly.
    after = chosen_known(last + 1, last)
    assert not schedule().next_round(last + 1, after)


@pytest.mark.parametrize("number", [2, 4, 9])
def test_the_time_limit_ends_a_profile_after_the_round_that_is_begun(number: int) -> None:
    found = schedule(5.0, time_limit_s=60.0)
    assert found.next_round(number, chosen_known(number, number - 1, spent_s=59.9))
    assert not found.next_round(number, chosen_known(number, number - 1, spent_s=60.1))


def test_two_rounds_are_made_in_any_time() -> None:
    found = schedule(5.0, time_limit_s=60.0)
    assert found.next_round(0, known({}, spent_s=99.0))
    assert len(networks_in(found.next_round(1, first_known(1, spent_s=99.0)))) > len(FIRST)


def test_without_evidence_the_first_networks_are_tried_and_nothing_joins() -> None:
    found = schedule(None)
    for number in range(1, 6):
        assert networks_in(found.next_round(number, first_known(number))) == FIRST
    assert not found.next_round(6, first_known(6))


def test_candidates_of_a_piece_without_a_cost_do_not_join() -> None:
    whole = evidence(5.0)
    kept = [n for n, place in enumerate(whole.costs.places) if place != ("merged", 2)]
    costs = Costs(
        places=tuple(whole.costs.places[n] for n in kept),
        mean_ms=whole.costs.mean_ms[kept],
        covariance=whole.costs.covariance[np.ix_(kept, kept)],
        noise=0.0,
    )
    poorer = replace(whole, costs=costs)
    found = ProfileSchedule(plan=PLAN, weigh=lambda measurements: poorer)
    chosen = set(networks_in(found.next_round(1, first_known(1)))) - set(FIRST)
    assert len(chosen) == 2 * BATCH
    for network in PLAN.networks_of("candidate"):
        assert network.job_id not in chosen or ("merged", 2) not in PLAN.places(network)
    assert found.error_percent(poorer) == pytest.approx(5.0, rel=0.05)


def test_what_is_given_up_is_in_no_further_round_and_is_not_waited_for() -> None:
    lost = CANDIDATES[0]
    piece = PLAN.piece_ids[0]
    others = {lost: measured(lost, BROKEN), piece: measured(piece, CRASH, CRASH)}
    before = first_known(1, {}, others=others)
    jobs = schedule().next_round(1, before)
    assert not {lost, piece} & set(jobs)
    there = first_known(6, dict.fromkeys(CANDIDATES[1:17], 5), others=others)
    assert not schedule(0.1).next_round(6, there)


def test_a_failure_counts_for_no_round() -> None:
    slow = CANDIDATES[0]
    others = {slow: measured(slow, CRASH, SAMPLES, SAMPLES)}
    before = first_known(6, dict.fromkeys(CANDIDATES[1:16], 5), others=others)
    assert slow in schedule(0.1).next_round(6, before)


def test_a_networks_layers_are_profiled_in_so_many_rounds_and_no_more() -> None:
    name = CANDIDATES[0]
    profile = PROFILE_OF[name]
    for count in range(PROFILES + 2):
        before = first_known(5, {name: count + 1, profile: count})
        assert (profile in schedule().next_round(5, before)) == (count < PROFILES)
    broken = {profile: measured(profile, BROKEN)}
    start = PROFILE_OF[FIRST[0]]
    assert profile not in schedule().next_round(
        5, first_known(5, {name: 1, start: 1}, others=broken)
    )


@pytest.mark.parametrize("failure", [CRASH, BROKEN])
def test_a_runtime_that_profiled_no_network_is_not_asked_again(failure: Failure) -> None:
    tried = [network.profile_id for network in PLAN.networks_of("start")]
    every = {name: measured(name, failure) for name in tried}
    jobs = schedule().next_round(1, first_known(1, others=every))
    assert len(networks_in(jobs)) == len(FIRST) + 2 * BATCH
    assert not profiles_in(jobs)
    # One of them is enough to go on.
    one = {**every, tried[0]: measured(tried[0], LAYERS)}
    assert len(profiles_in(schedule().next_round(1, first_known(1, others=one)))) > 2 * BATCH


def test_the_estimate_counts_the_rounds_that_are_left_at_least() -> None:
    each = len(FIRST) + 2 * BATCH
    pieces = len(PLAN.piece_ids)
    found = schedule()
    profiles = 2 * BATCH * (PROFILES + 1)
    assert found.estimate(0, known({})) == (2 * pieces + 6 * each + profiles, "")
    assert found.estimate(5, chosen_known(5, 4)) == (each, "error 5.00 %")
    assert found.estimate(9, chosen_known(9, 8)) == (each, "error 5.00 %")
    plain = ProfileSchedule(plan=small_plan(), weigh=lambda measurements: None)
    assert plain.estimate(5, known({})) == (each, "")


def test_the_error_that_is_expected_is_that_of_all_planned_networks() -> None:
    assert schedule().error_percent(evidence(1.25)) == pytest.approx(1.25)


def test_where_engines_are_built_rounds_are_fewer() -> None:
    found = building(schedule(0.1))
    assert found.next_round(2, chosen_known(2, 1))
    assert found.next_round(3, chosen_known(3, 2)), "the first batch is late"
    assert not found.next_round(4, chosen_known(4, 3))
    # A second batch could not be in enough rounds.
    assert not building(schedule(5.0)).next_round(4, chosen_known(4, 3))
    assert not building(schedule(0.1, {FIRST[0]: 1.0})).next_round(5, chosen_known(5, 4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target_percent": 0.0}, r"the target error \(0 %\) must be between 0 and 100 %"),
        ({"target_percent": 100.0}, r"the target error \(100 %\) must be between 0 and 100 %"),
        ({"time_limit_s": 0.0}, r"the time limit \(0 s\) must be above 0"),
    ],
)
def test_a_target_or_a_limit_that_cannot_be_is_refused(
    wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(InvalidJobError, match=message):
        schedule(**wrong)  # type: ignore[arg-type]
