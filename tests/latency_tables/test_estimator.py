from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from latency_tables.errors import CalibrationError
from latency_tables.estimator import (
    USUAL_SCALES,
    Expected,
    Observation,
    Scales,
    fit_scales,
    log_evidence,
    pairs_of,
    prior_costs,
)
from latency_tables.places import Place

STEM: Place = ("stem", None)
HEAD: Place = ("head", None)


def blocks(count: int, seed: int = 0) -> dict[Place, float]:
    """What the pieces of so many blocks cost alone, in ms."""
    draw = np.random.default_rng(seed)
    alone = {STEM: 0.6, HEAD: 0.3}
    for block in range(count):
        alone["original", block] = float(draw.uniform(0.5, 2.0))
        alone["merged", block] = float(draw.uniform(0.2, 1.0))
    return alone


def by_itself(alone: dict[Place, float]) -> dict[Place, Expected]:
    return {at: Expected(cost_ms=ms) for at, ms in alone.items()}


def places(mask: Sequence[int]) -> tuple[Place, ...]:
    kinds = [("original" if keep else "merged", block) for block, keep in enumerate(mask)]
    return (STEM, *kinds, HEAD)


def drawn_costs(alone: dict[Place, float], spread: float, seed: int = 1) -> dict[Place, float]:
    """Costs in the network: fewer ends to pay, and each piece a little different."""
    draw = np.random.default_rng(seed)
    ends = {"original": 0.05, "merged": 0.1}
    return {
        at: 0.95 * ms * (1 + spread * draw.normal()) - ends.get(at[0], 0.0)
        for at, ms in alone.items()
    }


def observed(
    truth: dict[Place, float], masks: Sequence[Sequence[int]], noise: float = 0.0, seed: int = 2
) -> list[Observation]:
    draw = np.random.default_rng(seed)
    sums = [sum(truth[at] for at in places(mask)) for mask in masks]
    return [
        Observation(
            places=places(mask),
            latency_ms=ms * (1 + noise * float(draw.normal())),
            error_ms=max(noise, 1e-4) * ms,
        )
        for mask, ms in zip(masks, sums, strict=True)
    ]


def random_masks(count: int, length: int, seed: int = 3) -> list[tuple[int, ...]]:
    draw = np.random.default_rng(seed)
    return [tuple(int(bit) for bit in draw.integers(0, 2, length)) for _ in range(count)]


def every_mask(length: int) -> list[tuple[int, ...]]:
    return list(itertools.product((0, 1), repeat=length))


def test_before_networks_a_piece_costs_what_it_costs_alone() -> None:
    alone = blocks(3)
    costs = prior_costs(by_itself(alone))
    for at, ms in alone.items():
        assert costs.of(at)[0] == ms
        assert 0.3 * ms < costs.of(at)[1] < ms
    assert costs.after([]) is costs


def test_exact_networks_give_every_prediction_and_saving_back() -> None:
    alone = blocks(4)
    truth = drawn_costs(alone, 0.05)
    costs = prior_costs(by_itself(alone)).after(observed(truth, every_mask(4)))
    for mask in every_mask(4):
        expected = sum(truth[at] for at in places(mask))
        assert costs.predict(places(mask))[0] == pytest.approx(expected, rel=2e-3)
    for block in range(4):
        saved = costs.of(("original", block))[0] - costs.of(("merged", block))[0]
        expected = truth["original", block] - truth["merged", block]
        assert saved == pytest.approx(expected, abs=0.01)


def test_networks_that_were_not_measured_are_predicted_within_their_intervals() -> None:
    scores = []
    for seed in range(20):
        alone = blocks(10, seed)
        draw = np.random.default_rng(100 + seed)
        scales = Scales(spread=0.06, floor=0.02, pairs=0.02, noise=0.004)
        prior = prior_costs(by_itself(alone), scales)
        means = draw.multivariate_normal(prior.mean_ms, prior.covariance)
        truth = dict(zip(prior.places, means.tolist(), strict=True))
        masks = random_masks(40, 10, seed)
        seen = observed(truth, masks, noise=0.004, seed=seed)
        costs = prior.after(seen[:20])
        for one in seen[20:]:
            ms, sd = costs.predict(one.places)
            scores.append((one.latency_ms - ms) / np.hypot(sd, 0.0))
    assert 0.9 < float(np.mean(np.abs(scores) < 1.96)) < 0.99


