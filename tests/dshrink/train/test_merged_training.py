"""Training the merged network itself: norms that come and go, and runs from refitted weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pictures import write_pictures
from refit_networks import SIZE, images, mobile, network_of
from refit_runs import MODEL, PLAN, invoke, refused, same, state_of
from safetensors.torch import save_file
from torch import Tensor, nn

from dshrink.merge.merged_network import merge_network
from dshrink.merge.merged_weights import MergedWeights
from dshrink.network.layers import ConstantMap, PaddedConv2d
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load_network
from dshrink.network.weights.metadata import about_weights
from dshrink.search.plan import load_plan
from dshrink.train.errors import CheckpointError
from dshrink.train.feed import Feed
from dshrink.train.finetune import FineTuned, finetune
from dshrink.train.image_sets import open_images, preprocessing_of
from dshrink.train.merged_norms import NormedConv, add_norms, fold_norms
from dshrink.train.settings import Augmentation, Training

BATCHES = [(images(8, seed=1), torch.zeros(8)), (images(5, seed=2), torch.zeros(5))]


def merged(network: Network, mask: str = "010", padding: str = "bias_map", **more: Any) -> Any:
    changes = rewriting(network, mask, free_activation=False, **more)
    return merge_network(network, changes, padding=padding).module(torch.float32)


def parts(module: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, kind)]


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
def test_norms_that_come_change_nothing_that_the_network_computes(padding: str) -> None:
    network = network_of(mobile)
    module = merged(network, padding=padding)
    x, before = images(6, seed=7), merged(network, padding=padding)
    convolutions = parts(module, PaddedConv2d)
    add_norms(module, network, BATCHES)
    assert not module.training
    assert parts(module, NormedConv) == convolutions and len(convolutions) == 2
    with torch.no_grad():
        torch.testing.assert_close(module(x), before(x), rtol=1e-5, atol=1e-5)


def test_their_statistics_are_those_of_what_they_normalise() -> None:
    network = network_of(mobile)
    module, before = merged(network), merged(network)
    given: dict[str, Tensor] = {}
    for name in parts(before, PaddedConv2d):
        before.get_submodule(name).register_forward_hook(
            lambda _, x, y, name=name: given.__setitem__(name, y)
        )
    batches = [(images(8, seed=1), torch.zeros(8)), (images(8, seed=2), torch.zeros(8))]
    add_norms(module, network, batches)
    with torch.no_grad():
        before(torch.cat([x for x, _ in batches]))
    for name, y in given.items():
        norm = module.get_submodule(name)[1]
        torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        variance = y.var((0, 2, 3), correction=0)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-3, atol=1e-4)
        # Its first step normalises a batch to what it gave: training goes on where it was.
        torch.testing.assert_close(norm.bias, norm.running_mean)
        torch.testing.assert_close(norm.weight, (norm.running_var + norm.eps).sqrt())


def test_convolutions_of_the_original_get_no_norm() -> None:
    """Also where they are padded as the merged ones are (TensorFlow's SAME)."""
    network = network_of(mobile)
    conv = network.module.get_submodule("stem.0")
    assert isinstance(conv, nn.Conv2d)
    padded = PaddedConv2d(3, 4, 3, pads=(1, 1, 1, 1), bias=False)
    network.module.set_submodule("stem.0", padded)
    module = merged(network)
    add_norms(module, network, BATCHES)
    assert isinstance(module.get_submodule("stem.0"), PaddedConv2d)
    assert len(parts(module, NormedConv)) == 2


def test_without_images_the_norms_change_nothing_either() -> None:
    network = network_of(mobile)
    module, before = merged(network), merged(network)
    add_norms(module, network, [])
    with torch.no_grad():
        torch.testing.assert_close(module(images(3)), before(images(3)), rtol=1e-5, atol=1e-5)


def test_norms_fold_into_the_convolutions_that_they_came_with() -> None:
    network = network_of(mobile)
    module, form = merged(network), merged(network)
    add_norms(module, network, BATCHES)
    torch.manual_seed(3)
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), 0.05)
    for x, _ in BATCHES:  # weights, statistics and scales become something else
        module(x).square().sum().backward()
        optimiser.step()
    state = copy.deepcopy(module.state_dict())
    folded = fold_norms(module, state)
    assert folded.keys() == form.state_dict().keys()
    assert {value.dtype for name, value in folded.items() if name.endswith("weight")} == {
        torch.float32
    }
    form.load_state_dict(folded)
    with torch.no_grad():
        torch.testing.assert_close(form.eval()(images(4)), module.eval()(images(4)))
    # It is the state that is folded, not what the module happens to hold (an average of weights).
    other = {
        name: value * 1.5 if value.is_floating_point() else value for name, value in state.items()
    }
    form.load_state_dict(fold_norms(module, other))
    module.load_state_dict(other)
    with torch.no_grad():
        torch.testing.assert_close(form(images(4)), module.eval()(images(4)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", train=8, size=SIZE)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "mobile.safetensors"
    save_file(mobile(classes=3).state_dict(), file)
    return file


def refit(start: Path, data: Path, folder: Path, *options: str) -> Any:
    ran = invoke(
        *("refit", *MODEL, "--weights", start, "--data", data, "--images", 20, "--json"),
        *("--out", folder, *options),
    )
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def refitted(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("refitted")
    return SimpleNamespace(folder=folder, result=refit(start, data, folder, "--plan", PLAN))


def train_words(folder: Path, data: Path, out: Path, *options: Any) -> list[Any]:
    return [
        *("finetune", *MODEL, "--plan", folder / "plan.json", "--data", data, "--out", out),
        *("--weights", folder / "weights.safetensors", "--epochs", 2, "--batch", 8),
        *("--lr", 0.01, "--json", *options),
    ]


def trained(folder: Path, data: Path, out: Path, *options: Any) -> Any:
    return json.loads(invoke(*train_words(folder, data, out, *options)).stdout)


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        (PLAN, ()),
        (PLAN, ("--free-activation", "--padding", "repad")),
        ("mask:000", ("--free-activation",)),
        ("spans:10111|01|", ("--padding", "repad", "--free-activation")),
    ],
)
def test_what_was_trained_from_refitted_weights_is_what_merges(
    plan: str, options: tuple[str, ...], start: Path, data: Path, tmp_path: Path
) -> None:
    before = refit(start, data, tmp_path / "refit", "--plan", plan, *options)
    found = trained(tmp_path / "refit", data, tmp_path / "tuned")
    one, other = (about_weights(Path(result["weights"])) for result in (before, found))
    assert one is not None and other is not None and other.form == "merged"
    assert replace(other, accuracy_percent=None) == replace(one, accuracy_percent=None)
    assert other.accuracy_percent == found["accuracy_percent"]
    assert load_plan(Path(found["plan"])).padding == one.padding
    # The same names and shapes: the norms are folded away.
    first, second = state_of(tmp_path / "refit"), state_of(tmp_path / "tuned")
    assert {n: v.shape for n, v in first.items()} == {n: v.shape for n, v in second.items()}
    merged_names = [name for name in first if "merged_0.weight" in name]
    assert merged_names and all(not torch.equal(first[n], second[n]) for n in merged_names)
    ran = invoke(
        *("merge", *MODEL, "--plan", found["plan"], "--weights", found["weights"]),
        *("--data", data, "--out", tmp_path / "merged.onnx", "--json"),
    )
    told = json.loads(ran.stdout)
    assert told["accuracy_percent"] == pytest.approx(found["accuracy_percent"])
    assert told["padding"] == one.padding


def network_and_feed(start: Path, data: Path, **changes: Any) -> tuple[Network, Feed]:
    network = load_network(MODEL[0], resolution=SIZE, weights=start, model_args=["classes=3"])
    settings = Training(
        epochs=2, batch=8, learning_rate=0.02, augmentation=Augmentation(auto_augment=""), **changes
    )
    preprocessing = preprocessing_of("small.py:mobile", (SIZE, SIZE))
    return network, Feed(images=open_images(data), preprocessing=preprocessing, settings=settings)


class Killed(BaseException):
    """What ends a run as a kill does: nobody catches it."""


def tuned(network: Network, feed: Feed, refitted: Any, folder: Path, **more: Any) -> FineTuned:
    changes = rewriting(network, "011", free_activation=False)
    weights = MergedWeights(
        state=state_of(refitted.folder), padding="bias_map", where=str(refitted.folder)
    )
    return finetune(network, changes, feed, folder, merged=weights, **more)


@pytest.mark.parametrize("changes", [{}, {"ema": 0.8}])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    changes: dict[str, Any], start: Path, data: Path, refitted: Any, tmp_path: Path
) -> None:
    def kill(done: int, total: int, label: str) -> None:
        if done == 4:
            raise Killed

    network, feed = network_and_feed(start, data, checkpoint_steps=1, **changes)
    whole = tuned(network, feed, refitted, tmp_path / "whole")
    with pytest.raises(Killed):
        tuned(network, feed, refitted, tmp_path / "killed", progress=kill)
    again = tuned(network, feed, refitted, tmp_path / "killed")
    assert again.fitted.history == whole.fitted.history
    assert same(tmp_path / "killed", tmp_path / "whole")


