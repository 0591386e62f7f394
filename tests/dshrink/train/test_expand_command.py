"""``dshrink expand`` as a user gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from dshrink.cli import expand
from dshrink.errors import DshrinkError
from dshrink.network.tracing import import_timm
from dshrink.train.settings import Training

LAYERS = ("--layer", "layer1.0.conv1", "--layer", "layer3.0.conv2")


@pytest.fixture
def run(pictures: Path, tmp_path: Path) -> Callable[..., Any]:
    """``run("--rule", "vgg")`` of the small network, into ``tmp_path``."""
    app = typer.Typer()
    app.command()(expand.command)
    given = ["test_resnet", "--data", str(pictures), "--out", str(tmp_path), "--resolution", "32"]

    def command(*words: str) -> Any:
        ran = CliRunner().invoke(app, [*given, *words])
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        assert ran.exit_code == 0, ran.output
        return ran

    return command


def test_the_command_writes_the_networks_own_weights_and_says_what_it_did(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    words = ["--epochs", "2", "--shrink-epochs", "1", "--batch", "12", "--lr", "0.02", *LAYERS]
    told = json.loads(run(*words, "--shrink-lr", "0.01", "--ratio", "2", "--json").stdout)
    assert told["expanded"] == ["layer1.0.conv1", "layer3.0.conv2"]
    assert (told["rule"], told["ratio"], told["left_alone"]) == ("layers", 2, {})
    assert told["agreement"]["differing"] == 0
    accuracy = told["accuracy_percent"]
    assert accuracy["contracted"] == accuracy["without_activations"]
    assert told["relative_error_float64"] < 1e-9
    for before, grown, after in told["cost"].values():
        assert before == after != grown
    epochs = [
        len((tmp_path / part / "history.csv").read_text().splitlines()) - 1
        for part in ("expanded", "linear")
    ]
    assert epochs == [2, 1]
    model = import_timm().create_model("test_resnet", num_classes=3)
    model.load_state_dict(load_file(told["weights"]))

    # The same again, for people: nothing is trained anew.
    lines = run(*words, "--shrink-lr", "0.01", "--ratio", "2").stdout.splitlines()
    assert lines[0] == "expanded by layers, ratio 2: layer1.0.conv1, layer3.0.conv2"
    assert lines[1] == (
        f"top-1 accuracy: {accuracy['expanded']:.2f} % expanded, "
        f"{accuracy['without_activations']:.2f} % without the added activations, "
        f"{accuracy['contracted']:.2f} % contracted"
    )
    assert lines[2].startswith("contracted: top-1 agreement on 12 of 12 validation images; ")
    assert lines[-1] == f"wrote {told['weights']}: weights of test_resnet under its own names"


def test_the_second_training_has_the_settings_of_the_first_but_no_warm_up(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Training(epochs=9, warmup_epochs=3, weight_decay=0.5)
    shrinking = {"distillation": 0.7, "fade_epochs": 5, "block_distillation": 0.5}
    of_recipe = replace(recipe, **shrinking)
    monkeypatch.setattr(expand.train_options, "recipe_settings", lambda name: of_recipe)
    seen: list[tuple[Training, Training]] = []
    monkeypatch.setattr(
        "dshrink.operations.expand.expand_network",
        lambda *, settings, shrinking, **more: seen.append((settings, shrinking)),
    )
    run("--lr", "0.3", "--seed", "4")
    run("--shrink-epochs", "2", "--shrink-lr", "0.2")
    # No teacher: the network that would be asked is not trained. Nor does anything fade.
    first = replace(recipe, learning_rate=0.3, seed=4)
    assert seen[0] == (first, replace(first, warmup_epochs=0))
    assert (seen[1][0].epochs, seen[1][0].warmup_epochs) == (9, 3)
    assert (seen[1][1].epochs, seen[1][1].learning_rate) == (2, 0.2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--layer", "layer1.0.conv9"], "test_resnet has no convolution 'layer1.0.conv9'; it has "),
        (["--rule", "resnet"], "unknown rule 'resnet'; known: auto, vgg, inverted_residual"),
        (["--rule", "inverted_residual"], "nothing to expand by the rule inverted_residual"),
        (["--rule", "vgg", *LAYERS], "give either --layer or --rule vgg"),
        (["--batch", "25"], "24 training images are fewer than a batch of 25; lower --batch"),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., Any], words: list[str], line: str) -> None:
    with pytest.raises(DshrinkError) as error:
        run(*words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_expanded_is_named(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dshrink.train import expansion_rules

    exact = expansion_rules.why_not_expandable

    def why(network: Any, number: int) -> str | None:
        name = network.lowered.layers[number]
        return (
            "too small"
            if name.startswith(("layer2", "layer3", "layer4"))
            else exact(network, number)
        )

    monkeypatch.setattr(expansion_rules, "why_not_expandable", why)
    ran = run("--epochs", "1", "--batch", "24", "--ratio", "1")
    assert "layer2.0.conv1 is not expanded: too small" in ran.stderr
