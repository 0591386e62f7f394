"""The options of training that several commands share, and the settings that they make."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli.console import progress
from dshrink.progress import OnProgress, no_progress
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.train.settings import Training

training = partial(typer.Option, rich_help_panel="Training")

Data = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="folder with train/CLASS/ and val/CLASS/ (or validation/), or a data set of timm's: "
        "torch/cifar10:DIR, hfds/NAME",
    ),
]
Plan = Annotated[str, typer.Option(help="a plan file, mask:0011..., spans:1|01..., or paper:NAME")]
Recipe = Annotated[
    str | None,
    training(help="recipe (a name or a TOML file) whose settings to use; options override them"),
]
Epochs = Annotated[int | None, training(help="training epochs")]
Batch = Annotated[
    int | None, training(help="global batch size, over all processes and accumulation steps")
]
Accumulate = Annotated[int | None, training(help="gradient accumulation steps per batch")]
LearningRate = Annotated[
    float | None, training("--lr", help="initial learning rate of SGD, cosine decay")
]
WarmupEpochs = Annotated[int | None, training(help="warm-up epochs of the learning rate")]
Clip = Annotated[float | None, training(help="gradient norm clipping")]
Ema = Annotated[
    float | None,
    training(
        help="decay of an exponential moving average (EMA) of the weights, which is then saved"
    ),
]
CheckpointSteps = Annotated[
    int | None, training(help="also write a checkpoint every so many steps")
]
Seed = Annotated[int | None, training(min=0, help="random seed; default: the recipe's, else 0")]
TrainPrecision = Annotated[
    str | None, training("--precision", help="fp32, fp16 or bf16 (mixed precision)")
]
LogWith = Annotated[
    list[str] | None,
    training(
        metavar="TRACKER",
        help="also log to wandb, mlflow, tensorboard or another tracker of Accelerate; repeatable",
    ),
]
Loaders = Annotated[
    int | None,
    typer.Option(help="data loader workers; 0 loads in the main process"),
]
OnUnreadable = Annotated[
    Unreadable, typer.Option("--unreadable", help="images that cannot be read: skip, or stop")
]


def recipe_settings(recipe: str | None) -> Training:
    """The settings of a recipe's fine-tuning; the paper's where none is named."""
    from dshrink.train.settings import Training

    if recipe is None:
        return Training()
    from dshrink.study.recipe import load_recipe

    found = load_recipe(recipe)
    return found.seeded(found.finetune)


def given(context: typer.Context, base: Training) -> Training:
    """``base`` with the options that were given: the command's parameters of its fields' names."""
    names = (field.name for field in fields(base))
    params = {**context.params, "log_with": tuple(context.params["log_with"] or ()) or None}
    return settings_of(base, **{name: params.get(name) for name in names})


def settings_of(base: Training, **given: Any) -> Training:
    """``base`` with what is not None."""
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def progress_of_main(title: str) -> AbstractContextManager[OnProgress]:
    """A progress bar in the process that reports: the only one, or the first of several."""
    from dshrink.train import processes

    return progress(title) if processes.is_main_process() else nullcontext(no_progress)
