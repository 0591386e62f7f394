"""``dshrink finetune``: train a network without the activations that a plan removes (stage 2)."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli import options, outputs, train_options
from dshrink.cli.console import show_result
from dshrink.cli.train_options import training
from dshrink.train.unreadable import Unreadable
from latency_tables.wording import counted

distilling = partial(typer.Option, rich_help_panel="Distillation")


def command(
    context: typer.Context,
    model: options.Model,
    plan: train_options.Plan,
    data: train_options.Data,
    folder: Annotated[
        Path,
        outputs.folder_option("--out", help="folder for weights, history, plan and checkpoints"),
    ],
    weights: options.Weights = "pretrained",
    recipe: train_options.Recipe = None,
    weights_ema: options.WeightsEma = False,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    epochs: train_options.Epochs = None,
    batch: train_options.Batch = None,
    accumulate: train_options.Accumulate = None,
    learning_rate: train_options.LearningRate = None,
    min_learning_rate: Annotated[
        float | None, training("--min-lr", help="final learning rate of the cosine decay")
    ] = None,
    warmup_epochs: train_options.WarmupEpochs = None,
    momentum: Annotated[float | None, training(help="momentum of SGD")] = None,
    weight_decay: Annotated[float | None, training(help="weight decay of SGD")] = None,
    clip: train_options.Clip = None,
    fade_epochs: Annotated[
        int | None,
        training(help="epochs over which removed activations fade out; 0 removes them at once"),
    ] = None,
    label_smoothing: Annotated[float | None, training(help="label smoothing")] = None,
    distillation: Annotated[
        float | None, distilling(help="weight of the distillation loss; 0 disables it")
    ] = None,
    teacher: Annotated[
        str | None,
        distilling(
            metavar="FILE", help="weights of the teacher (MODEL itself); default: --weights"
        ),
    ] = None,
    temperature: Annotated[float | None, distilling(help="distillation temperature")] = None,
    block_distillation: Annotated[
        float | None,
        distilling(
            help="weight of the difference of block outputs to the teacher's; 0 disables it"
        ),
    ] = None,
    ema: train_options.Ema = None,
    precision: train_options.TrainPrecision = None,
    free_activation: options.WeightsFreeActivation = None,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    checkpoint_steps: train_options.CheckpointSteps = None,
    log_with: train_options.LogWith = None,
    seed: train_options.Seed = None,
    json: options.Json = False,
) -> None:
    """Fine-tune MODEL without the activations that a plan removes, so that it merges exactly.

    Run the same command again to resume an interrupted run. On several GPUs:
    `accelerate launch -m dshrink finetune ...`
    """
    from dshrink.network.references import ModelChoice
    from dshrink.operations.finetune import finetune_by_plan

    settings = train_options.given(context, train_options.recipe_settings(recipe))
    choice = options.call(context, ModelChoice, seed=settings.seed)
    result = options.run(
        context,
        finetune_by_plan,
        "fine-tune",
        bar=train_options.progress_of_main,
        choice=choice,
        settings=settings,
    )
    if result is None:
        return
    # The weights say the rest.
    words = ("--plan", result.plan, "--weights", result.weights, "--data", data)
    merge = ("dshrink", "merge", *choice.words, *words, "--out", str(folder / "merged.onnx"))
    lines = (
        f"top-1 accuracy {result.accuracy_percent:.2f} % of the validation images after "
        f"{counted(settings.epochs, 'epoch')} (loss {result.val_loss:.4f})",
        f"weights: {result.weights}, plan: {result.plan}",
        f"merge it: {shlex.join(merge)}",
    )
    show_result(result, lines, as_json=json)
