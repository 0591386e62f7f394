"""``dshrink merge``: merge a plan's blocks or spans with real weights, verify, export to ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs, train_options
from dshrink.cli.console import notice, progress, show_result
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.merge.agreement import Agreement
    from dshrink.operations.merge import MergeResult


def command(
    context: typer.Context,
    model: options.Model,
    plan: train_options.Plan,
    file: Annotated[Path, outputs.file_option("--out", help="ONNX file to write")],
    weights: options.Weights = "pretrained",
    weights_ema: options.Ema = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="image folder (as for `dshrink finetune`), to report accuracy before and after, "
            "or one of images without classes; and the agreement with the original network",
        ),
    ] = None,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    padding: options.PlanPadding = None,
    free_activation: options.WeightsFreeActivation = None,
    batch: options.FileBatch = 1,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Merge the blocks or spans of a plan in MODEL and export it to ONNX.

    The merged network is compared with the unmerged one, and the file with the merged network,
    before anything is written; the certificate is written next to it.
    """
    from dshrink.network.references import ModelChoice
    from dshrink.operations.merge import merge_by_plan

    choice = options.call(context, ModelChoice)
    with progress(f"merge {choice.name}"):
        merged = options.call(
            context, merge_by_plan, network=choice, loaders=loaders or 0, notice=notice
        )
    result = merged.result
    show_result(result, _lines(result), as_json=json)


def _lines(result: MergeResult) -> Iterator[str]:
    merged = result.blocks_merged + result.spans_merged
    if result.certificate:
        yield f"merged {merged} {result.segments} in {result.merge_s:.2f} s"
    yield result.certificate_line
    yield f"in ONNX Runtime the file differs from torch by {result.onnx_difference:.1e}"
    if found := result.agreement:
        yield from _agreement(found)
    elif result.accuracy_percent is not None:
        yield (
            f"top-1 accuracy on {result.validation_images} validation images: "
            f"{result.accuracy_percent:.2f} %"
        )
    for name, (before, after) in result.cost.items():
        yield f"{name}: {before / 1e6:.2f} M before, {after / 1e6:.2f} M after"
    certificate = f" and {result.certificate}" if result.certificate else ""
    yield f"wrote {result.file}{certificate}"
    if (activations := result.activations) and activations.warning:
        kind = "note" if activations.trained == "never" else "warning"
        yield f"{kind}: {activations.warning}"
        yield from (f"  {way}" for way in activations.advice)


def _agreement(found: Agreement) -> Iterator[str]:
    """Of the merged network with the unmerged one, and with the original where that is known."""
    if found.merged_accuracy_percent is not None and found.unmerged_accuracy_percent is not None:
        original = found.original_accuracy_percent
        whole = "" if original is None else f"{original:.2f} % with all activations, "
        yield (
            f"top-1 accuracy on {found.images} validation images: {whole}"
            f"{found.unmerged_accuracy_percent:.2f} % before the merge, "
            f"{found.merged_accuracy_percent:.2f} % after it; top-1 agreement on "
            f"{found.images - found.differing} of {found.images}"
        )
    else:
        same = found.images - found.differing
        yield f"top-1 agreement before and after the merge: {same} of {found.images} images"
    if found.as_original is not None:
        percent = 100 * found.as_original / max(found.images, 1)
        yield (
            f"top-1 agreement with the original, all activations in it: {found.as_original} of "
            f"{found.images} images ({percent:.1f} %)"
        )
