"""``dshrink refit``: images of any kind, resumed runs, and what becomes of the weights."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from refit_networks import MOBILE, SIZE, images
from refit_runs import MODEL, PLAN, invoke, same, state_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dshrink.merge.export import METADATA_KEY
from dshrink.merge.merged_weights import MergedWeights, merged_module
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import load_network
from dshrink.network.weights.metadata import WeightsAbout, about_weights
from dshrink.refit.journal import NAME
from dshrink.search.plan import load_plan

Refusal = Callable[..., str]


def flat(pictures: Path, folder: Path) -> Path:
    """The images to train on, without their classes."""
    folder.mkdir()
    for number, file in enumerate(sorted((pictures / "train").rglob("*.png"))):
        shutil.copy(file, folder / f"{number:02}.png")
    return folder


def test_the_weights_say_what_they_are_of(refitted: Any) -> None:
    result = refitted.result
    assert result["weights"] == str(refitted.folder / "weights.safetensors")
    assert about_weights(Path(result["weights"])) == WeightsAbout(
        model=f"{Path(MOBILE.partition(':')[0]).name}:mobile classes=3",
        resolution=(SIZE, SIZE),
        classes=3,
        segments="blocks",
        mask="011",
        free_activation=False,
        padding="bias_map",
        in_channels=3,
        form="merged",
        accuracy_percent=result["validation"]["accuracy_percent"]["refitted"],
    )
    plan = load_plan(Path(result["plan"]))
    assert (plan.mask, plan.padding) == ("011", "bias_map")


def test_the_result_and_the_report_say_the_same(refitted: Any) -> None:
    result = refitted.result
    report = json.loads((refitted.folder / "refit.json").read_text())
    names = [name for name in result if name not in ("schema", "schema_version")]
    assert {name: report[name] for name in names} == {name: result[name] for name in names}
    assert (report["mask"], report["seed"], report["merged_only"]) == ("011", 0, False)
    assert [fit["label"] for fit in result["fits"]] == [
        *("block 0 (blocks.0.body)", "blocks.1.body.6", "blocks.2.body.6")
    ]
    assert [fit["merged"] for fit in result["fits"]] == [True, False, False]
    assert (result["images"], result["held_out"]["images"]) == (16, 4)
    assert result["validation"]["images"] == 12 and result["unreadable"] == {}
    assert result["held_out"]["accuracy_percent"] == {}
    held_out = result["held_out"]["error"]
    assert held_out["refitted"] < held_out["algebraic"]


def test_accuracies_are_those_of_the_networks(refitted: Any, weights: Path, pictures: Path) -> None:
    """Against the class of each picture, its bytes read and normalised here."""
    from PIL import Image

    network = load_network(MOBILE, resolution=SIZE, weights=weights, model_args=["classes=3"])
    merged = merged_module(
        network,
        rewriting(network, "011", free_activation=False),
        MergedWeights(state=state_of(refitted.folder), padding="bias_map", where="here"),
    )
    files = sorted((pictures / "val").rglob("*.png"))
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    size = int(SIZE / 0.875)
    edge = round((size - SIZE) / 2)
    pixels = [
        np.asarray(Image.open(file).resize((size, size), Image.Resampling.BILINEAR))[
            edge : edge + SIZE, edge : edge + SIZE
        ]
        for file in files
    ]
    x = torch.tensor((np.stack(pixels) / 255 - mean) / std).float().permute(0, 3, 1, 2)
    labels = torch.tensor([int(file.parent.name[-1]) for file in files])
    found = refitted.result["validation"]
    with torch.no_grad():
        told = {"original": network.module(x), "refitted": merged.eval()(x)}
    for name, logits in told.items():
        right = 100 * float((logits.argmax(1) == labels).float().mean())
        assert found["accuracy_percent"][name] == pytest.approx(right)
    agree = (told["original"].argmax(1) == told["refitted"].argmax(1)).float().mean()
    assert found["agreement_percent"]["refitted"] == pytest.approx(100 * float(agree))


def test_images_need_neither_classes_nor_a_part_to_validate(
    words: list[str], pictures: Path, refitted: Any, tmp_path: Path
) -> None:
    data = flat(pictures, tmp_path / "flat")
    below = tmp_path / "nested"
    shutil.copytree(data, below / "a" / "b")
    for folder, name in ((data, "one"), (below, "two")):
        ran = invoke(*words, "--data", folder, "--out", tmp_path / name, "--json")
        result = json.loads(ran.stdout)
        assert result["validation"] is None
        assert result["images"] == 16 and result["held_out"]["accuracy_percent"] == {}
        about = about_weights(Path(result["weights"]))
        assert about is not None and about.accuracy_percent is None
    # The same pictures in the same order are the same refit.
    assert same(tmp_path / "one", refitted.folder)


def test_images_of_other_classes_are_good_to_fit(
    words: list[str], pictures: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    for part in ("train", "val"):
        shutil.rmtree(data / part / "class_2")
    ran = invoke(*words, "--data", data, "--out", tmp_path / "out", "--json")
    validation = json.loads(ran.stdout)["validation"]
    assert (validation["images"], validation["accuracy_percent"]) == (8, {})
    assert set(validation["agreement_percent"]) == {"algebraic", "refitted"}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_folder_with_images_to_train_on_alone_is_good_to_fit(
    labelled: bool, words: list[str], pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "train"
    if labelled:
        shutil.copytree(pictures / "train", folder)
    else:
        folder.parent.mkdir()
        flat(pictures, folder)
    ran = invoke(*words, "--data", folder.parent, "--out", tmp_path / "out", "--json")
    result = json.loads(ran.stdout)
    assert (result["images"], result["validation"]) == (16, None)


def test_images_that_cannot_be_read_are_named_and_left_out(
    words: list[str], pictures: Path, tmp_path: Path, refusal: Refusal
) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    broken = [*sorted((data / "train").rglob("*.png"))[:9], data / "val" / "class_1" / "2.png"]
    for file in broken:
        file.write_bytes(b"no picture")
    ran = invoke(*words, "--images", 24, "--data", data, "--out", tmp_path / "out", "--json")
    result = json.loads(ran.stdout)
    assert set(result["unreadable"]) == {str(file) for file in broken}
    assert "10 images could not be read" in ran.stderr
    assert result["validation"]["images"] == 11
    assert all(np.isfinite(fit["error"]) for fit in result["fits"])
    assert any(fit["ridge"] is not None for fit in result["fits"])
    line = refusal(*words, "--data", data, "--out", tmp_path / "stopped", "--unreadable", "stop")
    assert "not a readable image" in line


def test_where_nothing_held_out_can_be_read_it_is_a_line(
    words: list[str], pictures: Path, tmp_path: Path, refusal: Refusal
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a", "b"):
        (data / f"{name}.png").write_bytes(b"no picture")
    line = refusal(*words, "--data", data, "--out", tmp_path / "out")
    assert "cannot be read" in line and str(data) in line


def test_what_cannot_be_refitted_is_a_line(
    words: list[str], tmp_path: Path, refusal: Refusal
) -> None:
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(next((Path(words[words.index("--data") + 1]) / "train").rglob("*.png")), one)
    out = ("--out", tmp_path / "out")
    assert "a refit needs two" in refusal(*words, *out, "--data", one)
    assert "no such folder" in refusal(*words, *out, "--data", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no images" in refusal(*words, *out, "--data", tmp_path / "empty")
    for untrained in ("initial", "random"):
        line = refusal(*words, *out, "--weights", untrained)
        assert f"--weights {untrained}: " in line
        assert "state-dict file" in line
    (tmp_path / "net.onnx").touch()
    line = refusal("refit", tmp_path / "net.onnx", "--plan", PLAN, *words[-4:], *out)
    assert "ONNX" in line and "PyTorch" in line
    assert not (tmp_path / "out").exists()


def test_on_a_terminal_it_says_what_was_fitted_and_how_to_write_it(
    words: list[str], refitted: Any, tmp_path: Path
) -> None:
    ran = invoke(*words, "--out", tmp_path / "with space")
    assert ran.exit_code == 0
    lines = ran.stdout.splitlines()
    fitted = (
        r"1 merged convolution fitted to 16 images in \d+ s(; [12] convolutions? behind them.*)?"
    )
    assert any(re.match(fitted, line) for line in lines)
    assert any(
        line.startswith("on 4 held-out images (which chose the ridges) the top-1 class is")
        for line in lines
    )
    assert any(line.startswith("on 12 validation images the top-1 class is") for line in lines)
    assert any(line.startswith("top-1 accuracy: original ") for line in lines)
    assert "block 0 (blocks.0.body)" in ran.stdout
    (line,) = (line for line in lines if line.startswith("write it: "))
    merge = shlex.split(line.removeprefix("write it: "))
    assert invoke(*merge[1:]).exit_code == 0
    assert (tmp_path / "with space" / "merged.onnx").exists()
    assert same(tmp_path / "with space", refitted.folder)


def test_weights_that_were_trained_without_activations_are_no_original(
    words: list[str], weights: Path, tmp_path: Path, refusal: Refusal
) -> None:
    about = {
        **{"model": f"{Path(MOBILE.partition(':')[0]).name}:mobile classes=3", "classes": 3},
        **{"resolution": [SIZE, SIZE], "segments": "blocks", "mask": "011"},
        **{"free_activation": True, "padding": "repad"},
    }
    file = tmp_path / "tuned.safetensors"
    save_file(load_file(weights), file, {"dshrink": json.dumps(about)})
    line = refusal(*words, "--out", tmp_path / "out", "--weights", file)
    assert f"{file}: a refit wants the network with all of its activations" in line
    assert "dshrink merge" in line and not (tmp_path / "out").exists()


def rewritten(folder: Path, units: int) -> None:
    """The journal as a run left it that was killed after so many units."""
    file = folder / NAME
    with safe_open(file, framework="pt") as stored:
        about = json.loads(stored.metadata()["dshrink_refit"])
    about["fits"] = about["fits"][:units]
    kept = {
        name: value
        for name, value in load_file(file).items()
        if int(name.partition(".")[0]) < units
    }
    save_file(kept, file, {"dshrink_refit": json.dumps(about)})


@pytest.mark.parametrize("units", [0, 1, 2, 3])
def test_a_run_that_was_killed_fits_what_is_missing_and_ends_the_same(
    units: int,
    words: list[str],
    refitted: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dshrink.refit.fitting import Fitting

    fitted: list[str] = []
    run = Fitting.run

    def note(self: Fitting) -> Any:
        fitted.append(self.unit.label)
        return run(self)

    monkeypatch.setattr(Fitting, "run", note)
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(refitted.folder / NAME, folder)
    rewritten(folder, units)
    ran = invoke(*words, "--out", folder, "--json")
    result = json.loads(ran.stdout)
    assert fitted == [fit["label"] for fit in refitted.result["fits"]][units:]
    assert (f"resumed after {units} fitted" in ran.stderr) == bool(units)
    assert result["fits"] == refitted.result["fits"]
    assert result["held_out"] == refitted.result["held_out"]
    assert same(folder, refitted.folder)


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        (["--plan", "mask:001"], "mask was 011, now 001"),
        (["--images", "10"], "images was 20, now 10"),
        (["--padding", "repad"], "padding was bias_map, now repad"),
        (["--free-activation"], "free_activation was False, now True"),
        (["--merged-only"], "merged_only was False, now True"),
        (["--seed", "3"], "seed was 0, now 3"),
    ],
)
def test_a_folder_of_another_refit_is_refused(
    options: list[str], differs: str, words: list[str], refitted: Any, refusal: Refusal
) -> None:
    line = refusal(*words, "--out", refitted.folder, *options)
    assert "is of another refit (" in line and differs in line


def test_other_weights_or_images_are_another_refit(
    words: list[str],
    weights: Path,
    pictures: Path,
    refitted: Any,
    refusal: Refusal,
    tmp_path: Path,
) -> None:
    state = load_file(weights)
    state["classifier.bias"] += 1
    save_file(state, tmp_path / "other.safetensors")
    line = refusal(*words, "--out", refitted.folder, "--weights", tmp_path / "other.safetensors")
    assert "(weights was " in line
    data = shutil.copytree(pictures, tmp_path / "data")
    next((data / "train").rglob("*.png")).unlink()
    assert "(data was " in refusal(*words, "--out", refitted.folder, "--data", data)


def test_a_damaged_journal_is_a_line(
    words: list[str], refitted: Any, refusal: Refusal, tmp_path: Path
) -> None:
    file = tmp_path / NAME
    file.write_bytes((refitted.folder / NAME).read_bytes()[:100])
    line = refusal(*words, "--out", tmp_path)
    assert f"{file}: cannot be read" in line and "delete it to start afresh" in line


@pytest.fixture(scope="module")
def merge_words(refitted: Any) -> list[str]:
    return [
        *("merge", *MODEL, "--plan", refitted.result["plan"]),
        *("--weights", refitted.result["weights"]),
    ]


def test_the_weights_merge_to_a_file_that_computes_what_was_fitted(
    merge_words: list[str], refitted: Any, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    file = tmp_path / "merged.onnx"
    ran = invoke(*merge_words, "--data", pictures, "--out", file, "--json")
    result = json.loads(ran.stdout)
    network = load_network(MOBILE, resolution=SIZE, weights=weights, model_args=["classes=3"])
    module = merged_module(
        network,
        rewriting(network, "011", free_activation=False),
        MergedWeights(state=state_of(refitted.folder), padding="bias_map", where="here"),
    ).eval()
    session = onnxruntime.InferenceSession(file)
    for x in images(4).split(1):
        (told,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(told), module(x), rtol=1e-4, atol=1e-5)
    accuracy = refitted.result["validation"]["accuracy_percent"]["refitted"]
    assert result["accuracy_percent"] == pytest.approx(accuracy)
    assert (result["validation_images"], result["blocks_merged"]) == (12, 1)
    assert [result[name] for name in ("agreement", "certificate", "merge_s")] == [None] * 3
    assert not list(tmp_path.glob("*.certificate.json"))
    about = json.loads({p.key: p.value for p in onnx.load(file).metadata_props}[METADATA_KEY])
    assert about["accuracy_percent"] == pytest.approx(accuracy)
    assert (about["keep_mask"], about["padding"], about["free_activation"]) == (
        "011",
        "bias_map",
        False,
    )


def test_without_images_it_merges_as_well(merge_words: list[str], tmp_path: Path) -> None:
    ran = invoke(*merge_words, "--out", tmp_path / "merged.onnx")
    assert ran.exit_code == 0 and "nothing was left to merge" in ran.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plan", "mask:001"], "fitted for mask 011, now 001: give that plan"),
        (["--padding", "repad"], "fitted for padding bias_map, now repad"),
        (["--free-activation"], "fitted for free_activation False, now True"),
    ],
)
def test_they_merge_for_their_own_plan_alone(
    options: list[str], said: str, merge_words: list[str], tmp_path: Path, refusal: Refusal
) -> None:
    line = refusal(*merge_words, "--out", tmp_path / "merged.onnx", *options)
    assert said in line and "refit for this one" in line
    assert not (tmp_path / "merged.onnx").exists()


def test_they_are_of_no_other_network(refitted: Any, tmp_path: Path, refusal: Refusal) -> None:
    weights = refitted.result["weights"]
    line = refusal(
        *(
            "merge",
            "test_resnet",
            "--plan",
            PLAN,
            "--weights",
            weights,
            "--out",
            tmp_path / "a.onnx",
        )
    )
    assert "its weights are of" in line and "the network is test_resnet" in line


@pytest.mark.parametrize(
    "command",
    [
        ["search", "mask", *MODEL, "--keep", "2", "--data", "DATA", "--out", "plan.json"],
        [
            *("importance", *MODEL, "--data", "DATA", "--level", "recalibrate:1"),
            *("--out", "importance.csv"),
        ],
        ["refit", *MODEL, "--plan", PLAN, "--data", "DATA", "--out", "again"],
        ["expand", *MODEL, "--data", "DATA", "--out", "expanded"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_whatever_wants_the_original_refuses_them(
    command: list[str],
    refitted: Any,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(pictures) if word == "DATA" else word for word in command]
    line = refusal(*words, "--weights", refitted.result["weights"])
    assert "merged by the mask 011, which only `dshrink merge` and `dshrink finetune` take" in line


def test_spans_are_refitted_and_merge(words: list[str], tmp_path: Path, pictures: Path) -> None:
    plan = ("--plan", "spans:10111|01|", "--padding", "repad")
    ran = invoke(*words, *plan, "--out", tmp_path / "out", "--json")
    result = json.loads(ran.stdout)
    # A plan's activations between spans were chosen: they are there unless told otherwise.
    about = about_weights(Path(result["weights"]))
    assert about is not None and about.free_activation
    assert [fit["label"] for fit in result["fits"] if fit["merged"]] == [
        "span 1-3 (blocks.0.body.3 .. blocks.0.body.6)",
        "span 6-8 (blocks.2.body.0 .. blocks.2.body.3)",
    ]
    merged = invoke(
        *("merge", *MODEL, "--plan", result["plan"], "--weights", result["weights"]),
        *("--data", pictures, "--out", tmp_path / "a.onnx", "--json"),
    )
    told = json.loads(merged.stdout)
    assert told["spans_merged"] == 2
    assert told["accuracy_percent"] == pytest.approx(
        result["validation"]["accuracy_percent"]["refitted"]
    )
