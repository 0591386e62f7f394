"""Accuracy against epochs: at once, progressive, and from a refit; equal seeds and images.

    python benchmarks/refit_training.py --out DIR [--model mobilenetv2_035] [--keep 11 8 5 2]

Handwritten digits at 64x64, the settings of the recipe ``digits``. The network is pre-trained for
12 epochs; then for each keep count, with the mask of the digits study (seed 0): merged without
training (algebraic, norms recalibrated, refitted on 256 images without their labels), and trained
for 1, 3 and 10 epochs: activations removed at once (DepthShrinker's stage 2), progressively (faded
over the first half, with block distillation), and from the refit. Trainings of a started run go on;
finished ones are in ``DIR/results.jsonl``. Allow forty minutes on one core for one seed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dshrink.merge.merged_network import merge_network
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import load
from dshrink.network.references import ModelChoice, Size
from dshrink.operations.finetune import finetune_by_plan
from dshrink.operations.refit import refit_by_plan
from dshrink.study.recipe import load_recipe
from dshrink.train.digits import write_digits
from dshrink.train.finetune import PADDING
from dshrink.train.image_sets import open_images
from dshrink.train.opening import feed_of
from dshrink.train.settings import Training
from dshrink.train.tuning import evaluate, prepared, recalibrate

CPU = torch.device("cpu")
#: Searched in the digits study, seed 0 (results/digits_study_local.csv).
MASKS = {
    11: "00111011110110011",
    8: "00011011011000011",
    5: "00010000011001001",
    2: "00000000001001000",
}
EPOCHS = (1, 3, 10)
#: From refitted weights the recipe's learning rate is too large: it undoes the refit first.
REFIT_RATE = 0.5
AT_ONCE, PROGRESSIVE, REFIT = "at once", "progressive", "refit"


@dataclass(kw_only=True)
class Trainings:
    """All trainings of one network; accuracies are top-1 in percent of the validation images."""

    model: str
    data: str
    folder: Path
    settings: Training
    pretraining: Training
    known: dict[str, dict[str, Any]]

    def choice(self, weights: str) -> ModelChoice:
        return ModelChoice(
            model=self.model, resolution=Size(64, 64), in_channels=1, weights=weights
        )

    def pretrained(self) -> str:
        folder = self.folder / "pretrained"
        plan = f"mask:{'1' * len(MASKS[2])}"
        found = finetune_by_plan(self.choice("initial"), plan, self.data, folder, self.pretraining)
        assert found is not None
        self.note("pretrained", accuracy=found.accuracy_percent)
        return found.weights

    def note(self, key: str, **values: Any) -> None:
        if key not in self.known:
            self.known[key] = {"key": key, "model": self.model, **values}
            with (self.folder / "results.jsonl").open("a") as file:
                file.write(json.dumps(self.known[key]) + "\n")
            print(json.dumps(self.known[key]), flush=True)

    def merged(self, weights: str, keep: int) -> None:
        """What merging gives without training, and the refit."""
        if f"{keep} refit" in self.known:
            return
        network = load(self.choice(weights))
        changes = rewriting(network, MASKS[keep], free_activation=False)
        images = open_images(self.data, 1)
        feed = feed_of(images, network, replace(self.settings, batch=64))

        def accuracy(module: torch.nn.Module) -> float:
            return evaluate(module, feed.validation_on(CPU)).accuracy

        algebraic = merge_network(network, changes, padding=PADDING).module(torch.float32)
        self.note(f"{keep} algebraic", keep=keep, epochs=0, accuracy=accuracy(algebraic))
        unmerged = unmerged_module(network, changes, padding=PADDING)
        recalibrate(unmerged, prepared(feed.training(0, 0, 1), feed.preprocessing, CPU))
        self.note(f"{keep} recalibrated", keep=keep, epochs=0, accuracy=accuracy(unmerged))
        found = refit_by_plan(
            self.choice(weights),
            f"mask:{MASKS[keep]}",
            self.data,
            self.folder / f"refit{keep}",
            padding=PADDING,
        )
        assert found.validation is not None
        self.note(
            f"{keep} refit",
            keep=keep,
            epochs=0,
            accuracy=found.validation.accuracy["refitted"],
            agreement=found.validation.agreement["refitted"],
            seconds=found.seconds,
        )

    def trained(self, weights: str, keep: int, method: str, epochs: int, seed: int) -> None:
        key = f"{keep} {method} {epochs} seed {seed}"
        if key in self.known:
            return
        settings = replace(self.settings, epochs=epochs, seed=seed)
        source, teacher = weights, None
        if method == PROGRESSIVE:
            settings = replace(settings, fade_epochs=max(1, epochs // 2), block_distillation=1.0)
        if method == REFIT:
            source = str(self.folder / f"refit{keep}" / "weights.safetensors")
            settings = replace(settings, learning_rate=REFIT_RATE * settings.learning_rate)
        found = finetune_by_plan(
            self.choice(source),
            f"mask:{MASKS[keep]}",
            self.data,
            self.folder / key.replace(" ", "_"),
            settings,
            teacher=teacher,
            free_activation=False,
        )
        assert found is not None
        self.note(
            key,
            keep=keep,
            method=method,
            epochs=epochs,
            seed=seed,
            accuracy=found.accuracy_percent,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="mobilenetv2_035")
    parser.add_argument("--keep", type=int, nargs="*", default=list(MASKS))
    parser.add_argument("--epochs", type=int, nargs="*", default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    asked = parser.parse_args()
    folder = asked.out / asked.model
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    recipe = load_recipe("digits")
    assert recipe.pretrain is not None
    trainings = Trainings(
        model=asked.model,
        data=str(write_digits(asked.out / "digits").folder),
        folder=folder,
        settings=recipe.finetune,
        pretraining=recipe.pretrain,
        known={entry["key"]: entry for entry in map(json.loads, lines)},
    )
    weights = trainings.pretrained()
    for keep in asked.keep:
        trainings.merged(weights, keep)
    for seed in asked.seeds:
        for epochs in asked.epochs:
            for keep in asked.keep:
                for method in (AT_ONCE, PROGRESSIVE, REFIT):
                    trainings.trained(weights, keep, method, epochs, seed)


if __name__ == "__main__":
    main()
