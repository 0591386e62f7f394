"""``dshrink importance``: measure what removed activations cost in accuracy, span by span."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, train_options
from dshrink.cli.console import err, notice, out, print_json, progress
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.importance.run import ImportanceResult
    from dshrink.importance.settings import ImportanceSettings

evaluation = partial(typer.Option, rich_help_panel="Evaluation of a network")
sharing = partial(typer.Option, rich_help_panel="Parts and machines")


def register(app: typer.Typer) -> None:
    app.command(name="importance")(command)


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
    with progress(f"importance {model}") as update:
        result = options.call(
            context,
            measure_importance,
            settings=settings,
            shard=Shard.parse(shard) if shard else None,
            on_progress=update,
            notice=notice,
        )
    _report(result, settings, shard, json=json)
    if result.table is not None and result.table.missing:
        raise typer.Exit(1)


def _report(
    result: ImportanceResult, settings: ImportanceSettings, shard: str | None, *, json: bool
) -> None:
    counts = {"evaluated": result.evaluated, "reused": result.reused}
    if result.table is None:
        if json:
            print_json({**counts, "shard": shard})
        else:
            out.print(
                f"shard {shard}: {result.evaluated} networks evaluated, {result.reused} known "
                "before; when all shards are done, the same command without --shard writes the "
                "table"
            )
        return
    missing = result.table.missing
    for key, reason in list(missing.items())[:3]:
        err.print(f"key {tuple(key)} has no value: {reason}", soft_wrap=True)
    if missing:
        err.print(
            f"{len(missing)} of {len(result.table.evaluations)} keys have no value, and no plan "
            "will use them: fix the cause and run the same command with --retry-failed (what "
            "diverged will again: a lower --lr and another --out)",
            soft_wrap=True,
        )
    original = result.table.original
    if json:
        print_json(
            {
                **counts,
                "importance": str(result.files[0]),
                "keys": len(result.table.evaluations),
                "missing": [list(key) for key in missing],
                "original_accuracy": original.val_accuracy,
            }
        )
        return
    out.print(
        f"original {settings.model}: {original.val_accuracy:.2f} % of the validation images; "
        f"{result.evaluated} networks evaluated, {result.reused} known before"
    )
    out.print(f"importances: {result.files[0]} (and {result.files[1].name})")
