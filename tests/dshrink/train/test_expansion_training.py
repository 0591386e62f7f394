"""Expand, train, shrink back, on a small network of timm's and a few pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from dshrink.errors import CertificateError
from dshrink.network.models import Network, load_network
from dshrink.network.tracing import import_timm
from dshrink.network.weights.metadata import about_weights
from dshrink.train import expansion, expansion_training
from dshrink.train.errors import CheckpointError
from dshrink.train.expansion import Expansion, expand
from dshrink.train.expansion_rules import choose
from dshrink.train.expansion_training import Shrunk, expand_and_shrink
from dshrink.train.feed import Feed
from dshrink.train.settings import Training

LAYERS = ("layer1.0.conv1", "layer2.0.conv2", "layer4.0.conv1")


@dataclass(frozen=True)
class Seen:
    """What a training was called with."""

    folder: str
    activations: int
    epochs: int
    start: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Ran:
    folder: Path
    shrunk: Shrunk
    trainings: list[Seen]
    shrink: Callable[..., Shrunk | None]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Ran:
    """Two epochs expanded with an average of the weights, one without the activations."""
    from dshrink.train.image_sets import open_images, preprocessing_of

    folder = tmp_path_factory.mktemp("expand")
    network = load_network("test_resnet", resolution=32, classes=3)
    settings = Training(epochs=2, batch=8, learning_rate=0.02, ema=0.5, seed=3)
    feed = Feed(
        images=open_images(pictures),
        preprocessing=preprocessing_of("test_resnet", (32, 32)),
        settings=settings,
    )
    shrinking = replace(settings, epochs=1, learning_rate=0.01)

    def shrink(out: Path = folder, **more: Any) -> Shrunk | None:
        return expand_and_shrink(
            network, choose(network, layers=LAYERS), feed, shrinking, out, **more
        )

    trainings: list[Seen] = []
    with pytest.MonkeyPatch.context() as patch:
        fit = expansion_training.fit

        def seen(module: nn.Module, feed: Feed, **more: Any) -> Any:
            inside = [m for m in module.modules() if isinstance(m, Expansion)]
            active = sum(isinstance(layer, nn.ReLU6) for one in inside for layer in one)
            start = {name: value.clone() for name, value in module.state_dict().items()}
            trainings.append(Seen(more["folder"].name, active, feed.settings.epochs, start))
            return fit(module, feed, **more)

        patch.setattr(expansion_training, "fit", seen)
        shrunk = shrink()
    assert shrunk is not None
    return Ran(folder, shrunk, trainings, shrink)


def test_it_trains_with_the_added_activations_and_then_goes_on_without(ran: Ran) -> None:
    first, second = ran.trainings
    assert (first.folder, first.activations, first.epochs) == ("expanded", 6, 2)
    assert (second.folder, second.activations, second.epochs) == ("linear", 0, 1)
    drawn = expand(ran.shrunk.network, LAYERS, seed=3).module.state_dict()
    expansions = [name for name in drawn if ".expand." in name]
    assert len(expansions) == len(LAYERS)
    assert all(torch.equal(first.start[name], drawn[name]) for name in expansions)
    assert all(torch.equal(ran.shrunk.expanded.state[n], v) for n, v in second.start.items())
    assert not torch.equal(
        first.start["layer1.0.conv1.expand.weight"], second.start["layer1.0.conv1.expand.weight"]
    )
    assert ran.shrunk.linear.history[0]["learning_rate"] <= 0.01
    lines = (ran.folder / "expanded" / "history.csv").read_text().splitlines()
    assert len(lines) == 1 + 2
    assert len((ran.folder / "linear" / "history.csv").read_text().splitlines()) == 1 + 1


def test_the_weights_are_those_of_the_librarys_network_and_tell_every_image_the_same(
    ran: Ran,
) -> None:
    model = import_timm().create_model("test_resnet", num_classes=3).eval()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    state = load_file(ran.folder / "weights.safetensors")
    assert {name: value.shape for name, value in state.items()} == shapes
    model.load_state_dict(state)
    agreed = ran.shrunk.agreement
    assert (agreed.images, agreed.differing) == (12, 0)
    assert (
        agreed.merged_accuracy_percent
        == agreed.unmerged_accuracy_percent
        == ran.shrunk.linear.accuracy
    )
    assert ran.shrunk.error < 1e-9
    # The weights that are kept are the average's; the classifier is no part of an expansion.
    assert torch.equal(state["fc.weight"], ran.shrunk.linear.state["fc.weight"])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), ran.shrunk.network.module(images))


def test_the_file_says_what_its_weights_are(ran: Ran) -> None:
    with safe_open(ran.folder / "weights.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["dshrink"])
    assert about["model"] == "test_resnet"
    assert (about["resolution"], about["classes"], about["padding"]) == ([32, 32], 3, "")
    assert (about["expanded"], about["ratio"]) == (list(LAYERS), 6)
    assert about["accuracy_percent"] == ran.shrunk.agreement.merged_accuracy_percent
    found = about_weights(ran.folder / "weights.safetensors")
    assert found is not None and (found.expanded, found.ratio) == (tuple(LAYERS), 6)
    known = load_network("test_resnet", resolution=32, weights=ran.folder / "weights.safetensors")
    assert known.spec.shapes[-1] == (3,)


def test_a_finished_run_is_not_trained_again_and_gives_the_same(ran: Ran) -> None:
    steps: list[str] = []
    again = ran.shrink(progress=lambda done, total, label: steps.append(label))
    assert again is not None
    assert steps == []
    before, after = ran.shrunk.network.module.state_dict(), again.network.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_folder_of_another_expansion_is_refused(ran: Ran) -> None:
    with pytest.raises(CheckpointError, match="ratio was 6, now 2"):
        ran.shrink(ratio=2)


def test_what_does_not_compute_what_was_trained_is_not_written(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for part in ("expanded", "linear"):
        (tmp_path / part).symlink_to(ran.folder / part)
    exact = expansion.contract

    def contract(expanded: expansion.Expanded) -> dict[str, torch.Tensor]:
        state = exact(expanded)
        state["layer1.0.conv1.weight"] *= 1 + 1e-6
        return state

    monkeypatch.setattr(expansion, "contract", contract)
    with pytest.raises(CertificateError, match=r"test_resnet: not written: .* more than 1e-09"):
        ran.shrink(tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


def test_progress_names_the_training(
    network: Network, make_feed: Callable[..., Feed], training: Training, tmp_path: Path
) -> None:
    labels: list[tuple[int, int, str]] = []
    one = replace(training, epochs=1, batch=24)
    choice = choose(network, layers=LAYERS[:1])
    expand_and_shrink(
        network,
        choice,
        make_feed(one),
        one,
        tmp_path,
        ratio=1,
        progress=lambda *told: labels.append(told),
    )
    assert labels == [(1, 1, "expanded, epoch 1 of 1"), (1, 1, "linear, epoch 1 of 1")]
