"""Masks of blocks against the dynamic program's plans, which enumeration finds as well."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import product

import pytest
from plan_enumeration import all_plans, keys_of, valid_spans
from synthetic_tables import synthetic_span_table

from dshrink.network.chain import span_chain
from dshrink.paper.kim_masks import compare_masks, paper_masks, span_mask_of
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.dp.bounds import Bounds
from dshrink.search.dp.tables import table_problem
from dshrink.search.errors import PlanError
from dshrink.search.published import published_masks
from latency_tables.predictor import predict
from latency_tables.span_masks import SpanChain

MASK = "1|11|1"
SKIPS = ((2, 5),)
ENDS = (2, 5, 6)
SPANS = valid_spans(6, (), SKIPS)
KEEP = ["".join(bits) for bits in product("01", repeat=3)]


def problem_of(seed, *, lost=(), bounded=None, bounds=None, spans=SPANS):
    """Made-up latencies and importances of two blocks and a single convolution behind them."""
    draw = random.Random(seed)
    table = synthetic_span_table(
        {(i, j): round(draw.uniform(0.5, 1 + 0.7 * (j - i)), 3) for i, j in spans},
        mask=MASK,
        skips=SKIPS,
        block_ends=ENDS,
        bounded=bounded,
        slope=1.04,
        offset_ms=0.2,
    )
    importance = {key: draw.uniform(-1, 2) for key in keys_of(spans, ENDS) if key not in lost}
    return table_problem(table, importance, bounds=bounds, excused=lost)


def worth_of_masks(problem):
    """Every span mask of the search space and its largest importance, by enumeration."""
    found = defaultdict(lambda: float("-inf"))
    for _, value, cuts, active in all_plans(problem.problem):
        mask = "".join("1" if at in active else "|" if at in cuts else "0" for at in range(1, 7))
        found[mask] = max(found[mask], value)
    return dict(found)


def compare(problem, *keep_masks):
    return compare_masks(problem, {f"mask {mask}": mask for mask in keep_masks})


@pytest.mark.parametrize("seed", range(8))
def test_the_dynamic_program_is_never_worth_less_than_a_mask_of_its_search_space(seed):
    problem = problem_of(seed)
    worth = worth_of_masks(problem)
    times = {mask: predict(problem.table, mask).latency_ms for mask in worth}
    for keep_mask, one in zip(KEEP, compare(problem, *KEEP), strict=True):
        assert (one.name, one.keep_mask, one.reason) == (f"mask {keep_mask}", keep_mask, "")
        assert one.predicted_ms == times[one.span_mask]
        assert one.importance == pytest.approx(worth[one.span_mask])
        best = max(worth[mask] for mask in worth if times[mask] <= one.predicted_ms)
        assert one.at_latency.importance == pytest.approx(best)
        assert one.at_latency.predicted_ms == times[one.at_latency.span_mask] <= one.predicted_ms
        assert one.importance_gain == pytest.approx(best - worth[one.span_mask], abs=1e-9)
        assert one.importance_gain >= -1e-9
        fastest = min(times[mask] for mask in worth if worth[mask] >= one.importance - 1e-9)
        assert one.at_importance.predicted_ms == pytest.approx(fastest)
        assert worth[one.at_importance.span_mask] >= one.importance - 1e-9
        assert one.faster_percent == pytest.approx(100 * (1 - fastest / one.predicted_ms), abs=1e-9)
        assert one.faster_percent >= -1e-9


def test_masks_are_sometimes_optimal_and_sometimes_not():
    found = [one for seed in range(8) for one in compare(problem_of(seed), *KEEP)]
    assert any(one.importance_gain > 0.1 and one.faster_percent > 5 for one in found)
    assert any(abs(one.importance_gain) < 1e-9 for one in found)


def test_a_mask_is_the_sum_of_the_keys_of_its_spans():
    problem = problem_of(3)
    value = problem.problem.importance
    (kept, merged) = compare(problem, "111", "001")
    keys = [(0, 1, 1, 1), (1, 2, 1, 0), (2, 3, 0, 1), (3, 4, 1, 1), (4, 5, 1, 0), (5, 6, 0, 1)]
    # A span that is cut where it has no activation is worth the better of its parts and the whole.
    assert kept.importance >= sum(value[key] for key in keys)
    assert merged.span_mask == "0100" + "11"
    keys = [(0, 2, 1, 1), (2, 5, 1, 1), (5, 6, 1, 1)]
    assert merged.importance == pytest.approx(sum(value[key] for key in keys))


def test_a_block_that_is_no_span_of_the_table_has_a_reason_in_place_of_figures():
    spans = [span for span in SPANS if span != (0, 2)]
    for problem, part in (
        (problem_of(0, spans=spans), "no row of it is held"),
        (problem_of(0, bounded={(0, 2): "far too large"}), "far too large"),
    ):
        without, fine = compare(problem, "011", "101")
        assert part in without.reason and "\n" not in without.reason
        assert without.predicted_ms is None and without.importance is None
        assert without.at_latency is None and without.importance_gain is None
        assert without.at_importance is None and without.faster_percent is None
        assert not fine.reason and fine.importance_gain >= -1e-9


def test_what_the_search_itself_excludes_is_named():
    merged, kept = compare(problem_of(0, bounds=Bounds(keep_blocks=(1,))), "101", "111")
    assert merged.reason == "the bounds of the search exclude span 2-5"
    assert merged.predicted_ms > 0 and merged.importance is None
    assert not kept.reason
    # Synthetic rows of merged spans have fewer multiply-accumulates than single ones.
    few, many = compare(problem_of(0, bounds=Bounds(max_macs=9000)), "001", "111")
    assert not few.reason
    assert many.reason == "the bounds of the search exclude it: it has more macs"


def test_a_free_activation_at_a_blocks_end_needs_its_key():
    # Without the activation between them the two spans before position 5 are one key as well.
    lost = {(2, 5, 0, 1), (1, 5, 1, 1)}
    problem = problem_of(1, lost=lost)
    merged, kept = compare(problem, "101", "111")
    assert merged.reason == ("1 key (st, end, st_act, end_act) were not evaluated: (2, 5, 0, 1)")
    assert merged.importance is None and merged.at_importance is None
    # What the dynamic program does at its latency is known all the same.
    assert merged.at_latency.predicted_ms <= merged.predicted_ms
    assert not kept.reason


def test_a_span_without_activations_at_its_ends_is_in_no_plan():
    # Of the last convolution alone there is no key, of it and the one before it there is.
    lost = {(1, 3, 1, 0)}
    for excused, reason in (((), ""), (lost, "(2, 3, 0, 0)")):
        problem = linear_problem(excused)
        (kept,) = compare(problem, "11")
        assert reason in kept.reason and bool(kept.reason) == bool(reason)
    assert "not among the published ones" in kept.reason


def linear_problem(lost):
    spans = valid_spans(3, (), ())
    table = synthetic_span_table(dict.fromkeys(spans, 1.0), mask="1||", block_ends=(2, 3))
    importance = {key: 1.0 for key in keys_of(spans, (2, 3)) if key not in lost}
    return table_problem(table, importance, excused=lost)


def test_masks_of_other_blocks_are_refused():
    for mask in ("11", "1111", "1|1", ""):
        with pytest.raises(PlanError, match="3 blocks: give one 1"):
            compare(problem_of(0), mask)


def test_a_block_that_loses_no_activation_gains_none():
    chain = SpanChain(convolutions=tuple("abcd"), mask="||1|", block_ends=(2, 3, 4))
    assert span_mask_of(chain, "000") == "0|1|"
    assert span_mask_of(chain, "111") == chain.mask


@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0", "resnet18"])
def test_a_mask_of_blocks_and_its_mask_of_spans_make_the_same_network(network, name):
    net = network(name)
    chain, draw = span_chain(net.chain), random.Random(7)
    blocks = len(net.blocks)
    masks = [*paper_masks(chain, name).values(), "0" * blocks, "1" * blocks]
    masks += ["".join(draw.choice("01") for _ in range(blocks)) for _ in range(6)]
    for mask in masks:
        by_blocks = shrunk_spec(net, mask, segments="blocks", padding="repad")
        by_spans = shrunk_spec(net, span_mask_of(chain, mask), segments="spans", padding="repad")
        assert by_blocks.digest == by_spans.digest


def test_masks_of_the_paper_are_the_networks_own_or_of_as_many_blocks():
    chain = SpanChain(
        convolutions=tuple(map(str, range(17))), mask="1" * 17, block_ends=tuple(range(1, 18))
    )
    assert list(paper_masks(chain, "mobilenetv2_100.ra_in1k")) == [
        f"MBV2-DS-{letter}" for letter in "ABCD"
    ]
    others = paper_masks(chain, "mobilenetv2_035")
    assert len(others) == 10
    assert all(published_masks()[name].keep_mask == mask for name, mask in others.items())
