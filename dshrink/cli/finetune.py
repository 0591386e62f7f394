"""``dshrink finetune``: train a network without the activations that a plan removes (stage 2)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options, train_options
from dshrink.cli.console import notice, out, print_json
from dshrink.errors import DshrinkError
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.train.finetune import FineTuned
    from dshrink.train.settings import Training


def register(app: typer.Typer) -> None:
    app.command(name="finetune")(command)


def command(
    context: typer.Context,
    model: options.Model,
    plan: Annotated[
        str, typer.Option(help="a plan file, mask:0011..., spans:1|01..., or paper:NAME")
    ],
    data: train_options.Data,
    folder: Annotated[
        Path, typer.Option("--out", help="folder for weights, history, plan and checkpoints")
    ],
    weights: train_options.Weights = "pretrained",
    recipe: train_options.Recipe = None,
    resolution: options.PlanResolution = None,
    epochs: train_options.Epochs = None,
    batch: train_options.Batch = None,
    accumulate: train_options.Accumulate = None,
    learning_rate: train_options.LearningRate = None,
    min_learning_rate: Annotated[
        float | None, typer.Option("--min-lr", help="learning rate at the cosine's end")
    ] = None,
    warmup_epochs: train_options.WarmupEpochs = None,
    momentum: Annotated[float | None, typer.Option(help="momentum of SGD")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="weight decay of SGD")] = None,
    clip: train_options.Clip = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="share of the other classes")
    ] = None,
    distillation: Annotated[
        float | None,
        typer.Option(help="weight of the original network's outputs as the target; 0 for none"),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="weights of MODEL that teach instead of --weights"),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="by which both outputs are divided to be compared")
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="decay of an average of the weights, which is then kept")
    ] = None,
    precision: train_options.TrainPrecision = None,
    free_activation: options.FreeActivation = True,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    checkpoint_steps: train_options.CheckpointSteps = None,
    seed: train_options.Seed = None,
    json: options.Json = False,
) -> None:
    """Fine-tune MODEL as a plan shrinks it, so that it merges exactly and free of charge.

    An interrupted run goes on where it was: give the same command again. On several GPUs:
    `accelerate launch -m dshrink finetune ...`.
    """
    settings = train_options.settings_of(
        train_options.recipe_settings(recipe), **train_options.given_settings(context)
    )
    result = run_finetune(
        model,
        plan,
        data,
        folder,
        settings,
        weights=weights,
        teacher=teacher,
        resolution=resolution,
        free_activation=free_activation,
        unreadable=unreadable,
    )
    if not result:
        return
    if json:
        print_json(result)
        return
    out.print(
        f"accuracy {result['accuracy_percent']:.2f} % of the validation images after "
        f"{settings.epochs} epochs (loss {result['val_loss']:.4f})"
    )
    out.print(f"weights: {result['weights']}, plan: {result['plan']}")
    out.print(f"merge it: {merge_command(model, data, folder, result)}")


def merge_command(model: str, data: str, folder: Path, result: Mapping[str, Any]) -> str:
    """What a shell takes to merge what was trained; the weights say the rest."""
    words = ("--plan", result["plan"], "--weights", result["weights"], "--data", data)
    return shlex.join(
        ("dshrink", "merge", model, *words, "--out", str(folder / "merged.onnx")),
    )


def run_finetune(
    model: str,
    plan: str,
    data: str,
    folder: Path,
    settings: Training,
    *,
    weights: str = "pretrained",
    teacher: str | None = None,
    resolution: int | None = None,
    free_activation: bool = True,
    unreadable: Unreadable = Unreadable.SKIP,
) -> dict[str, Any]:
    """Fine-tune with a progress bar; the result is what the command prints.

    Empty in all processes but the first.
    """
    from dshrink.network.rewriting import rewriting
    from dshrink.pieces.plan_binding import bind_to_network
    from dshrink.search.plan import parse_plan, save_plan
    from dshrink.train.finetune import PADDING, finetune
    from dshrink.train.network import load_for
    from dshrink.train.opening import feed_of, open_both

    if teacher is not None or settings.distillation:
        _check_teacher(weights, teacher, settings)
    wanted = parse_plan(plan)
    size = options.one_resolution(resolution, wanted.resolution, f"the plan {plan}")
    images, network = open_both(data, model, resolution=size, weights=weights, seed=settings.seed)
    bound = bind_to_network(wanted, network)
    changes = rewriting(
        network, bound.mask, segments=bound.segments, free_activation=free_activation
    )
    teaching = None
    if teacher is not None:
        teaching = load_for(images, model, resolution=size, weights=teacher).module
    feed = feed_of(images, network, settings, unreadable)
    with train_options.progress_of_main("fine-tune") as update:
        tuned = finetune(
            network,
            changes,
            feed,
            settings,
            folder,
            teacher=teaching,
            progress=update,
            notice=notice,
        )
    if not tuned.fitted.main:
        return {}
    file = folder / "plan.json"
    save_plan(replace(bound, padding=PADDING), file)
    return {
        **_scores(tuned),
        "plan": str(file),
        "mask": bound.mask,
        "unreadable": dict(feed.unreadable.reasons),
    }


def _check_teacher(weights: str, teacher: str | None, settings: Training) -> None:
    """Raise unless something is learnt from a teacher, and the teacher has learnt something."""
    from dshrink.network.models import about_weights

    if not settings.distillation:
        raise DshrinkError(
            f"--teacher {teacher} without distillation: give its weight, such as --distillation 0.7"
        )
    option, source = ("--weights", weights) if teacher is None else ("--teacher", teacher)
    if source in ("initial", "random"):
        raise DshrinkError(
            f"{option} {source} with distillation: an untrained teacher teaches noise; give "
            "trained weights as --teacher FILE, or --distillation 0"
        )
    if (about := about_weights(Path(source))).get("padding"):
        raise DshrinkError(
            f"{option} {source} with distillation: these weights were trained without the "
            f"activations that {about['mask']} removes, a teacher has all of its own; give those "
            "of the whole network as --teacher FILE, or --distillation 0"
        )


def _scores(tuned: FineTuned) -> dict[str, Any]:
    return {
        "accuracy_percent": tuned.accuracy,
        "val_loss": tuned.fitted.loss,
        "processes": tuned.fitted.processes,
        "images_per_second": tuned.fitted.images_per_second,
        "weights": str(tuned.weights),
        "history": [dict(entry) for entry in tuned.fitted.history],
    }
