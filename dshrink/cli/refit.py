"""``dshrink refit``: merge a plan and fit the merged convolutions to what the original gave."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs, train_options
from dshrink.cli.console import show_result
from dshrink.cli.grids import Column, number, print_grid
from dshrink.train.unreadable import Unreadable
from latency_tables.wording import counted

if TYPE_CHECKING:
    from dshrink.operations.refit import RefitResult
    from dshrink.refit.agreement import Closeness
    from dshrink.refit.fitting import UnitFit


def command(
    context: typer.Context,
    model: options.Model,
    plan: train_options.Plan,
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="folder of images, with or without classes; of one with train/ and val/ the first "
            "is fitted, the second only measured; or a data set of timm's",
        ),
    ],
    folder: Annotated[
        Path, outputs.folder_option("--out", help="folder for weights, plan and report")
    ],
    weights: options.Weights = "pretrained",
    weights_ema: options.Ema = False,
    images: Annotated[
        int,
        typer.Option(
            help="number of images to read, a fifth of them to choose by; where there are fewer, "
            "random crops of them",
        ),
    ] = 256,
    padding: options.PlanPadding = None,
    free_activation: Annotated[
        bool | None,
        options.merging(
            "--free-activation/--no-free-activation",
            help="ReLU6 after merged blocks, or where a span plan puts one; default: only spans, "
            "as it costs accuracy without training",
        ),
    ] = None,
    merged_only: Annotated[
        bool,
        options.merging(
            "--merged-only", help="do not fit the last convolutions of the blocks behind"
        ),
    ] = False,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    seed: options.Seed = 0,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Merge a plan in MODEL and fit the merged convolutions to it: no labels, no training.

    A refit keeps what trained weights compute: initial and random ones are refused.
    Run the same command again to resume an interrupted run.
    """
    from dshrink.network.references import ModelChoice
    from dshrink.operations.refit import refit_by_plan

    choice = options.call(context, ModelChoice)
    found = options.run(
        context, refit_by_plan, f"refit {choice.name}", network=choice, loaders=loaders or 0
    )
    result = found.result
    words = ("--plan", result.plan, "--weights", result.weights)
    merge = ("dshrink", "merge", *choice.words, *words, "--out", str(folder / "merged.onnx"))
    if not json:
        _print_fits(result, wide=wide)
    lines = [*_lines(result), f"write it: {shlex.join(merge)}"]
    show_result(result, lines, as_json=json)


def _print_fits(result: RefitResult, *, wide: bool) -> None:
    columns: list[Column[UnitFit]] = [
        Column("merged", lambda fit: fit.label, least=24),
        number("unknowns", lambda fit: fit.unknowns, "d", rank=2),
        Column("ridge", lambda fit: "none" if fit.ridge is None else f"{fit.ridge:g}", rank=1),
        number("before", lambda fit: percent(fit.start), ".1f", suffix=" %", rank=3),
        number("explained", lambda fit: percent(fit.explained), ".1f", suffix=" %"),
        number("result error", lambda fit: fit.error, ".4f"),
    ]
    print_grid(columns, [fit for fit in result.fits if fit.merged], wide=wide)


def percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _lines(result: RefitResult) -> Iterator[str]:
    merged = [fit for fit in result.fits if fit.merged]
    others = sum(fit.ridge is not None for fit in result.fits if not fit.merged)
    behind = f"; {counted(others, 'convolution')} behind them corrected" if others else ""
    norms = "; norms matched" if result.norms_matched else ""
    yield (
        f"{counted(len(merged), 'merged convolution')} fitted to "
        f"{counted(result.images, 'image')} in "
        f"{result.seconds:.0f} s{behind}{norms}"
    )
    if result.validation:
        yield from _closeness("validation", result.validation)
    yield from _closeness("held-out", result.held_out)
    yield f"weights: {result.weights}, plan: {result.plan}"


def _closeness(what: str, found: Closeness) -> Iterator[str]:
    """The merged networks beside their original, refitted and not."""
    chosen = " (which chose the ridges)" if what == "held-out" else ""
    on = f"on {counted(found.images, f'{what} image')}{chosen}"
    if found.agreement_percent:
        yield (
            f"{on} the top-1 class is the original's for "
            f"{found.agreement_percent['refitted']:.1f} % (merged without refit: "
            f"{found.agreement_percent['algebraic']:.1f} %), among the first five for "
            f"{found.in_top5_percent['refitted']:.1f} %"
        )
    else:
        yield (
            f"{on} the result's error is {found.error['refitted']:.3g} (merged without refit: "
            f"{found.error['algebraic']:.3g})"
        )
    if found.accuracy_percent:
        yield (
            f"top-1 accuracy: original {found.accuracy_percent['original']:.2f} %, refitted "
            f"{found.accuracy_percent['refitted']:.2f} %, merged without refit "
            f"{found.accuracy_percent['algebraic']:.2f} %"
        )
