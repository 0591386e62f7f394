"""Which networks are worth measuring: those that predictions are least sure of."""

from __future__ import annotations

import itertools

import pytest

from latency_tables.estimator import NORMAL_MEAN, Costs, Expected, Observation, Scales, prior_costs
from latency_tables.places import Place
from profiler.planning.network_choice import EXPECTED_ERROR, choose_networks, expected_error

BLOCKS = 4
SCALES = Scales(spread=0.05, floor=1e-4, pairs=1e-4, noise=1e-3)


def places(mask: str) -> tuple[Place, ...]:
    return tuple(
        ("original" if keep == "1" else "merged", block) for block, keep in enumerate(mask)
    )


def costs(**unsure_ms: float) -> Costs:
    """Blocks of 1 ms, merged ones of 0.8 ms; ``merged_2=0.5`` is as unsure as that."""
    expected = {
        (kind, block): Expected(cost_ms=ms, unsure_ms=unsure_ms.get(f"{kind}_{block}", 0.0))
        for kind, ms in (("original", 1.0), ("merged", 0.8))
        for block in range(BLOCKS)
    }
    return prior_costs(expected, SCALES)


EVERY = {"".join(bits): places("".join(bits)) for bits in itertools.product("01", repeat=BLOCKS)}


def relative(known: Costs, mask: str) -> float:
    latency_ms, sd_ms = known.predict(places(mask))
    return sd_ms / latency_ms


def test_the_least_sure_network_comes_first() -> None:
    known = costs(merged_2=0.5)
    assert choose_networks(known, EVERY, 1) == (max(EVERY, key=lambda m: relative(known, m)),)
    assert choose_networks(known, EVERY, 1)[0][2] == "0"
    assert choose_networks(costs(original_2=0.5), EVERY, 1)[0][2] == "1"


def test_each_choice_is_made_as_if_the_ones_before_it_had_been_measured() -> None:
    known = costs(merged_2=0.5, merged_0=0.3)
    for name in choose_networks(known, EVERY, 6):
        left = max(EVERY, key=lambda mask: relative(known, mask))
        assert relative(known, name) == pytest.approx(relative(known, left))
        latency_ms = known.predict(EVERY[name])[0]
        known = known.after(
            [
                Observation(
                    places=EVERY[name],
                    latency_ms=latency_ms,
                    error_ms=EXPECTED_ERROR * latency_ms,
                )
            ]
        )


def test_what_is_like_a_chosen_network_is_less_attractive() -> None:
    known = costs(merged_2=0.5, merged_0=0.3)
    alike = {"2 again": places("1101"), "2": places("1101"), "0": places("0111")}
    first, second = choose_networks(known, alike, 2)
    assert (first[0], second) == ("2", "0")
    # By their own variance alone the twin would have come second.
    assert relative(known, "1101") > relative(known, "0111")


def test_fewer_candidates_than_asked_for_are_all_chosen_each_once() -> None:
    few = {mask: EVERY[mask] for mask in ("1111", "0000", "0101")}
    assert sorted(choose_networks(costs(), few, 8)) == sorted(few)
    assert choose_networks(costs(), {}, 8) == ()
    assert choose_networks(costs(), few, 0) == ()
    assert sorted(few) == ["0000", "0101", "1111"]


def test_the_expected_error_is_the_mean_of_the_networks_and_falls_with_what_is_measured() -> None:
    known = costs(merged_2=0.5)
    networks = list(EVERY.values())
    before = expected_error(known, networks)
    mean = sum(relative(known, mask) for mask in EVERY) / len(EVERY)
    assert before == pytest.approx(NORMAL_MEAN * mean)
    for name in choose_networks(known, EVERY, 6):
        seen = Observation(places=EVERY[name], latency_ms=3.5, error_ms=0.01)
        known = known.after([seen])
    assert expected_error(known, networks) < 0.5 * before
