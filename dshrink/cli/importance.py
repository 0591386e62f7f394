"""``dshrink importance``: measure what removed activations cost in accuracy, span by span."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs, train_options
from dshrink.cli.console import err, show_result
from dshrink.train.unreadable import Unreadable
from latency_tables.wording import counted

if TYPE_CHECKING:
    from dshrink.importance.table import ImportanceTable

evaluation = partial(typer.Option, rich_help_panel="Evaluation of a network")
preparing = partial(typer.Option, rich_help_panel="Training before an evaluation")
sharing = partial(typer.Option, rich_help_panel="Shards and machines")


def command(
    context: typer.Context,
    model: options.Model,
    data: train_options.Data,
    level: Annotated[
        str,
        evaluation(
            help="training of each network before evaluation: recalibrate[:BATCHES] (batch-norm "
            "statistics only), refit[:IMAGES] (merged convolutions, in closed form), steps:N or "
            "epochs:N of fine-tuning (the paper: one epoch)"
        ),
    ],
    file: Annotated[
        Path,
        typer.Option(
            "--out",
            help="CSV to write; the journal is written next to it",
            callback=outputs.checked_with(lambda file: [file.with_suffix(".json")]),
        ),
    ],
    weights: options.Weights = "pretrained",
    weights_ema: options.Ema = False,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    images: Annotated[
        int | None, evaluation(help="number of validation images; default: all")
    ] = None,
    batch: Annotated[int, evaluation(help="batch size")] = 128,
    learning_rate: Annotated[
        float, evaluation("--lr", help="initial learning rate of SGD, cosine decay to 0")
    ] = 0.01,
    weight_decay: Annotated[float, evaluation(help="weight decay of SGD")] = 1e-5,
    augment: Annotated[
        bool, preparing("--augment/--no-augment", help="train on random crops and flips")
    ] = True,
    reinitialise: Annotated[
        bool,
        preparing(
            "--reinitialise/--keep-single-layers",
            help="re-initialise single layers (j = i + 1) before evaluation, as the paper does; "
            "only training (epochs:1) recovers from it",
        ),
    ] = False,
    span_mode: Annotated[
        str, evaluation(help="which spans: kim2023 (the paper's) or exact (all valid)")
    ] = "kim2023",
    shard: Annotated[
        str | None,
        sharing(
            help="K/N: evaluate only this shard; afterwards the same command without --shard "
            "collects all shards and writes the table"
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        sharing(help="address of a Dask scheduler whose workers evaluate; see docs/fleets.md"),
    ] = None,
    loaders: Annotated[
        int, typer.Option(help="data loader workers; 0 loads in the main process")
    ] = 0,
    unreadable: Annotated[
        Unreadable,
        typer.Option(
            help="images that cannot be read: stop, since all networks must be evaluated on the "
            "same ones, or skip them"
        ),
    ] = Unreadable.STOP,
    retry_failed: Annotated[
        bool, sharing("--retry-failed", help="retry evaluations that failed")
    ] = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure I(i,j,a,b) of MODEL: the change of accuracy without the activations inside a span.

    Run the same command again to resume an interrupted run.
    """
    from dshrink.cli.payloads.networks import ImportanceData, MissingImportance
    from dshrink.importance.journal import Shard
    from dshrink.importance.settings import ImportanceSettings, Level
    from dshrink.network.references import ModelChoice
    from dshrink.operations.importance import measure_importance
    from dshrink.train.image_sets import absolute

    options.warn_of_plain_tcp(scheduler)
    choice = options.call(context, ModelChoice).with_absolute_paths()
    settings = options.call(
        context,
        ImportanceSettings,
        choice=choice,
        data=absolute(data),
        level=Level.parse(level),
    )
    result = options.run(
        context,
        measure_importance,
        f"importance {choice.name}",
        settings=settings,
        shard=Shard.parse(shard) if shard else None,
    )
    counts = f"{counted(result.evaluated, 'network')} evaluated, {result.reused} known before"
    table = result.table
    if table is None:
        lines = [
            f"shard {shard}: {counts}; when all shards are done, the same command without --shard "
            "writes the table"
        ]
        known = ImportanceData(evaluated=result.evaluated, reused=result.reused, shard=shard)
        show_result(known, lines, as_json=json)
        return
    _warn_of_missing(table)
    file, details = result.files
    facts = ImportanceData(
        evaluated=result.evaluated,
        reused=result.reused,
        file=str(file),
        keys=len(table.evaluations),
        missing=tuple(
            MissingImportance(key=key, reason=reason) for key, reason in table.missing.items()
        ),
        original_accuracy_percent=table.original.val_accuracy,
    )
    lines = [
        f"original {choice.name}: {table.original.val_accuracy:.2f} % of the validation images; "
        f"{counts}",
        f"importances: {file} (and {details.name})",
    ]
    show_result(facts, lines, as_json=json)
    if table.missing:
        raise typer.Exit(1)


def _warn_of_missing(table: ImportanceTable) -> None:
    for key, reason in list(table.missing.items())[:3]:
        err.print(f"key {tuple(key)} has no value: {reason}", soft_wrap=True)
    if table.missing:
        err.print(
            f"{len(table.missing)} of {len(table.evaluations)} keys have no value, and no plan "
            "will use them: fix the cause and run the same command with --retry-failed (what "
            "diverged will again: a lower --lr and another --out)",
            soft_wrap=True,
        )
