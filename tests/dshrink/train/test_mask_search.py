"""The search of a mask: what is kept and why, and that nothing of a run is lost when it dies."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from synthetic_tables import CONDITIONS, synthetic_span_table, synthetic_table, without_networks
from typer.testing import CliRunner

from dshrink.cli.main import app
from dshrink.network.models import Network
from dshrink.search.errors import InfeasibleBudgetError, SearchError
from dshrink.search.goal import Goal
from dshrink.search.greedy import greedy
from dshrink.search.plan import load_plan
from dshrink.train import mask_search
from dshrink.train.feed import Feed
from dshrink.train.gates import MASK_NAME, SHARE_NAME, gated_module, searchable_blocks
from dshrink.train.keep_rule import KeepRule
from dshrink.train.latency_decay import Decay
from dshrink.train.mask_search import (
    HISTORY_COLUMNS,
    MaskSearch,
    search_masks,
    write_mask_history,
)
from dshrink.train.settings import Training
from latency_tables.io import save_table
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable

MakeFeed = Callable[..., Feed]
NAMES = ("layer1.0", "layer2.0", "layer3.0", "layer4.0")


def table_of(
    original_ms: Sequence[float] = (2.0, 5.0, 3.0, 4.0), merged_ms: Sequence[float] = (1.0,) * 4
) -> LatencyTable:
    made = synthetic_table(
        original_ms, merged_ms, conditions=replace(CONDITIONS, device="a board of the test's")
    )
    return replace(made, model="test_resnet", resolution=(32, 32), block_names=NAMES)


def rule_of(table: LatencyTable, **goal: Any) -> KeepRule:
    return KeepRule(
        model=table.model,
        block_count=table.block_count,
        blocks=table.mergeable,
        goal=Goal(**{"budget_ms": None, "keep": None, **goal}),
        table=table,
        padding="repad",
        seed=goal.pop("seed", 0),
    )


@pytest.fixture
def search(
    network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> Callable[..., MaskSearch]:
    def run(**given: Any) -> MaskSearch:
        settings = given.pop("settings", training)
        goal = Goal(budget_ms=given.pop("budget_ms", None), keep=given.pop("keep", None))
        folder = given.pop("folder", tmp_path / "plan.search")
        feed = make_feed(settings)
        return search_masks(given.pop("network", network), feed, goal=goal, folder=folder, **given)

    return run


class Killed(BaseException):
    """What ends a run here and there, as a kill does: nobody catches it."""


def test_the_blocks_of_smallest_value_are_removed() -> None:
    rule = rule_of(table_of(), keep=2)
    assert rule([0.3, -8.0, 0.2, 70.0]) == (True, False, False, True)
    assert rule([0.3, -8.0, 0.4, 70.0]) == (False, False, True, True)
    assert rule.keep_mask([0.0, 3.0, 2.0, 1.0]) == "0110"


def test_equal_values_are_removed_in_an_order_that_the_seed_draws() -> None:
    rule = rule_of(table_of(), keep=2)
    drawn = Counter(replace(rule, seed=seed).keep_mask([1.0] * 4) for seed in range(300))
    # Six masks of two blocks, 50 each but for chance (sd 6.5).
    assert len(drawn) == 6 and all(24 < count < 76 for count in drawn.values())
    again = replace(rule, seed=7)
    assert again.removal_order([1.0] * 4) == again.removal_order([5.0] * 4)
    # A tie below decides nothing above it.
    assert all(
        replace(rule, seed=seed).keep_mask([0.0, 1.0, 0.0, 1.0]) == "0101" for seed in range(20)
    )


@pytest.mark.parametrize("budget_ms", [7.0, 9.0, 12.5, 13.5, 16.5])
def test_a_budget_is_met_as_the_greedy_search_meets_it_in_the_order_of_the_mask(
    budget_ms: float,
) -> None:
    table = table_of((2.0, 5.0, 3.0, 4.0), (1.0, 1.0, 1.0, 1.0))
    rule = rule_of(table, budget_ms=budget_ms)
    # Values that order the blocks as their savings do.
    expected = greedy(table, budget_ms=budget_ms, padding="repad").keep_mask
    assert rule.keep_mask([3.0, 0.0, 2.0, 1.0]) == expected
    other = rule.keep_mask([0.0, 3.0, 1.0, 2.0])
    assert predict(table, other, "repad").latency_ms <= budget_ms


def test_a_budget_removes_nothing_that_does_not_save() -> None:
    table = table_of((2.0, 5.0, 3.0, 4.0), (3.0, 1.0, 1.0, 1.0))
    assert rule_of(table, budget_ms=9.0).keep_mask([-9.0, 1.0, 2.0, 3.0])[0] == "1"
    assert rule_of(table, keep=3).keep_mask([-9.0, 1.0, 2.0, 3.0]) == "0111"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_decay_alone_removes_the_costliest_blocks(sign: int) -> None:
    # Savings 1, 4, 2 and 3 ms.
    decay = Decay(strength=sign * 0.1, savings_ms=(1.0, 4.0, 2.0, 3.0), unit_ms=3.5)
    mask = -0.05 * torch.tensor(decay.gradient)  # one step of gradient descent, from zero
    costliest_gone = rule_of(table_of(), keep=2).keep_mask(mask.tolist()) == "1010"
    assert costliest_gone == (sign > 0)


def test_a_strength_means_the_same_on_each_device() -> None:
    decay = Decay(strength=0.2, savings_ms=(1.0, 4.0, 2.0, -3.0), unit_ms=3.5)
    assert decay.gradient == pytest.approx([0.2 / 3.5, 0.8 / 3.5, 0.4 / 3.5, -0.6 / 3.5])
    slower = Decay(strength=0.2, savings_ms=(10.0, 40.0, 20.0, -30.0), unit_ms=35.0)
    assert slower.gradient == pytest.approx(decay.gradient)


def test_a_strong_decay_decides_the_search_and_leaves_the_reported_loss_alone(
    search: Callable[..., MaskSearch], training: Training
) -> None:
    found = search(keep=2, table=table_of(), decay=1e4, settings=replace(training, epochs=1))
    assert found.plan.keep_mask == "1010"
    assert found.decay is not None
    assert found.decay.unit_ms == 3.5
    assert found.decay.savings_ms == (1.0, 4.0, 2.0, 3.0)
    assert found.fitted.history[0]["train_loss"] < 10


def test_one_step_counts_for_so_much_and_no_more(
    search: Callable[..., MaskSearch],
    training: Training,
    tmp_path: Path,
) -> None:
    settings = replace(training, epochs=1, batch=24)  # one step
    values = []
    for limit in (0.01, math.inf):
        folder = tmp_path / str(limit)
        found = search(
            keep=2, table=table_of(), decay=0.7, limit=limit, settings=settings, folder=folder
        )
        values.append(found.fitted.state[MASK_NAME])
    # The first step of Nesterov's momentum goes 1.9 times along the gradient.
    limited, free = (value / (-1.9 * settings.learning_rate) for value in values)
    decay = torch.tensor([0.2, 0.8, 0.4, 0.6])
    assert (free - decay).abs().max() > 0.02
    assert torch.allclose(limited - decay, (free - decay).clamp(-0.01, 0.01), atol=1e-5)


def test_a_plan_says_how_it_was_found_and_for_which_device(
    search: Callable[..., MaskSearch], training: Training, network: Network
) -> None:
    table = table_of()
    plan = search(budget_ms=13.0, table=table, settings=replace(training, epochs=1, seed=3)).plan
    assert (plan.method, plan.seed, plan.model, plan.padding) == ("mask", 3, "test_resnet", "repad")
    assert plan.predicted is not None and plan.predicted.latency_ms <= 13.0
    assert plan.table is not None
    assert plan.table.conditions.device == "a board of the test's"
    assert plan.table.digest == table.digest
    assert [block.name for block in plan.blocks] == list(NAMES)
    assert plan.blocks[2].activations == ("layer3.0.act1", "layer3.0.act2")


def test_without_a_table_a_number_of_blocks_is_kept(search: Callable[..., MaskSearch]) -> None:
    found = search(keep=3)
    assert found.plan.kept_count == 3
    assert found.plan.table is None and found.decay is None
    assert {line[-1] for line in found.history} == {""}


def test_what_belongs_to_a_fine_tuning_has_no_part_in_a_search(
    search: Callable[..., MaskSearch], training: Training
) -> None:
    plain = replace(training, epochs=1)
    more = {"ema": 0.5, "distillation": 0.5, "fade_epochs": 1, "block_distillation": 0.5}
    # The second one finds its own checkpoint, finished.
    found = [search(keep=2, settings=one) for one in (plain, replace(plain, **more))]
    assert found[0].fitted.history == found[1].fitted.history


def test_the_share_tells_how_often_a_block_was_kept_of_late(network: Network) -> None:
    rule = rule_of(table_of(), keep=2)
    module = gated_module(network, searchable_blocks(network), rule, horizon=4).train()
    images, mask = torch.zeros(2, 3, 32, 32), module.get_parameter(MASK_NAME)
    expected = torch.zeros(4)
    for values in ([1.0, 2.0, 0.0, 0.0], [1.0, 0.0, 2.0, 0.0], [9.0, 0.0, 0.0, 1.0]):
        mask.data = torch.tensor(values)
        module(images)
        expected = 0.75 * expected + 0.25 * (mask.data > 0)
    module.eval()(images)  # a look at the network is no step
    assert torch.allclose(module.get_buffer(SHARE_NAME), expected)
    assert expected[0] == 1 - 0.75**3


@pytest.mark.parametrize(
    ("share", "values", "kept"),
    [
        ([0.9, 0.1, 0.8, 0.2], [-4.0, 4.0, -3.0, 3.0], "1010"),
        ([0.9, 0.5, 0.5, 0.1], [0.0, 1.0, 2.0, 3.0], "1010"),
        ([0.9, 0.5, 0.5, 0.1], [0.0, 2.0, 1.0, 3.0], "1100"),
    ],
)
def test_what_was_kept_most_of_the_time_stays_and_values_decide_between_equals(
    share: list[float],
    values: list[float],
    kept: str,
    search: Callable[..., MaskSearch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identities: list[Any] = []

    def fit(module: Any, feed: Feed, *, observe: Callable[[], Any], **more: Any) -> Any:
        module.get_buffer(SHARE_NAME).copy_(torch.tensor(share))
        module.get_parameter(MASK_NAME).data = torch.tensor(values)
        identities.append(more["identity"])
        return SimpleNamespace(history=({"epoch": 1, **observe()},))

    monkeypatch.setattr(mask_search, "fit", fit)
    found = search(keep=2, table=table_of())
    assert found.plan.keep_mask == kept
    assert [line[HISTORY_COLUMNS.index("share")] for line in found.history] == pytest.approx(share)
    # What is not asked for: a weak pull, and every slope counts in full.
    assert found.decay is not None and found.decay.strength == mask_search.DECAY == 0.003
    assert identities[0]["limit"] == "inf"


@pytest.mark.parametrize("step", [2, 5])
def test_a_search_that_was_killed_ends_as_one_that_was_not(
    step: int, search: Callable[..., MaskSearch], training: Training, tmp_path: Path
) -> None:
    def kill(done: int, total: int, label: str) -> None:
        if done == step:
            raise Killed

    settings = replace(training, checkpoint_steps=1)
    expected = search(keep=2, table=table_of(), settings=settings, folder=tmp_path / "whole")
    with pytest.raises(Killed):
        search(keep=2, table=table_of(), settings=settings, progress=kill)
    found = search(keep=2, table=table_of(), settings=settings)
    assert found.plan == expected.plan
    assert found.history == expected.history
    for name, value in expected.fitted.state.items():
        assert torch.equal(found.fitted.state[name], value), name


def test_another_rate_of_the_mask_changes_nothing_but_its_scale(network: Network) -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    states = []
    for factor in (1.0, 64.0):  # a power of two: exact
        rule = rule_of(table_of(), keep=2)
        module = gated_module(network, searchable_blocks(network), rule).train()
        mask = module.get_parameter(MASK_NAME)
        weights = [one for one in module.parameters() if one is not mask]
        optimiser = torch.optim.SGD(
            [{"params": weights}, {"params": [mask], "lr": 0.01 * factor}],
            lr=0.01,
            momentum=0.9,
            nesterov=True,
        )
        for _ in range(4):
            optimiser.zero_grad()
            F.cross_entropy(module(images), torch.tensor([0, 1, 2, 0])).backward()
            optimiser.step()
        states.append(module.state_dict())
    one, other = (state.pop(MASK_NAME) for state in states)
    assert torch.equal(64 * one, other) and one.abs().min() > 0
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"keep": 5, "table": table_of()}, "ask for 0 to 4"),
        ({"keep": 5}, "ask for 0 to 4"),
        ({"budget_ms": 1.0, "table": table_of()}, "ask for at least"),
    ],
)
def test_a_goal_out_of_reach_is_refused_before_anything_is_trained(
    given: dict[str, Any], why: str, search: Callable[..., MaskSearch], tmp_path: Path
) -> None:
    with pytest.raises(InfeasibleBudgetError, match=why):
        search(**given)
    assert not (tmp_path / "plan.search").exists()


SPANS = synthetic_span_table({(0, 1): 1.0, (1, 2): 1.0}, mask="11")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"budget_ms": 9.0}, "needs a latency table"),
        ({"keep": 2, "decay": 0.1}, "no decay"),
        ({"keep": 2, "table": table_of(), "decay": -0.1}, "0 or more"),
        ({"keep": 2, "limit": 0.0}, "above 0"),
        ({"keep": 2, "table": replace(table_of(), model="other")}, "of model other, .*test_resnet"),
        ({"keep": 2, "table": replace(table_of(), resolution=(64, 32))}, "resolution 64x32.*32x32"),
        ({"keep": 2, "table": replace(table_of(), block_names=tuple("abcd"))}, "blocks a, b, c, d"),
        ({"keep": 2, "table": SPANS}, "--segments blocks"),
        ({"keep": 2, "table": without_networks(table_of(), role="check")}, "not fit for search"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    given: dict[str, Any], why: str, search: Callable[..., MaskSearch]
) -> None:
    with pytest.raises(SearchError, match=why) as caught:
        search(**given)
    assert "\n" not in str(caught.value)


def test_the_history_has_a_line_a_block_and_epoch(
    search: Callable[..., MaskSearch], tmp_path: Path
) -> None:
    found = search(keep=2, table=table_of())
    file = tmp_path / "plan.history.csv"
    write_mask_history(found, file)
    lines = list(csv.DictReader(file.read_text().splitlines()))
    assert [(line["epoch"], line["step"]) for line in lines] == [("1", "3")] * 4 + [("2", "6")] * 4
    assert [line["name"] for line in lines[:4]] == list(NAMES)
    savings_ms = [float(line["saving_ms"]) for line in lines[:4]]
    assert savings_ms == pytest.approx([1.0, 4.0, 2.0, 3.0], abs=1e-4)
    assert [float(line["mask"]) for line in lines[4:]] == found.fitted.state[MASK_NAME].tolist()
    assert "".join(line["kept"] for line in lines[4:]) == found.plan.keep_mask
    by_share = sorted(lines[4:], key=lambda line: (float(line["share"]), float(line["mask"])))
    assert [line["kept"] for line in by_share] == ["0", "0", "1", "1"]
    assert sum(float(line["share"]) for line in lines[4:]) == pytest.approx(
        2 * (1 - (2 / 3) ** 6)  # two are kept in each of six steps
    )


def test_the_command_writes_plan_and_history_and_names_the_device(
    pictures: Path, tmp_path: Path
) -> None:
    save_table(table_of(), tmp_path / "table")
    out = tmp_path / "plans" / "plan.json"
    arguments = ["search", "mask", "test_resnet", "--data", str(pictures), "--keep"]
    options = {
        "table": tmp_path / "table",
        "weights": "initial",
        "epochs": 1,
        "batch": 8,
        "out": out,
    }
    told = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    result = CliRunner().invoke(app, [*arguments, "2", *told])
    assert result.exit_code == 0, result.output
    assert "a board of the test's" in result.output
    assert str(out.with_suffix(".history.csv")) in result.output
    plan = load_plan(out)
    assert f"keep mask {plan.keep_mask}: 2 of 4" in result.output
    assert (plan.method, plan.kept_count) == ("mask", 2)
    assert out.with_suffix(".history.csv").read_text().startswith("epoch,step,block")
    state = json.loads((out.with_suffix(".search") / "checkpoint.json").read_text())
    assert state["identity"]["training"]["epochs"] == 1
    assert state["identity"]["decay_unit_ms"] == 3.5
