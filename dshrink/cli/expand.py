"""``dshrink expand``: train a network with some convolutions expanded, and contract it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs, train_options
from dshrink.cli.console import err, show_result
from dshrink.cli.train_options import training
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.operations.expand import ExpandResult

expanding = partial(typer.Option, rich_help_panel="Expansion")


def command(
    context: typer.Context,
    model: options.Model,
    data: train_options.Data,
    folder: Annotated[
        Path, outputs.folder_option("--out", help="folder for the weights and checkpoints")
    ],
    rule: Annotated[
        str,
        expanding(
            help="which convolutions: vgg (dense 3x3 ones but the first two and the last), "
            "inverted_residual (the first pointwise of every other block), auto"
        ),
    ] = "auto",
    layers: Annotated[
        list[str] | None,
        expanding("--layer", metavar="NAME", help="expand this convolution instead; repeatable"),
    ] = None,
    ratio: Annotated[
        int, expanding(help="middle channels of an expansion for each input channel")
    ] = 6,
    weights: options.Weights = "initial",
    recipe: train_options.Recipe = None,
    weights_ema: options.WeightsEma = False,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    epochs: train_options.Epochs = None,
    shrink_epochs: Annotated[
        int | None,
        training(help="epochs without the added activations; default: those of --epochs"),
    ] = None,
    batch: train_options.Batch = None,
    accumulate: train_options.Accumulate = None,
    learning_rate: train_options.LearningRate = None,
    shrink_lr: Annotated[
        float | None,
        training(help="learning rate without the added activations; default: that of --lr"),
    ] = None,
    warmup_epochs: train_options.WarmupEpochs = None,
    clip: train_options.Clip = None,
    ema: train_options.Ema = None,
    precision: train_options.TrainPrecision = None,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    checkpoint_steps: train_options.CheckpointSteps = None,
    log_with: train_options.LogWith = None,
    seed: train_options.Seed = None,
    json: options.Json = False,
) -> None:
    """Train MODEL expanded, then contract it to its own architecture, with better weights.

    DepthShrinker+: chosen convolutions become inverted residuals with new weights; after a training
    with the added activations and one without, each is merged into one convolution again. The same
    command resumes an interrupted run.
    """
    from dshrink.network.references import ModelChoice
    from dshrink.operations.expand import expand_network
    from dshrink.train.settings import OF_SHRINKING

    settings = replace(train_options.recipe_settings(recipe), distillation=0.0, **OF_SHRINKING)
    settings = train_options.given(context, settings)
    # The second training starts from trained weights: it needs no warm-up.
    shrinking = train_options.settings_of(
        replace(settings, warmup_epochs=0), epochs=shrink_epochs, learning_rate=shrink_lr
    )
    result = options.run(
        context,
        expand_network,
        "expand",
        bar=train_options.progress_of_main,
        choice=options.call(context, ModelChoice, seed=settings.seed),
        settings=settings,
        shrinking=shrinking,
    )
    if result is not None:
        show_result(result, _lines(result, model), as_json=json)


def _lines(result: ExpandResult, model: str) -> Iterator[str]:
    for name, reason in result.left_alone.items():
        err.print(f"{name} is not expanded: {reason}", soft_wrap=True)
    agreed, accuracy = result.agreement, result.accuracy_percent
    yield f"expanded by {result.rule}, ratio {result.ratio}: {', '.join(result.expanded)}"
    yield (
        f"top-1 accuracy: {accuracy['expanded']:.2f} % expanded, "
        f"{accuracy['without_activations']:.2f} % without the added activations, "
        f"{accuracy['contracted']:.2f} % contracted"
    )
    yield (
        f"contracted: top-1 agreement on {agreed.images - agreed.differing} of {agreed.images} "
        f"validation images; outputs differ by {result.relative_error_float64:.1e} (relative, "
        "float64)"
    )
    for name, (before, grown, after) in result.cost.items():
        yield (
            f"{name}: {before / 1e6:.2f} M before, {grown / 1e6:.2f} M expanded, "
            f"{after / 1e6:.2f} M after"
        )
    yield f"wrote {result.weights}: weights of {model} under its own names"
