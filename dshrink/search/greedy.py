"""The plans that a latency table gives by itself: merge where it saves most, or at random.

A prediction is the sum of what the pieces cost in the network, so merging the blocks of largest
saving first meets a budget with the fewest merged blocks. Neither knows anything about accuracy;
that is what stage 1 and the dynamic program are for. Random plans are the baseline that a real
search has to beat (DepthShrinker, Sec. 5).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from dshrink.search.binding import plan_from_table
from dshrink.search.goal import (
    Goal,
    check_blocks,
    check_fit,
    infeasible,
    keep_mask,
    savings_ms,
    smallest_latency,
)
from dshrink.search.plan import Plan
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable


def padding_of(table: LatencyTable) -> str:
    """Of merged blocks where none is asked for: bias maps, which are exact to the last pixel.

    Of a network that has none (a ResNet's blocks pad what a kernel computed, so its merge refuses
    them) the paper's, repad.
    """
    has_maps = any(row.kind == "merged_bias_map" for row in table.rows)
    return "bias_map" if has_maps else "repad"


def greedy(
    table: LatencyTable,
    *,
    budget_ms: float | None = None,
    keep: int | None = None,
    padding: str = "bias_map",
    allow_unfit: bool = False,
) -> Plan:
    """Shrink the blocks of largest saving until ``budget_ms`` is met, or ``keep`` blocks are left.

    Blocks of equal saving are shrunk from the first one on. Raises InfeasibleBudgetError for a
    budget or a count out of reach, UnfitTableError unless ``allow_unfit``.
    """
    goal = Goal(budget_ms=budget_ms, keep=keep)
    check_blocks(table, "greedy")
    check_fit(table, allow_unfit=allow_unfit)
    savings = savings_ms(table, padding)
    order = sorted(savings, key=lambda block: (-savings[block], block))
    mask = shrink_in_order(table, goal, order, padding)
    return plan_from_table(table, predict(table, mask, padding), method="greedy")


def random_plan(
    table: LatencyTable,
    *,
    budget_ms: float | None = None,
    keep: int | None = None,
    seed: int = 0,
    padding: str = "bias_map",
    allow_unfit: bool = False,
) -> Plan:
    """Shrink blocks in a random order until ``budget_ms`` is met, or ``keep`` blocks are left.

    With ``keep`` every mask of that count is equally likely. Raises as ``greedy`` does.
    """
    goal = Goal(budget_ms=budget_ms, keep=keep)
    check_blocks(table, "random")
    check_fit(table, allow_unfit=allow_unfit)
    order = list(savings_ms(table, padding))
    random.Random(seed).shuffle(order)
    mask = shrink_in_order(table, goal, order, padding)
    return plan_from_table(table, predict(table, mask, padding), method="random", seed=seed)


def shrink_in_order(table: LatencyTable, goal: Goal, order: Sequence[int], padding: str) -> str:
    """Shrink blocks in this order until the goal is met; for a budget, only where that saves.

    Raises InfeasibleBudgetError.
    """
    if goal.keep is not None:
        return goal.shrink(table.model, table.block_count, order)
    assert goal.budget_ms is not None
    savings = savings_ms(table, padding)
    useful = [block for block in order if savings[block] > 0]
    for count in range(len(useful) + 1):
        mask = keep_mask(table.block_count, useful[:count])
        if predict(table, mask, padding).latency_ms <= goal.budget_ms:
            return mask
    fastest = smallest_latency(table, padding)
    raise infeasible(
        goal.budget_ms,
        fastest.latency_ms,
        f"mask:{fastest.keep_mask}",
        f" with {table.model} on {table.conditions.device}",
    )
