"""Fine-tuning a shrunk network, and the merge of what it learnt."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from dshrink.cli.main import app, main
from dshrink.errors import DshrinkError, NetworkError
from dshrink.merge.agreement import top1_agreement
from dshrink.merge.export import METADATA_KEY
from dshrink.merge.merged_network import merge_network
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load_network
from dshrink.network.weights.metadata import WeightsAbout, about_weights
from dshrink.train.errors import CheckpointError
from dshrink.train.feed import Feed
from dshrink.train.finetune import finetune
from dshrink.train.image_sets import open_images
from dshrink.train.loop import fit
from dshrink.train.objectives import distilled
from dshrink.train.settings import Training

MakeFeed = Callable[..., Feed]


#: What a file of weights for the mask 0100 says of itself.
WHOLE = {
    **{"model": "test_resnet", "resolution": [32, 32], "classes": 3, "segments": "blocks"},
    **{"mask": "0100", "free_activation": True, "padding": "repad"},
}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def tuned(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``dshrink finetune`` wrote for the mask 0100 of the small network."""
    folder = tmp_path_factory.mktemp("tuned")
    start = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_file(load_network("test_resnet", resolution=32, classes=3).module.state_dict(), start)
    found = run(
        *("finetune", "test_resnet", "--plan", "mask:0100", "--weights", str(start)),
        *("--data", str(pictures), "--out", str(folder), "--epochs", "2", "--batch", "8"),
        *("--lr", "0.02", "--resolution", "32", "--distillation", "0.5", "--json"),
    )
    result = json.loads(found)
    assert result["weights"] == str(folder / "weights.safetensors")
    assert [entry["epoch"] for entry in result["history"]] == [1, 2]
    return folder


def test_the_weights_are_the_originals_by_name_and_say_what_they_are_for(tuned: Path) -> None:
    original = load_network("test_resnet", resolution=32, classes=3).module.state_dict()
    state = load_file(tuned / "weights.safetensors")
    assert {n: v.shape for n, v in state.items()} == {n: v.shape for n, v in original.items()}
    history = json.loads((tuned / "checkpoint.json").read_text())["history"]
    assert about_weights(tuned / "weights.safetensors") == WeightsAbout(
        model="test_resnet",
        resolution=(32, 32),
        classes=3,
        segments="blocks",
        mask="0100",
        free_activation=True,
        padding="repad",
        in_channels=3,
        accuracy_percent=history[-1]["val_accuracy"],
    )


