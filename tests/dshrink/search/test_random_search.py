from __future__ import annotations

from collections import Counter

import pytest
from synthetic_tables import synthetic_table

from dshrink.search.greedy import random_plan
from latency_tables.predictor import predict

TABLE = synthetic_table([2.0, 3.0, 4.0, 5.0, 2.0], [1.0, 1.0, None, 4.5, 2.5])


def test_equal_seeds_give_equal_plans_and_the_plan_records_its_seed() -> None:
    assert random_plan(TABLE, keep=3, seed=5) == random_plan(TABLE, keep=3, seed=5)
    assert random_plan(TABLE, keep=3, seed=5).seed == 5
    assert random_plan(TABLE, keep=3, seed=5).method == "random"


def test_every_mask_of_a_count_is_drawn_about_equally_often() -> None:
    counts = Counter(random_plan(TABLE, keep=3, seed=seed).keep_mask for seed in range(1200))
    # Two of the four mergeable blocks: six masks, 200 each but for chance (sd 13).
    assert len(counts) == 6
    assert all(mask[2] == "1" and mask.count("1") == 3 for mask in counts)
    assert all(130 < count < 270 for count in counts.values())


@pytest.mark.parametrize("seed", range(30))
def test_a_budget_is_met_and_the_last_block_was_needed(seed: int) -> None:
    plan = random_plan(TABLE, budget_ms=16.0, seed=seed)
    assert predict(TABLE, plan.keep_mask).latency_ms <= 16
    assert len(plan.shrunk) >= 1
    assert 4 not in plan.shrunk
    one_less = [plan.keep_mask[:block] + "1" + plan.keep_mask[block + 1 :] for block in plan.shrunk]
    assert any(predict(TABLE, mask).latency_ms > 16 for mask in one_less)
