"""What a merge says of weights that were not trained without the activations it removes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dshrink.merge.activations import Trained, WeightsOrigin, changed_activations
from dshrink.merge.agreement import Agreement
from dshrink.merge.export import METADATA_KEY, export_onnx
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import load_network
from dshrink.network.references import ModelChoice
from dshrink.network.weights.metadata import WeightsAbout
from dshrink.operations.merge import merge_by_plan
from dshrink.operations.weights_origin import origin_of
from dshrink.train.opening import open_to_validate

MODEL = "mobilenetv2_035"
#: Block 15 merges: its two ReLU6 go, and one comes at its end.
MASK = "1" * 15 + "01"


def about(**more: Any) -> WeightsAbout:
    return WeightsAbout(
        model=MODEL,
        resolution=(32, 32),
        classes=1000,
        segments="blocks",
        mask=MASK,
        free_activation=True,
        padding=more.pop("padding", "repad"),
        **more,
    )


@pytest.mark.parametrize(
    ("name", "weights", "known", "trained"),
    [
        (MODEL, "random", None, "never"),
        (MODEL, "initial", None, "never"),
        ("torchvision:resnet18", "initial", None, "never"),
        # What a factory gives may be loaded from a file.
        ("net.py:make", "initial", None, "unknown"),
        ("in-memory:Net", "own", None, "unknown"),
        (MODEL, "pretrained", None, "with"),
        (MODEL, "w.pth", None, "unknown"),
        (MODEL, "w.safetensors", about(), "without"),
        # Weights of ours of the whole network, as of `dshrink expand`.
        (MODEL, "w.safetensors", about(padding=""), "with"),
    ],
)
def test_the_source_of_weights_says_how_they_were_trained(
    network: Any, name: str, weights: str, known: WeightsAbout | None, trained: Trained
) -> None:
    made = replace(network(MODEL, 32), name=name, weights=weights, trained=known)
    assert origin_of(made, made, "plan.json").trained == trained


def test_the_weights_of_an_onnx_file_were_trained_with_its_activations(
    network: Any, tmp_path: Path
) -> None:
    export_onnx(network(MODEL, 32, "random"), tmp_path / "net.onnx")
    found = load_network(tmp_path / "net.onnx")
    assert origin_of(found, found, "plan.json").trained == "with"


def test_the_advice_is_a_command_to_copy(network: Any) -> None:
    choice = ModelChoice(
        model="net.py:make", model_args=("width=0.5",), weights="my w.pth", resolution=(64, 32)
    )
    made = replace(network(MODEL, 32), name=choice.name, weights="my w.pth")
    words = (
        "net.py:make --model-arg width=0.5 --plan plan.json --weights 'my w.pth' "
        "--resolution 64x32 --data DIR"
    )
    assert origin_of(made, choice, "plan.json").advice == (
        f"fit it to images without labels: dshrink refit {words} --out refit",
        f"fine-tune it: dshrink finetune {words} --out tuned",
    )
    first = replace(choice, weights="initial")
    made = replace(made, weights="initial")
    assert "refit" not in " ".join(origin_of(made, first, "plan.json").advice)
    # A network in hand has no command.
    assert "refit_by_plan(" in origin_of(made, made, "plan.json").advice[0]


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        (
            "with",
            "w were trained with the 2 activations that the merge removes and without the 1",
        ),
        ("unknown", "w may have been trained with the 2 activations"),
        ("never", "w are untrained"),
        ("without", ""),
    ],
)
def test_there_is_a_warning_unless_the_weights_were_trained_for_it(
    network: Any, trained: Trained, said: str
) -> None:
    changes = rewriting(network(MODEL, 32), MASK)
    origin = WeightsOrigin(trained=trained, whose="w", advice=("do this",))
    found = changed_activations(changes, origin)
    assert (found.removed, found.added) == (2, 1)
    assert said in found.warning and bool(found.warning) == bool(said)
    assert found.advice == (("do this",) if said else ())


def test_a_plan_that_changes_nothing_needs_no_warning(network: Any) -> None:
    changes = rewriting(network(MODEL, 32), "1" * 17)
    assert changed_activations(changes, WeightsOrigin(trained="with", whose="w")).warning == ""


def test_a_measured_agreement_takes_the_place_of_the_expectation(network: Any) -> None:
    changes = rewriting(network(MODEL, 32), MASK)
    agreement = Agreement(
        images=200,
        unmerged_accuracy_percent=None,
        merged_accuracy_percent=None,
        differing=0,
        as_original=3,
    )
    found = changed_activations(changes, WeightsOrigin(trained="with", whose="w"), agreement)
    assert "still the original's on 1.5 % of the images" in found.warning
    assert "mostly lost" not in found.warning


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images without classes."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of others: nothing in it says how it was trained."""
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(dict(network(MODEL, 32, "random").module.state_dict()), file)
    return str(file)


def test_images_without_classes_show_the_agreement_with_the_original(
    network: Any, photographs: Path, weights: str, tmp_path: Path, dshrink: Any
) -> None:
    file = tmp_path / "m.onnx"
    words = ["merge", MODEL, "--plan", "mask:" + "1" + "0" * 16, "--weights", weights]
    words += ["--resolution", "32", "--data", photographs, "--out", file]
    ran = dshrink(*words)
    assert ran.status == 0, ran.err

    original = network(MODEL, 32, "random")
    feed = open_to_validate(str(photographs), original, weights=weights)
    session = onnxruntime.InferenceSession(file.read_bytes())
    same = 0
    for batch, _ in feed.validation_on(torch.device("cpu")):
        with torch.no_grad():
            before = original.module(batch).argmax(1)
        for image, wanted in zip(batch, before, strict=True):
            (scores,) = session.run(None, {session.get_inputs()[0].name: image[None].numpy()})
            same += int(scores.argmax() == wanted)
    assert same < 12  # else there is nothing to see
    line = f"top-1 agreement with the original, all activations in it: {same} of 12 images"
    assert line in ran.out
    assert "top-1 agreement before and after the merge: 12 of 12 images" in ran.out
    assert f"warning: {weights} may have been trained with the 3" in ran.out
    assert f"--resolution 32 --data {photographs} --out refit" in ran.out
    assert "--resolution 32 --data DIR --out tuned" in ran.out
    certificate = json.loads(Path(f"{file}.certificate.json").read_text())
    assert certificate["validation"]["as_original"] == same
    assert certificate["validation"]["merged_accuracy_percent"] is None
    assert certificate["activations"]["trained"] == "unknown"
    assert "still the original's" in certificate["activations"]["warning"]
    metadata = {p.key: p.value for p in onnx.load(file).metadata_props}
    facts = json.loads(metadata[METADATA_KEY])
    assert facts["trained"] == "unknown" and "accuracy_percent" not in facts


def test_weights_that_were_trained_for_the_plan_are_merged_without_a_warning(
    network: Any, tmp_path: Path
) -> None:
    file = tmp_path / "tuned.safetensors"
    facts = {
        "model": MODEL,
        "resolution": [32, 32],
        "classes": 1000,
        "segments": "blocks",
        "mask": MASK,
        "free_activation": True,
        "padding": "repad",
    }
    state = dict(network(MODEL, 32, "random").module.state_dict())
    save_file(state, file, metadata={METADATA_KEY: json.dumps(facts)})
    choice = ModelChoice(model=MODEL, weights=str(file))
    found = merge_by_plan(choice, f"mask:{MASK}", tmp_path / "m.onnx").result.activations
    assert found is not None and (found.trained, found.warning) == ("without", "")