def test_the_posterior_shrinks_with_every_network() -> None:
    alone = blocks(5)
    seen = observed(drawn_costs(alone, 0.05), random_masks(12, 5), noise=0.004)
    costs = prior_costs(by_itself(alone))
    for one in seen:
        narrower = costs.after([one])
        assert (narrower.covariance.diagonal() <= costs.covariance.diagonal() + 1e-12).all()
        assert narrower.predict(one.places)[1] < costs.predict(one.places)[1]
        costs = narrower


def test_networks_one_after_another_say_what_all_at_once_say() -> None:
    alone = blocks(4)
    seen = observed(drawn_costs(alone, 0.05), random_masks(6, 4), noise=0.004)
    at_once, in_turn = prior_costs(by_itself(alone)).after(seen), prior_costs(by_itself(alone))
    for one in seen:
        in_turn = in_turn.after([one])
    np.testing.assert_allclose(in_turn.mean_ms, at_once.mean_ms)
    np.testing.assert_allclose(in_turn.covariance, at_once.covariance, atol=1e-12)


def test_costs_of_pieces_and_of_pairs_of_merged_blocks_add_up_to_the_prediction() -> None:
    alone = blocks(6)
    seen = observed(drawn_costs(alone, 0.1), random_masks(9, 6))
    costs = prior_costs(by_itself(alone)).after(seen)
    for mask in random_masks(20, 6, seed=9):
        own = (*places(mask), *pairs_of(places(mask)))
        pieces = sum(costs.of(at)[0] for at in own)
        assert costs.predict(places(mask))[0] == pytest.approx(pieces)


def test_pairs_are_merged_blocks_in_a_row_with_or_without_a_bias_map() -> None:
    mapped: Place = ("merged_bias_map", 2)
    found = pairs_of([STEM, ("merged", 0), ("merged", 1), mapped, ("original", 3), ("merged", 4)])
    assert found == (("pair", (0, 1)), ("pair", (1, 2)))


def test_terms_of_pairs_are_used_where_networks_show_them() -> None:
    alone = blocks(8)
    truth = drawn_costs(alone, 0.02)
    masks = random_masks(60, 8)
    plain = observed(truth, masks, noise=0.002)
    pairs = [sum(not a and not b for a, b in itertools.pairwise(mask)) for mask in masks]
    paired = [
        Observation(places=o.places, latency_ms=o.latency_ms + 0.15 * n, error_ms=o.error_ms)
        for o, n in zip(plain, pairs, strict=True)
    ]
    without, _ = fit_scales(by_itself(alone), plain)
    scales, _ = fit_scales(by_itself(alone), paired)
    assert scales.pairs > 3 * without.pairs
    costs = prior_costs(by_itself(alone), scales).after(paired)
    terms = [costs.of(pair)[0] for pair in pairs_of(alone)]
    assert np.mean(terms) == pytest.approx(0.15, abs=0.05)


def test_a_cost_that_is_a_guess_is_less_sure() -> None:
    alone = by_itself(blocks(3))
    guessed = alone | {("merged", 1): Expected(cost_ms=alone["merged", 1].cost_ms, unsure_ms=0.5)}
    sure, unsure = (prior_costs(one).of(("merged", 1)) for one in (alone, guessed))
    assert unsure[0] == sure[0]
    assert unsure[1] == pytest.approx(np.hypot(sure[1], 0.5))


def scaled(name: str, factor: float) -> Scales:
    values = {"spread": 0.05, "floor": 0.02, "pairs": 1e-4, "noise": 0.004}
    return Scales(**values | {name: values[name] * factor})


