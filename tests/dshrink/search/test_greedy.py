from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from synthetic_tables import synthetic_row, synthetic_table, without_networks

from dshrink.network.models import load_network
from dshrink.operations.search import search_blocks
from dshrink.pieces.block_pieces import network_pieces
from dshrink.search.errors import InfeasibleBudgetError, SearchError, UnfitTableError
from dshrink.search.goal import smallest_latency
from dshrink.search.greedy import greedy, padding_of, random_plan
from dshrink.search.plan import Plan
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable

SEARCHES = [greedy, random_plan]


def random_table(seed: int) -> LatencyTable:
    """Up to 8 blocks; some cannot merge, some get slower by it, some need a bias map."""
    draw = random.Random(seed)
    count = draw.randint(1, 8)
    original = [draw.choice([1.0, 2.0, draw.uniform(0.5, 5)]) for _ in range(count)]
    merged = [
        None if draw.random() < 0.2 else value * draw.choice([0.5, draw.uniform(0.2, 1.4)])
        for value in original
    ]
    bias_map_ms = {
        block: value * draw.uniform(1, 1.5)
        for block, value in enumerate(merged)
        if value is not None and draw.random() < 0.3
    }
    return synthetic_table(
        original, merged, bias_map_ms=bias_map_ms, slope=draw.uniform(0.8, 1.2), offset_ms=0.3
    )


def every_mask(table: LatencyTable, padding: str) -> Iterator[tuple[str, float]]:
    """All valid masks with their latency, by arithmetic on what the rows cost in the network."""
    costs = {(row.kind, row.block): row.in_network_ms or math.nan for row in table.rows}
    for bits in itertools.product("01", repeat=table.block_count):
        if any(bits[block] == "0" for block in table.unmergeable):
            continue
        total = costs["stem", None] + costs["head", None]
        for block, bit in enumerate(bits):
            merged = costs.get(("merged", block), math.nan)
            if padding == "bias_map":
                merged = costs.get(("merged_bias_map", block), merged)
            total += costs["original", block] if bit == "1" else merged
        yield "".join(bits), total


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
@pytest.mark.parametrize("seed", range(60))
def test_greedy_shrinks_as_few_blocks_as_any_mask_could(seed: int, padding: str) -> None:
    table = random_table(seed)
    masks = dict(every_mask(table, padding))
    latencies = sorted(masks.values())
    # Between two latencies, so that rounding does not decide whether a mask meets the budget.
    budgets = [(a + b) / 2 for a, b in itertools.pairwise(latencies) if b - a > 1e-9]
    for budget_ms in [*random.Random(seed).sample(budgets, min(6, len(budgets))), 1e3]:
        plan = greedy(table, budget_ms=budget_ms, padding=padding)
        assert masks[plan.keep_mask] <= budget_ms
        fewest = min(mask.count("0") for mask, ms in masks.items() if ms <= budget_ms)
        assert len(plan.shrunk) == fewest
        assert plan.predicted is not None
        assert plan.predicted.latency_ms == pytest.approx(masks[plan.keep_mask])


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("seed", range(40))
def test_an_infeasible_budget_names_the_smallest_latency_of_all_masks(
    seed: int, search: Callable[..., Plan]
) -> None:
    table = random_table(seed)
    masks = dict(every_mask(table, "bias_map"))
    smallest = min(masks.values())
    with pytest.raises(InfeasibleBudgetError) as caught:
        search(table, budget_ms=smallest * 0.999)
    assert caught.value.smallest_ms == pytest.approx(smallest)
    assert caught.value.plan is not None
    assert masks[caught.value.plan.removeprefix("mask:")] == pytest.approx(smallest)
    message = str(caught.value)
    assert f"the smallest possible latency is {smallest:.4g} ms" in message
    advice = float(message.rsplit("at least ", 1)[1].removesuffix(" ms"))
    assert search(table, budget_ms=advice).predicted.latency_ms <= advice  # type: ignore[union-attr]
    assert advice < smallest * 1.002


@pytest.mark.parametrize("seed", range(40))
def test_greedy_keeps_the_count_with_the_smallest_latency(seed: int) -> None:
    table = random_table(seed)
    masks = dict(every_mask(table, "bias_map"))
    for keep in range(len(table.unmergeable), table.block_count + 1):
        plan = greedy(table, keep=keep)
        assert plan.kept_count == keep
        best = min(ms for mask, ms in masks.items() if mask.count("1") == keep)
        assert masks[plan.keep_mask] == pytest.approx(best)