def test_merged_it_gives_every_image_the_class_that_was_trained(
    tuned: Path, pictures: Path, tmp_path: Path
) -> None:
    file = tmp_path / "merged.onnx"
    result = json.loads(
        run(
            *("merge", "test_resnet", "--plan", str(tuned / "plan.json")),
            *("--weights", str(tuned / "weights.safetensors"), "--data", str(pictures)),
            *("--out", str(file), "--json"),
        )
    )
    about = about_weights(tuned / "weights.safetensors")
    assert about is not None
    assert result["padding"] == "repad" and result["blocks_merged"] == 3
    assert result["agreement"] == {
        "images": 12,
        "unmerged_accuracy_percent": pytest.approx(about.accuracy_percent),
        "merged_accuracy_percent": pytest.approx(about.accuracy_percent),
        "differing": 0,
        # Tuned weights are those of the network without the activations: it is its own original.
        "original_accuracy_percent": None,
        "as_original": None,
    }
    certificate = json.loads((tmp_path / "merged.onnx.certificate.json").read_text())
    assert certificate["validation"] == result["agreement"]
    properties = {p.key: p.value for p in onnx.load(file).metadata_props}
    metadata = json.loads(properties[METADATA_KEY])
    assert metadata["accuracy_percent"] == pytest.approx(about.accuracy_percent)
    assert metadata["resolution"] == [32, 32]
    assert metadata["validation_images"] == 12
    assert metadata["data"] == open_images(pictures).digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan", "mask:0101"], "fine-tuned for mask 0100, now 0101: give that plan"),
        (["--plan", "mask:0100", "--padding", "interior"], "padding repad, now interior"),
        (["--plan", "mask:0100", "--no-free-activation"], "free_activation True, now False"),
        (["--plan", "mask:0100", "--data", "OTHER"], "OTHER"),
    ],
)
def test_weights_of_another_plan_are_not_merged(
    options: Sequence[str], message: str, tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged.onnx"
    with pytest.raises(DshrinkError) as caught:
        run(
            *("merge", "test_resnet", "--weights", str(tuned / "weights.safetensors")),
            *("--out", str(out), *options),
        )
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not out.exists()


def test_weights_of_another_network_or_class_count_are_refused(tuned: Path) -> None:
    file = tuned / "weights.safetensors"
    with pytest.raises(
        NetworkError, match="its weights are of test_resnet, the network is resnet18"
    ):
        load_network("resnet18", resolution=32, weights=file)
    with pytest.raises(NetworkError, match="do not fit test_resnet"):
        load_network("test_resnet", resolution=32, weights=file, classes=5)


def test_a_foreign_file_of_weights_says_nothing_of_itself(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors", metadata)
        assert about_weights(tmp_path / "foreign.safetensors") is None
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    assert about_weights(tmp_path / "broken.safetensors") is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("no JSON", "line 1: not valid JSON"),
        ("[1]", "expected an object, got [1]"),
        ({"free_activation": None}, "field 'free_activation' is missing"),
        ({"resolution": 64}, "field 'resolution' must be a list, got 64"),
        ({"resolution": [0, 32]}, "resolution 0x32: height and width are 8 or more"),
        ({"classes": "3"}, "field 'classes' must be an integer, got \"3\""),
        ({"padding": "none"}, "unknown padding 'none'"),
        ({"layers": 3}, "unknown field 'layers'"),
    ],
)
def test_a_merge_names_the_file_whose_metadata_are_damaged(
    metadata: str | dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if isinstance(metadata, dict):
        whole = {**WHOLE, **metadata}
        metadata = json.dumps({name: value for name, value in whole.items() if value is not None})
    file = tmp_path / "damaged.safetensors"
    save_file({"a": torch.ones(1)}, file, {"dshrink": metadata})
    words = ["merge", "test_resnet", "--plan", "mask:0100", "--weights", str(file)]
    monkeypatch.setattr("sys.argv", ["dshrink", *words, "--out", str(tmp_path / "a.onnx")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{file}: metadata 'dshrink': " in line and message in line


@pytest.mark.parametrize("free_activation", [True, False])
def test_what_was_trained_is_what_merges(
    free_activation: bool,
    network: Network,
    training: Training,
    make_feed: MakeFeed,
    tmp_path: Path,
) -> None:
    feed = make_feed(replace(training, epochs=1))
    changes = rewriting(network, "0010", free_activation=free_activation)
    found = finetune(network, changes, feed, tmp_path)
    merged = merge_network(found.network, changes, padding="repad")
    both = top1_agreement(merged.unmerged(torch.float64), merged.module(torch.float64), feed)
    assert both.images == 12 and both.differing == 0
    assert both.merged_accuracy_percent == pytest.approx(found.fitted.accuracy)
    # It has learnt something: the network that came in is another one.
    before = network.module.state_dict()
    assert any(not torch.equal(before[name], value) for name, value in found.fitted.state.items())


def test_without_a_plan_the_network_is_trained_as_it_is(
    network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(replace(training, epochs=1))
    found = finetune(network, None, feed, tmp_path / "none")
    assert len(found.fitted.history) == 1
    changes = rewriting(network, "1111")
    same = finetune(network, changes, feed, tmp_path / "ones")
    for name, value in found.fitted.state.items():
        assert torch.equal(value, same.fitted.state[name])
    about = about_weights(same.weights)
    assert about is not None and about.padding == ""  # it fits any plan


def test_a_teacher_may_be_another_network(
    network: Network, training: Training, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(replace(training, epochs=1, distillation=0.9))
    teacher = load_network("test_resnet", resolution=32, classes=3, weights="random", seed=7).module
    found = finetune(network, None, feed, tmp_path / "taught", teacher=teacher)
    module = copy.deepcopy(network.module)
    objective = distilled(copy.deepcopy(teacher), feed.settings)
    wanted = fit(module, feed, folder=tmp_path / "fit", identity={}, objective=objective)
    for name, value in wanted.state.items():
        assert torch.equal(found.fitted.state[name], value), name
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    with pytest.raises(CheckpointError, match=r"teacher was .{16}, now None"):
        finetune(network, None, feed, tmp_path / "taught")


@pytest.fixture
def tf32() -> Iterator[None]:
    """A process that has allowed TF32 everywhere."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    yield
    matmul.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
def test_agreement_is_that_of_float32_on_a_gpu_too(make_feed: MakeFeed) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    seen = set()

    class Classifies(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add((cudnn.enabled, cudnn.allow_tf32, matmul.allow_tf32))
            return super().forward(x.mean((2, 3)))

    top1_agreement(Classifies(3, 3), Classifies(3, 3), make_feed(Training(batch=8)))
    assert seen == {(True, False, False)}
    assert (cudnn.enabled, cudnn.allow_tf32, matmul.allow_tf32) == (True, True, True)


def test_agreement_counts_images_that_are_classified_differently(make_feed: MakeFeed) -> None:
    class Classifies(nn.Module):
        def __init__(self, classes: Sequence[int]) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.classes, self.at = classes, 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            told = torch.tensor(self.classes[self.at : self.at + len(x)])
            self.at += len(x)
            return torch.nn.functional.one_hot(told, 3) + self.weight

    right = [0] * 4 + [1] * 4 + [2] * 4
    other = [2, *right[1:11], 1]
    found = top1_agreement(Classifies(other), Classifies(right), make_feed(Training(batch=8)))
    assert (found.images, found.differing) == (12, 2)
    assert found.unmerged_accuracy_percent == pytest.approx(100 * 10 / 12)
    assert found.merged_accuracy_percent == 100


def test_a_plan_for_another_network_is_one_line(pictures: Path, tmp_path: Path) -> None:
    command = [
        "dshrink",
        "finetune",
        "test_resnet",
        "--plan",
        "paper:MBV2-DS-A",
        "--weights",
        "initial",
    ]
    command += ["--data", str(pictures), "--out", str(tmp_path / "out"), "--resolution", "32"]
    result = CliRunner().invoke(app, command[1:])
    assert isinstance(result.exception, DshrinkError)
    assert "the plan is for mobilenetv2_100, the network is test_resnet" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_classes_of_the_data_must_be_those_of_the_weights(tuned: Path, tmp_path: Path) -> None:
    from pictures import write_pictures

    other = write_pictures(tmp_path / "five", classes=5, train=2)
    with pytest.raises(NetworkError, match=r"has 5 classes"):
        run(
            *("finetune", "test_resnet", "--plan", "mask:0100", "--resolution", "32"),
            *("--weights", str(tuned / "weights.safetensors"), "--data", str(other)),
            *("--out", str(tmp_path / "out")),
        )
