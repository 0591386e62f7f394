"""``dshrink search mask``: learn which activations to keep (stage 1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs, train_options
from dshrink.cli.console import notice, show_result
from dshrink.cli.render_search import plan_lines
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.operations.mask_search import MaskRequest
    from dshrink.train.mask_search import MaskSearch


def mask(
    context: typer.Context,
    model: options.Model,
    data: train_options.Data,
    file: Annotated[
        Path,
        outputs.file_option("--out", help="plan to write; history and checkpoints go next to it"),
    ],
    budget_ms: options.BudgetMs = None,
    keep: options.Keep = None,
    table: Annotated[
        Path | None,
        options.searching(help="folder of a latency table of blocks; a budget needs one"),
    ] = None,
    decay: Annotated[
        float | None, options.searching(help="strength of the latency-aware decay; 0 disables it")
    ] = None,
    limit: Annotated[
        float | None,
        options.searching(
            "--mask-limit",
            help="clip the gradient of each mask value to this magnitude; default: no clipping",
        ),
    ] = None,
    allow_unfit: options.AllowUnfit = False,
    weights: options.Weights = "pretrained",
    weights_ema: options.Ema = False,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    recipe: train_options.Recipe = None,
    epochs: train_options.Epochs = None,
    batch: train_options.Batch = None,
    accumulate: train_options.Accumulate = None,
    learning_rate: train_options.LearningRate = None,
    warmup_epochs: train_options.WarmupEpochs = None,
    clip: train_options.Clip = None,
    precision: train_options.TrainPrecision = None,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    checkpoint_steps: train_options.CheckpointSteps = None,
    log_with: train_options.LogWith = None,
    seed: train_options.Seed = None,
    json: options.Json = False,
) -> None:
    """Learn, jointly with the weights, which blocks of MODEL keep their activations (stage 1).

    Run the same command again to resume an interrupted search.
    """
    from dshrink.network.references import ModelChoice
    from dshrink.operations.mask_search import MaskRequest, mask_defaults, search_mask
    from dshrink.search.goal import Goal

    settings, usual_decay, usual_limit = mask_defaults(recipe)
    settings = train_options.given(context, settings)
    # Without a latency table there is no decay.
    usual_decay = usual_decay if table is not None else None
    request = options.call(
        context,
        MaskRequest,
        choice=options.call(context, ModelChoice, seed=settings.seed),
        goal=Goal(budget_ms=budget_ms, keep=keep),
        training=settings,
        decay=usual_decay if decay is None else decay,
        limit=usual_limit if limit is None else limit,
    )
    with train_options.progress_of_main("mask search") as update:
        found = search_mask(request, on_progress=update, notice=notice)
    if found is not None:
        show_result(found.plan, _lines(found, request), as_json=json)


def _lines(found: MaskSearch, request: MaskRequest) -> Iterator[str]:
    plan = found.plan
    yield from plan_lines(plan)
    if plan.table is None:
        yield "no latency table: searched without latency decay"
    else:
        c = plan.table.conditions
        yield f"latency table of {c.device}: {c.runtime} {c.precision}, batch {c.batch}"
    if found.decay is not None:
        d = found.decay
        yield f"decay {d.strength:g} for each {d.unit_ms:.4g} ms that merging a block saves"
    yield (
        f"while searching: top-1 accuracy {found.fitted.accuracy:.2f} % on the validation images, "
        f"{found.fitted.images_per_second:.1f} images/s"
    )
    yield f"history of the mask: {request.history_file}; checkpoints: {request.folder}"
    yield f"plan: {request.file}"