def test_the_network_that_is_handed_back_is_what_was_trained(
    start: Path, data: Path, refitted: Any, tmp_path: Path
) -> None:
    network, feed = network_and_feed(start, data)
    found = tuned(network, feed, refitted, tmp_path)
    state = found.network.module.state_dict()
    stored = state_of(tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in stored.items())
    right = seen = 0
    with torch.no_grad():
        for pixels, labels in feed.validation(0, 1):
            told = found.network.module.eval()(feed.preprocessing.normalise(pixels)).argmax(1)
            right, seen = right + int((told == labels).sum()), seen + len(labels)
    assert 100 * right / seen == pytest.approx(found.fitted.accuracy)
    assert not parts(found.network.module, NormedConv)
    assert parts(found.network.module, ConstantMap)


def test_other_refitted_weights_are_another_run(
    start: Path, data: Path, refitted: Any, tmp_path: Path
) -> None:
    network, feed = network_and_feed(start, data)
    tuned(network, feed, refitted, tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    state = state_of(refitted.folder)
    state["classifier.bias"] += 1
    save_file(state, other / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"weights was .{16}, now .{16}"):
        tuned(network, feed, SimpleNamespace(folder=other), tmp_path / "out")


@pytest.fixture(scope="module")
def plain(data: Path, refitted: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trained(refitted.folder, data, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("option", ["--block-distillation", "--distillation"])
def test_it_is_taught_by_the_whole_network(
    option: str, plain: Any, start: Path, data: Path, refitted: Any, tmp_path: Path
) -> None:
    found = trained(refitted.folder, data, tmp_path, option, 0.5, "--teacher", start)
    assert found["history"] != plain["history"]
    assert not same(tmp_path, Path(plain["weights"]).parent)


def test_blocks_come_closer_to_the_teachers_where_these_alone_count(
    start: Path, data: Path, refitted: Any, tmp_path: Path
) -> None:
    """Trained as by ``--block-distillation``: its loss is in the history."""
    network, feed = network_and_feed(start, data, block_distillation=20.0)
    found = tuned(network, feed, refitted, tmp_path, teacher=network.module)
    losses = [entry["train_loss"] for entry in found.fitted.history]
    assert losses[-1] < losses[0]


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    return partial(refused, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fade-epochs", 1], "nothing fades; leave it out"),
        (["--plan", "mask:010"], "fitted for mask 011, now 010: give that plan"),
        (["--free-activation"], "fitted for free_activation False, now True"),
        (["--weights-ema"], "holds one set of weights; leave it out"),
        (["--distillation", 0.5], "give those of the whole network as --teacher FILE"),
    ],
)
def test_what_does_not_go_with_them_is_refused(
    options: list[Any],
    said: str,
    data: Path,
    refitted: Any,
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    assert said in refusal(*train_words(refitted.folder, data, tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


def test_images_of_other_classes_are_refused(
    data: Path, refitted: Any, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    five = write_pictures(tmp_path / "five", classes=5, train=2, size=SIZE)
    line = refusal(*train_words(refitted.folder, five, tmp_path / "out"))
    assert "has 5 classes" in line


def test_refitted_weights_have_the_names_of_the_merged_graph(start: Path, refitted: Any) -> None:
    """The names in the file are those of the layers that merging puts into the graph."""
    network = load_network(MODEL[0], resolution=SIZE, weights=start, model_args=["classes=3"])
    changes = rewriting(network, "011", free_activation=False)
    plain = merge_network(network, changes, padding="bias_map").module(torch.float32)
    assert state_of(refitted.folder).keys() == plain.state_dict().keys()
