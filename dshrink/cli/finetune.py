"""``dshrink finetune``: train a network without the activations that a plan removes (stage 2)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options, train_options
from dshrink.cli.console import notice, out, print_json, progress
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.train.finetune import FineTuned
    from dshrink.train.settings import Training


def register(app: typer.Typer) -> None:
    app.command(name="finetune")(command)


def command(
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
    resolution: Annotated[
        int | None,
        typer.Option(min=8, help="height and width in pixels; the plan's, else 224, if not given"),
    ] = None,
    epochs: train_options.Epochs = None,
    batch: train_options.Batch = None,
    accumulate: train_options.Accumulate = None,
    lr: train_options.LearningRate = None,
    weight_decay: Annotated[float | None, typer.Option(help="weight decay of SGD")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="share of the other classes")
    ] = None,
    distillation: Annotated[
        float | None,
        typer.Option(help="weight of the original network's outputs as the target; 0 for none"),
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="decay of an average of the weights, which is then kept")
    ] = None,
    precision: train_options.TrainPrecision = None,
    free_activation: options.FreeActivation = True,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Fine-tune MODEL as a plan shrinks it, so that it merges exactly and free of charge.

    An interrupted run goes on where it was: give the same command again. On several GPUs:
    `accelerate launch -m dshrink finetune ...`.
    """
    settings = train_options.settings_of(
        train_options.recipe_settings(recipe),
        epochs=epochs,
        batch=batch,
        accumulate=accumulate,
        learning_rate=lr,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        distillation=distillation,
        ema=ema,
        precision=precision,
        loaders=loaders,
        seed=seed,
    )
    result = run_finetune(
        model,
        plan,
        data,
        folder,
        settings,
        weights=weights,
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
    out.print(
        f"merge it: dshrink merge {model} --plan {result['plan']} --weights {result['weights']} "
        f"--data {data} --out {folder / 'merged.onnx'}"
    )


def run_finetune(
    model: str,
    plan: str,
    data: str,
    folder: Path,
    settings: Training,
    *,
    weights: str = "pretrained",
    resolution: int | None = None,
    free_activation: bool = True,
    unreadable: Unreadable = Unreadable.SKIP,
) -> dict[str, Any]:
    """Fine-tune with a progress bar; the result is what the command prints.

    Empty in all processes but the first.
    """
    from dshrink.plans import bind_to_network
    from dshrink.regions import rewriting
    from dshrink.search.plan import parse_plan, save_plan
    from dshrink.train.data import look_of, open_images
    from dshrink.train.feed import Feed
    from dshrink.train.finetune import finetune
    from dshrink.train.network import load_for
    from dshrink.train.unreadable import UnreadableImages

    wanted = parse_plan(plan)
    images = open_images(data)
    size = wanted.resolution or resolution or 224
    network = load_for(images, model, resolution=size, weights=weights, seed=settings.seed)
    bound = bind_to_network(wanted, network)
    changes = rewriting(
        network, bound.mask, segments=bound.segments, free_activation=free_activation
    )
    look = look_of(model, network.resolution, network.spec.input_shape[0])
    missing = UnreadableImages(unreadable)
    feed = Feed(images=images, look=look, settings=settings, unreadable=missing)
    main = train_options.is_main_process()
    with ExitStack() as stack:
        update = stack.enter_context(progress("fine-tune")) if main else None
        tuned = finetune(network, changes, feed, settings, folder, progress=update, notice=notice)
    if not main:
        return {}
    if missing.line:
        notice(missing.line)
    file = folder / "plan.json"
    save_plan(bound, file)
    return {
        **_scores(tuned),
        "plan": str(file),
        "mask": bound.mask,
        "unreadable": dict(missing.reasons),
    }


def _scores(tuned: FineTuned) -> dict[str, Any]:
    return {
        "accuracy_percent": tuned.accuracy,
        "val_loss": tuned.fitted.loss,
        "processes": tuned.fitted.processes,
        "images_per_second": tuned.fitted.images_per_second,
        "weights": str(tuned.weights),
        "history": [dict(entry) for entry in tuned.fitted.history],
    }
