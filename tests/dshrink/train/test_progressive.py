"""Progressive fine-tuning: activations that fade out, and blocks that learn from the original's."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dshrink.merge.agreement import top1_agreement
from dshrink.merge.fading import Fading
from dshrink.merge.merged_network import merge_network
from dshrink.merge.recording import RegionOutputs, recorded_module
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load_network
from dshrink.train import finetune as stage_2
from dshrink.train.errors import CheckpointError, TrainError
from dshrink.train.feed import Feed
from dshrink.train.finetune import FineTuned, finetune
from dshrink.train.loop import Fitted
from dshrink.train.objectives import BlockPair, block_difference, distilled
from dshrink.train.settings import Training

MakeFeed = Callable[..., Feed]
MASK = "1010"


class Killed(BaseException):
    """What ends a run as a kill does: nobody catches it."""


def tuned(network: Network, feed: Feed, folder: Path, **options: Any) -> FineTuned:
    return finetune(network, rewriting(network, MASK), feed, folder, **options)


def assert_same(one: Fitted, other: Fitted) -> None:
    assert one.history == other.history
    assert one.state.keys() == other.state.keys()
    for name, value in one.state.items():
        assert torch.equal(value, other.state[name]), name


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, float]]:
    """Whether a fading layer that ran was in training mode, and how far it was."""
    found: list[tuple[bool, float]] = []
    forward = Fading.forward

    def note(layer: Fading, x: Tensor) -> Tensor:
        if not found or found[-1] != (layer.training, layer.fade.value):
            found.append((layer.training, layer.fade.value))
        return forward(layer, x)

    monkeypatch.setattr(Fading, "forward", note)
    return found


@pytest.mark.parametrize("changes", [{}, {"ema": 0.5}, {"accumulate": 2}])
def test_activations_fade_step_by_step_and_validation_sees_what_is_trained(
    changes: Mapping[str, Any],
    network: Network,
    training: Training,
    make_feed: MakeFeed,
    tmp_path: Path,
    seen: list[tuple[bool, float]],
) -> None:
    settings = replace(training, epochs=3, batch=12, fade_epochs=2, **changes)
    found = tuned(network, make_feed(settings), tmp_path)
    # Two steps an epoch.
    assert seen == [
        *[(True, 0.25), (True, 0.5), (False, 0.5)],
        *[(True, 0.75), (True, 1.0), (False, 1.0)],
        *[(True, 1.0), (False, 1.0)],
    ]
    assert [entry["fade"] for entry in found.fitted.history] == [0.5, 1.0, 1.0]
    with (tmp_path / "history.csv").open() as file:
        assert [float(line["fade"]) for line in csv.DictReader(file)] == [0.5, 1.0, 1.0]
    # What was validated last, and is kept, is what merges.
    merged = merge_network(found.network, rewriting(network, MASK), padding="repad")
    feed = make_feed(settings)
    both = top1_agreement(merged.unmerged(torch.float64), merged.module(torch.float64), feed)
    assert both.differing == 0
    assert both.merged_accuracy_percent == pytest.approx(found.fitted.accuracy)


def test_the_last_step_is_without_activations_however_long_they_fade(
    network: Network,
    training: Training,
    make_feed: MakeFeed,
    tmp_path: Path,
    seen: list[tuple[bool, float]],
) -> None:
    tuned(network, make_feed(replace(training, fade_epochs=2)), tmp_path)
    assert seen[-2:] == [(True, 1.0), (False, 1.0)]


def test_the_papers_stage_2_is_a_fade_of_no_epochs(
    network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    found = tuned(network, make_feed(training), tmp_path)
    assert all("fade" not in entry for entry in found.fitted.history)


@pytest.mark.parametrize("mask", [None, "1111"])
def test_a_network_that_keeps_its_activations_neither_fades_nor_is_compared(
    mask: str | None, network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    changes = mask and rewriting(network, mask)
    plain = finetune(network, changes, make_feed(replace(training, epochs=1)), tmp_path / "plain")
    settings = replace(training, epochs=1, fade_epochs=1, block_distillation=1.0)
    found = finetune(network, changes, make_feed(settings), tmp_path / "progressive")
    assert_same(found.fitted, plain.fitted)


PROGRESSIVE = [
    {"fade_epochs": 2},
    {"fade_epochs": 1, "ema": 0.9},
    {"fade_epochs": 2, "block_distillation": 0.5, "precision": "bf16"},
    {"block_distillation": 0.5, "distillation": 0.5, "accumulate": 2},
]


@pytest.mark.parametrize("changes", PROGRESSIVE)
@pytest.mark.parametrize("step", [2, 4])
def test_a_progressive_run_that_was_killed_ends_as_one_that_was_not(
    changes: Mapping[str, Any],
    step: int,
    network: Network,
    training: Training,
    make_feed: MakeFeed,
    tmp_path: Path,
) -> None:
    def kill(done: int, total: int, label: str) -> None:
        if done == step:
            raise Killed

    feed = make_feed(replace(training, checkpoint_steps=1, **changes))
    whole = tuned(network, feed, tmp_path / "whole")
    with pytest.raises(Killed):
        tuned(network, feed, tmp_path / "killed", progress=kill)
    assert_same(tuned(network, feed, tmp_path / "killed").fitted, whole.fitted)


def test_another_fade_is_another_run(
    network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    settings = replace(training, epochs=1)
    tuned(network, make_feed(settings), tmp_path)
    with pytest.raises(CheckpointError, match=r"\(training.fade_epochs was None, now 1\)"):
        tuned(network, make_feed(replace(settings, fade_epochs=1)), tmp_path)


def test_the_difference_of_blocks_is_in_units_of_the_teachers_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    taught = {
        "a": 5 + 100 * torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64),
        "b": torch.randn(3, 7, 2, 2, generator=generator, dtype=torch.float64),
    }
    given = {name: value + torch.randn(value.shape) for name, value in taught.items()}
    expected = sum(
        sum(((given[name] - x) ** 2).flatten().tolist())
        / sum(((x - x.mean()) ** 2).flatten().tolist())
        for name, x in taught.items()
    )
    torch.testing.assert_close(block_difference(given, taught).item(), expected / 2)


def test_a_block_that_is_constant_has_a_difference_all_the_same() -> None:
    given, taught = {"a": torch.full((2, 1, 2, 2), 3.0)}, {"a": torch.ones(2, 1, 2, 2)}
    assert block_difference(given, taught).item() == 4.0


def test_half_precision_is_compared_in_float32() -> None:
    given = {"a": torch.full((2, 1), 300.0, dtype=torch.float16, requires_grad=True)}
    taught = {"a": torch.tensor([[0.0], [2.0]], dtype=torch.float16)}
    assert block_difference(given, taught).item() == (300**2 + 298**2) / 2


def test_blocks_of_other_sizes_are_refused_by_name() -> None:
    given, taught = {"block 3 (c)": torch.ones(2, 1, 2, 2)}, {"block 3 (c)": torch.ones(2, 1, 4, 4)}
    with pytest.raises(TrainError, match=r"^block 3 \(c\) gives 1x2x2, its teacher's 1x4x4: "):
        block_difference(given, taught)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_both_distillations_run_the_teacher_once(
    weight: float, network: Network, training: Training
) -> None:
    changes = rewriting(network, MASK)
    pair = BlockPair(student=RegionOutputs(), teacher=RegionOutputs())
    student = unmerged_module(network, changes, outputs=pair.student)
    teacher = recorded_module(network, changes.regions, pair.teacher)
    runs = []
    teacher.register_forward_hook(lambda *given: runs.append(given))
    settings = Training(distillation=weight, block_distillation=2.0)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    found = distilled(teacher, settings, pair)(student(images), images, labels)
    assert len(runs) == 1

    outputs = student(images)
    teacher(images)
    own, taught = pair.student.take(), pair.teacher.take()
    assert len(own) == 2
    logits = distilled(copy.deepcopy(network.module), settings)(outputs, images, labels)
    torch.testing.assert_close(found, logits + 2 * block_difference(own, taught))
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    reached = [name for name, one in student.named_parameters() if one.grad is not None]
    assert len(reached) == len(list(student.parameters()))


@torch.no_grad()
def differences(one: Network, other: Network, feed: Feed) -> float:
    """Of the blocks of a shrunk network and of a whole one, by hooks on the blocks themselves."""
    changes = rewriting(one, MASK)
    found: list[Tensor] = []
    names = [one.lowered.nodes[region.result - 1] for region in changes.regions]
    for module in (unmerged_module(one, changes), copy.deepcopy(other.module)):
        module.eval()
        (output,) = (node for node in module.graph.nodes if node.op == "output")
        output.args = ([node for node in module.graph.nodes if node.name in names],)
        module.recompile()
        images = [feed.preprocessing.normalise(x) for x, _ in feed.validation(0, 1)]
        found += module(torch.cat(images))
    half = len(found) // 2
    assert half == len(names)
    pairs = zip(found[:half], found[half:], strict=True)
    return sum(float(((x - t) ** 2).mean() / t.var()) for x, t in pairs) / half


def test_blocks_come_closer_to_their_teachers(
    training: Training, make_feed: MakeFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network("test_resnet", resolution=32, weights="random", classes=3)
    settings = replace(training, epochs=3, learning_rate=0.05, block_distillation=1.0)
    feed = make_feed(settings)

    def alone(*given: Any) -> Any:
        whole = distilled(*given)

        def loss(outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            return whole(0 * outputs, images, labels)

        return loss

    before = differences(network, network, feed)
    monkeypatch.setattr(stage_2, "distilled", alone)
    found = tuned(network, feed, tmp_path)
    assert differences(found.network, network, feed) < 0.7 * before
    losses = [entry["train_loss"] for entry in found.fitted.history]
    assert losses == sorted(losses, reverse=True)


def test_the_teacher_of_the_blocks_may_have_weights_of_its_own(
    network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(replace(training, epochs=1, block_distillation=1.0))
    teacher = load_network("test_resnet", resolution=32, classes=3, weights="random", seed=7)
    own = tuned(network, feed, tmp_path / "own").fitted
    same = tuned(network, feed, tmp_path / "same", teacher=network.module).fitted
    other = tuned(network, feed, tmp_path / "other", teacher=teacher.module).fitted
    assert_same(own, same)
    assert other.history[0]["train_loss"] != own.history[0]["train_loss"]
    assert all(parameter.requires_grad for parameter in teacher.module.parameters())