def test_equal_savings_are_taken_from_the_first_block_on() -> None:
    table = synthetic_table([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    assert greedy(table, keep=2).keep_mask == "011"


def test_a_budget_that_the_original_meets_shrinks_nothing() -> None:
    table = random_table(1)
    for search in SEARCHES:
        assert "0" not in search(table, budget_ms=1e6).keep_mask


@pytest.mark.parametrize("search", SEARCHES)
def test_a_count_out_of_reach_is_refused(search: Callable[..., Plan]) -> None:
    table = synthetic_table([1.0, 2.0, 3.0], [0.5, None, 1.0])
    with pytest.raises(InfeasibleBudgetError, match=r"\(1 of them cannot merge\): ask for 1 to 3"):
        search(table, keep=0)
    with pytest.raises(InfeasibleBudgetError, match="cannot keep 4 of its 3 blocks"):
        search(table, keep=4)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({}, "give either"),
        ({"budget_ms": 1.0, "keep": 1}, "give either"),
        ({"budget_ms": 0.0}, "above 0 ms, got 0"),
        ({"budget_ms": math.nan}, "above 0 ms, got nan"),
    ],
)
def test_a_goal_that_makes_no_sense_is_refused(
    search: Callable[..., Plan], goal: dict[str, Any], message: str
) -> None:
    with pytest.raises(SearchError, match=message):
        search(random_table(0), **goal)


@pytest.mark.parametrize("search", SEARCHES)
def test_an_unfit_table_is_searched_only_when_allowed(search: Callable[..., Plan]) -> None:
    table = without_networks(random_table(1), role="check")
    with pytest.raises(UnfitTableError, match="not fit for search: it has no hold-out check"):
        search(table, keep=table.block_count)
    assert "0" not in search(table, keep=table.block_count, allow_unfit=True).keep_mask


def test_a_block_whose_merged_piece_failed_is_not_shrunk() -> None:
    table = synthetic_table([2.0, 2.0], [0.5, 1.0])
    failed = synthetic_row("merged", 0, latency_ms=None)
    rows = tuple(failed if (r.kind, r.block) == ("merged", 0) else r for r in table.rows)
    broken = replace(table, rows=rows, networks=())
    assert greedy(broken, keep=1, allow_unfit=True).keep_mask == "10"
    assert smallest_latency(broken).keep_mask == "10"


def test_the_fastest_mask_takes_pairs_of_merged_blocks_into_account():
    """Each merge saves 0.1 ms, and two in a row cost 0.15 ms: every other block is merged."""
    table = synthetic_table([1.0] * 4, [0.9] * 4)
    costs = table.costs
    assert costs is not None
    mean_ms = costs.mean_ms.copy()
    for number, place in enumerate(costs.places):
        mean_ms[number] = 0.15 if place[0] == "pair" else mean_ms[number]
    # Cached properties: what this table would derive from its networks.
    vars(table)["costs"] = replace(costs, mean_ms=mean_ms)
    vars(table).pop("_cost_by_place", None)

    fastest = smallest_latency(table, "repad")

    every = [predict(table, "".join(mask), "repad") for mask in itertools.product("01", repeat=4)]
    assert fastest.latency_ms == min(one.latency_ms for one in every)
    assert "00" not in fastest.keep_mask


def test_bias_maps_are_the_usual_padding_where_the_network_has_them() -> None:
    assert padding_of(synthetic_table([5.0], [3.0], bias_map_ms={0: 3.1})) == "bias_map"
    assert padding_of(synthetic_table([5.0], [3.0])) == "repad"


def test_a_plan_for_a_network_without_bias_maps_has_a_padding_that_merges() -> None:
    """A ResNet's blocks pad what a 3x3 kernel computed: no constant map is exact there."""
    network = load_network("test_resnet", resolution=32)
    pieces = network_pieces(network, dense=False)
    count = len(network.blocks)
    assert not any(piece.kind == "merged_bias_map" for piece in pieces.pieces)
    table = synthetic_table(
        [2.0] * count, [None if at in pieces.unmergeable else 1.0 for at in range(count)]
    )
    cut = {name: pieces.cut[name] for name in ("model", "resolution", "block_names")}
    table = replace(without_networks(table), **cut)
    plan = search_blocks(network, table, keep=count - 1, allow_unfit=True)
    assert plan.padding == "repad"
    asked = search_blocks(network, table, keep=count - 1, padding="interior", allow_unfit=True)
    assert asked.padding == "interior"