@pytest.mark.parametrize("name", ["spread", "noise"])
def test_the_evidence_prefers_the_scales_that_the_networks_were_drawn_with(name: str) -> None:
    def total(scales: Scales) -> float:
        evidence = 0.0
        for seed in range(8):
            alone = blocks(12, seed)
            prior = prior_costs(by_itself(alone), scaled(name, 1.0))
            draw = np.random.default_rng(seed)
            means = draw.multivariate_normal(prior.mean_ms, prior.covariance)
            truth = dict(zip(prior.places, means.tolist(), strict=True))
            seen = [
                Observation(places=o.places, latency_ms=o.latency_ms, error_ms=1e-4 * o.latency_ms)
                for o in observed(truth, random_masks(40, 12, seed), noise=0.004, seed=seed)
            ]
            evidence += log_evidence(by_itself(alone), seen, scales)
        return evidence

    assert total(scaled(name, 1.0)) > max(total(scaled(name, 4.0)), total(scaled(name, 0.25)))


def test_fitted_scales_have_at_least_the_evidence_of_the_usual_ones() -> None:
    alone = blocks(8)
    seen = observed(drawn_costs(alone, 0.3), random_masks(30, 8), noise=0.003)
    scales, evidence = fit_scales(by_itself(alone), seen)
    assert evidence == pytest.approx(log_evidence(by_itself(alone), seen, scales))
    assert evidence >= log_evidence(by_itself(alone), seen, USUAL_SCALES)
    assert scales.spread > USUAL_SCALES.spread


def test_without_networks_the_scales_are_the_usual_ones() -> None:
    scales, _ = fit_scales(by_itself(blocks(3)), [])
    for name in ("spread", "floor", "pairs", "noise"):
        assert getattr(scales, name) == pytest.approx(getattr(USUAL_SCALES, name), rel=1e-3)


def test_one_network_moves_all_pieces_by_about_one_factor() -> None:
    alone = blocks(6)
    whole = places([1] * 6)
    ms = 0.9 * sum(alone[at] for at in whole)
    costs = prior_costs(by_itself(alone)).after(
        [Observation(places=whole, latency_ms=ms, error_ms=1e-4)]
    )
    assert costs.predict(whole)[0] == pytest.approx(ms, rel=1e-3)
    # What was never measured whole follows.
    assert costs.of(("merged", 0))[0] < alone["merged", 0]


@pytest.mark.parametrize(
    ("length", "masks"),
    [
        (1, every_mask(1)),
        (12, random_masks(5, 12)),
        # Block 1 cannot merge: it is the same piece in every network.
        (3, [mask for mask in every_mask(3) if mask[1]]),
        (4, [(1, 1, 1, 1)] * 3),
    ],
)
def test_few_or_one_sided_networks_are_predicted_all_the_same(
    length: int, masks: list[tuple[int, ...]]
) -> None:
    alone = blocks(length)
    if length == 3:
        del alone["merged", 1]
    truth = drawn_costs(alone, 0.05)
    seen = observed(truth, masks, noise=0.003)
    scales, _ = fit_scales(by_itself(alone), seen)
    costs = prior_costs(by_itself(alone), scales).after(seen)
    for one in seen:
        assert costs.predict(one.places)[0] == pytest.approx(one.latency_ms, rel=0.01)
    assert all(costs.of(at)[1] > 0 for at in alone)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["spread", "floor", "pairs", "noise"])
def test_scales_are_shares(name: str, value: float) -> None:
    make: Callable[..., Scales] = Scales
    with pytest.raises(CalibrationError, match=f"{name} must be between 0 and 1"):
        make(**{"spread": 0.1, "floor": 0.1, "pairs": 0.1, "noise": 0.1, name: value})


def test_a_piece_without_a_prior_is_unknown() -> None:
    with pytest.raises(KeyError):
        prior_costs(by_itself(blocks(2))).of(("original", 7))
