"""``dshrink importance``: measure what removed activations cost in accuracy, span by span."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options, train_options
from dshrink.cli.console import err, show_result
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.importance.table import ImportanceTable

evaluation = partial(typer.Option, rich_help_panel="Evaluation of a network")
sharing = partial(typer.Option, rich_help_panel="Parts and machines")


def command(
    context: typer.Context,
    model: options.Model,
    data: train_options.Data,
    level: Annotated[
        str,
        evaluation(
            help="what a network gets before it is evaluated: recalibrate[:BATCHES] (batch-norm "
            "statistics only), steps:N or epochs:N of fine-tuning (the paper: one epoch)"
        ),
    ],
    file: Annotated[Path, typer.Option("--out", help="CSV to write; its journal lies beside")],
    weights: train_options.MergeWeights = "pretrained",
    resolution: options.Resolution = 224,
    images: Annotated[
        int | None, evaluation(min=1, help="validation images to evaluate on; all if not given")
    ] = None,
    batch: Annotated[int, evaluation(min=1, help="images a batch")] = 128,
    learning_rate: Annotated[
        float,
        evaluation("--lr", help="learning rate of SGD at the start; down to 0 along a cosine"),
    ] = 0.01,
    weight_decay: Annotated[float, evaluation(help="weight decay of SGD")] = 1e-5,
    augment: Annotated[
        bool, evaluation("--augment/--no-augment", help="random crops and flips to train on")
    ] = True,
    reinitialise: Annotated[
        bool,
        evaluation(
            "--reinitialise/--keep-single-layers",
            help="draw a single layer (j = i + 1) anew before it is evaluated, as the paper does: "
            "then such spans cost something too; only training (epochs:1) recovers from it",
        ),
    ] = False,
    span_mode: Annotated[
        str, evaluation(help="which spans: kim2023 (the paper's) or exact (all valid)")
    ] = "kim2023",
    shard: Annotated[
        str | None,
        sharing(
            help="K/N: evaluate only that part; afterwards the same command without --shard "
            "collects all parts and writes the table"
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        sharing(help="address of a Dask cluster whose workers evaluate; see docs/fleets.md"),
    ] = None,
    loaders: Annotated[
        int, typer.Option(min=0, help="processes that read images; 0 reads in this one")
    ] = 0,
    unreadable: Annotated[
        Unreadable,
        typer.Option(
            help="images that cannot be read: stop, since all networks must be evaluated on the "
            "same ones, or skip them"
        ),
    ] = Unreadable.STOP,
    retry_failed: Annotated[
        bool, sharing("--retry-failed", help="evaluate again what failed before")
    ] = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure I(i,j,a,b) of MODEL: the change of accuracy without the activations inside a span.

    The same command resumes an interrupted run.
    """
    from dshrink.importance.journal import Shard
    from dshrink.importance.settings import ImportanceSettings, Level
    from dshrink.operations.importance import measure_importance
    from dshrink.train.data import absolute

    options.warn_of_plain_tcp(scheduler)
    settings = options.call(
        context, ImportanceSettings, data=absolute(data), level=Level.parse(level)
    )
    result = options.run(
        context,
        measure_importance,
        f"importance {model}",
        settings=settings,
        shard=Shard.parse(shard) if shard else None,
    )
    counts = f"{result.evaluated} networks evaluated, {result.reused} known before"
    facts: dict[str, Any] = {"evaluated": result.evaluated, "reused": result.reused}
    table = result.table
    if table is None:
        lines = [
            f"shard {shard}: {counts}; when all shards are done, the same command without --shard "
            "writes the table"
        ]
        show_result({**facts, "shard": shard}, lines, as_json=json)
        return
    _warn_of_missing(table)
    file, details = result.files
    facts |= {
        "importance": str(file),
        "keys": len(table.evaluations),
        "missing": list(table.missing),
        "original_accuracy": table.original.val_accuracy,
    }
    lines = [
        f"original {model}: {table.original.val_accuracy:.2f} % of the validation images; {counts}",
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
