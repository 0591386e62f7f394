"""Accuracy against epochs: at once, progressive, and from a refit; equal seeds and images.

    python benchmarks/refit_training.py --out DIR [--model mobilenetv2_035] [--keep 11 8 5 2]

Handwritten digits at 64x64, the settings of the recipe ``digits``. The network is pre-trained for
12 epochs; then for each keep count, with the mask of the digits study (seed 0): merged without
training (algebraic, norms recalibrated, refitted on 256 images without their labels), and trained
for 1, 3 and 10 epochs by each way in ``WAYS``. Every way has the learning rate that is better for
it, of the recipe's and half of it, by seed 0 at 5 kept blocks and 3 epochs (``--rates``): equal
chances, for a refit starts near where it ends and the others do not. Trainings of a started run go
on; finished ones are in ``DIR/MODEL/results.jsonl``. Allow two hours on one core for three seeds.
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
RATES = (1.0, 0.5)
#: What chooses the learning rate of each way.
RATE_KEEP, RATE_EPOCHS = 5, 3


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the activations go, and what training starts from.

    free_activation: ReLU6 behind merged blocks, as in the paper.
    fades: over the first half of the epochs (all of a single one) instead of at once.
    """

    free_activation: bool = False
    fades: bool = False
    block_distillation: float = 0.0
    from_refit: bool = False


WAYS = {
    "at once": Way(),
    "at once, ReLU6 behind": Way(free_activation=True),
    "block distillation": Way(block_distillation=1.0),
    "fading": Way(fades=True),
    "progressive": Way(fades=True, block_distillation=1.0),
    "refit": Way(from_refit=True),
}


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
        ).result
        assert found.validation is not None
        self.note(
            f"{keep} refit",
            keep=keep,
            epochs=0,
            accuracy=found.validation.accuracy_percent["refitted"],
            agreement=found.validation.agreement_percent["refitted"],
            seconds=found.seconds,
        )

    def trained(
        self, weights: str, keep: int, way: str, epochs: int, seed: int, rate: float
    ) -> float:
        """Accuracy after a training at ``rate`` times the recipe's learning rate."""
        key = f"{keep} {way} {epochs} seed {seed} rate {rate:g}"
        if key in self.known:
            return float(self.known[key]["accuracy"])
        how = WAYS[way]
        found = finetune_by_plan(
            self.choice(
                str(self.folder / f"refit{keep}" / "weights.safetensors")
                if how.from_refit
                else weights
            ),
            f"mask:{MASKS[keep]}",
            self.data,
            self.folder / key.replace(" ", "_"),
            replace(
                self.settings,
                epochs=epochs,
                seed=seed,
                learning_rate=rate * self.settings.learning_rate,
                fade_epochs=max(1, epochs // 2) if how.fades else 0,
                block_distillation=how.block_distillation,
            ),
            free_activation=how.free_activation,
        )
        assert found is not None
        about = {"keep": keep, "method": way, "epochs": epochs, "seed": seed, "rate": rate}
        self.note(key, **about, accuracy=found.accuracy_percent)
        return found.accuracy_percent

    def better_rate(self, weights: str, way: str) -> float:
        def accuracy(rate: float) -> float:
            return self.trained(weights, RATE_KEEP, way, RATE_EPOCHS, 0, rate)

        return max(RATES, key=accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="mobilenetv2_035")
    parser.add_argument("--keep", type=int, nargs="*", default=list(MASKS))
    parser.add_argument("--epochs", type=int, nargs="*", default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
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
    for keep in {*asked.keep, RATE_KEEP}:
        trainings.merged(weights, keep)
    rates = {way: trainings.better_rate(weights, way) for way in asked.ways}
    for seed in asked.seeds:
        for epochs in asked.epochs:
            for keep in asked.keep:
                for way in asked.ways:
                    trainings.trained(weights, keep, way, epochs, seed, rates[way])


if __name__ == "__main__":
    main()
