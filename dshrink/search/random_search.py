"""Plans drawn at random: the baseline that a real search has to beat (DepthShrinker, Sec. 5)."""

from __future__ import annotations

import random

from dshrink.search.binding import plan_from_table
from dshrink.search.goal import Goal, check_blocks, check_fit, savings_ms
from dshrink.search.greedy import shrink_in_order
from dshrink.search.plan import Plan
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable


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

    With ``keep`` every mask of that count is equally likely. Raises as ``greedy.greedy`` does.
    """
    goal = Goal(budget_ms=budget_ms, keep=keep)
    check_blocks(table, "random")
    check_fit(table, allow_unfit=allow_unfit)
    order = list(savings_ms(table, padding))
    random.Random(seed).shuffle(order)
    keep_mask = shrink_in_order(table, goal, order, padding)
    return plan_from_table(table, predict(table, keep_mask, padding), method="random", seed=seed)
