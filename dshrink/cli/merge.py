"""``dshrink merge``: merge a plan's blocks or spans with real weights, prove it, write ONNX."""

from __future__ import annotations

import json as json_text
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options, train_options
from dshrink.cli.console import notice, out, print_json
from dshrink.errors import DshrinkError
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.merge.agreement import Agreement
    from dshrink.merge.rewrite import MergedNetwork
    from dshrink.merge.verify import Certificate
    from dshrink.search.plan import Plan
    from dshrink.train.feed import Feed


def register(app: typer.Typer) -> None:
    app.command(name="merge")(command)


def command(
    model: options.Model,
    plan: Annotated[
        str, typer.Option(help="a plan file, mask:0011..., spans:1|01..., or paper:NAME")
    ],
    out_file: Annotated[Path, typer.Option("--out", help="ONNX file to write")],
    weights: Annotated[str, typer.Option(help="pretrained, random, or a state-dict file")] = (
        "pretrained"
    ),
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="images (as of `dshrink finetune`): the accuracy before and after the merge",
        ),
    ] = None,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    padding: options.PlanPadding = None,
    free_activation: options.WeightsFreeActivation = None,
    batch: options.FileBatch = 1,
    resolution: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="height and width in pixels; the plan's, else the fine-tuned weights', else 224, "
            "if not given",
        ),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Merge what a plan merges of MODEL, blocks or spans across them, and write it as ONNX.

    The merged network is compared with the unmerged one, and the file with the merged network,
    before anything is written; beside the file stands its certificate.
    """
    result = run_merge(
        model,
        plan,
        out_file,
        weights=weights,
        data=data,
        loaders=loaders or 0,
        unreadable=unreadable,
        padding=padding,
        free_activation=free_activation,
        batch=batch,
        resolution=resolution,
        seed=seed,
    )
    if json:
        print_json(result)
        return
    cost = result["cost"]
    merged = result["blocks_merged"] + result["spans_merged"]
    out.print(f"merged {merged} {result['segments']} in {result['merge_s']:.2f} s")
    out.print(result["certificate_line"])
    out.print(f"in ONNX Runtime the file differs from torch by {result['onnx_difference']:.1e}")
    if result["agreement"]:
        out.print(agreement_line(result["agreement"]))
    for name in ("macs", "parameters"):
        before, after = cost[name]
        out.print(f"{name}: {before / 1e6:.2f} M before, {after / 1e6:.2f} M after")
    out.print(f"wrote {out_file} and {result['certificate']}")


def run_merge(
    model: str,
    plan: str,
    out_file: Path,
    *,
    weights: str = "pretrained",
    data: str | None = None,
    loaders: int = 0,
    unreadable: Unreadable = Unreadable.SKIP,
    padding: str | None = None,
    free_activation: bool | None = None,
    batch: int = 1,
    resolution: int | None = None,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Merge, certify, export; the result is what the command prints.

    What is said ``about`` the network goes into the file's metadata (its method, its seed).
    """
    from dshrink.merge.export import export_onnx, merge_metadata
    from dshrink.merge.rewrite import merge_network
    from dshrink.merge.verify import certify
    from dshrink.network.models import about_weights, load_network
    from dshrink.network.rewriting import rewriting
    from dshrink.pieces.plan_binding import bind_to_network
    from dshrink.search.plan import parse_plan
    from dshrink.train.opening import open_to_validate
    from latency_tables.io import write_atomically

    wanted = parse_plan(plan)
    source = weights if weights in ("pretrained", "random") else Path(weights)
    trained = about_weights(source) if isinstance(source, Path) else {}
    known, whose = wanted.resolution, f"the plan {plan}"
    if known is None and (found := trained.get("resolution")):
        known, whose = (found[0], found[1]), weights
    size = options.one_resolution(resolution, known, whose)
    network = load_network(model, resolution=size, weights=source, seed=seed)
    bound = bind_to_network(wanted, network)
    if free_activation is None:
        free_activation = not trained.get("padding") or bool(trained["free_activation"])
    form = padding_of(bound, padding, free_activation, trained, weights)
    feed = None
    if data is not None:
        feed = open_to_validate(
            data, network, weights=weights, loaders=loaders, unreadable=unreadable
        )
    start = time.perf_counter()
    changes = rewriting(
        network, bound.mask, segments=bound.segments, free_activation=free_activation
    )
    merged = merge_network(network, changes, padding=form)
    merge_s = time.perf_counter() - start
    certificate = certify(merged)
    certificate.require()
    agreed = agreement_of(merged, feed) if feed else None
    metadata = {
        **merge_metadata(merged, certificate),
        "plan": bound.source or plan,
        **(about or {}),
    }
    if agreed and feed:
        metadata |= {
            "accuracy_percent": agreed.merged_accuracy,
            "validation_images": agreed.images,
            "data": feed.images.digest,
        }
    difference = export_onnx(merged.network, out_file, batch=batch, metadata=metadata)
    beside = out_file.with_name(f"{out_file.name}.certificate.json")
    document = certificate.to_json()
    missing = dict(feed.unreadable.reasons) if feed else {}
    if agreed:
        document |= {"validation": agreed.to_json(), "unreadable": missing}
    write_atomically(beside, json_text.dumps(document, indent=2) + "\n")
    return {
        "file": str(out_file),
        "certificate": str(beside),
        "certificate_line": certificate_line(certificate),
        "segments": bound.segments,
        "keep_mask": bound.keep_mask,
        "span_mask": bound.span_mask,
        "padding": merged.padding,
        "blocks_merged": len(merged.regions) if bound.segments == "blocks" else 0,
        "spans_merged": len(merged.regions) if bound.segments == "spans" else 0,
        "merge_s": merge_s,
        "onnx_difference": difference,
        "agreement": agreed.to_json() if agreed else None,
        "unreadable": missing,
        "cost": {
            "macs": [network.spec.macs, merged.network.spec.macs],
            "parameters": [network.spec.parameters, merged.network.spec.parameters],
        },
    }


def padding_of(
    plan: Plan,
    asked: str | None,
    free_activation: bool,
    trained: Mapping[str, Any],
    weights: str,
) -> str:
    """How borders are treated: as asked for, as the weights were trained, or as planned.

    Raises DshrinkError where weights of ``dshrink finetune`` were trained for something else: then
    the merged network would be none that anybody trained.
    """
    form = trained.get("padding", "")
    if not form:
        return asked or plan.padding
    now = {"mask": plan.mask, "padding": asked or form, "free_activation": free_activation}
    if differences := [
        f"{name} {trained[name]}, now {value}"
        for name, value in now.items()
        if trained[name] != value
    ]:
        raise DshrinkError(
            f"{weights}: these weights were fine-tuned for {'; '.join(differences)}: give that "
            "plan (plan.json beside them), or fine-tune for this one"
        )
    return str(form)


def agreement_of(merged: MergedNetwork, feed: Feed) -> Agreement:
    """The merged network beside the unmerged one on every validation image, on a GPU if any."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    both = merged.unmerged(torch.float32), merged.module(torch.float32)
    found = agreement(both[0].to(device), both[1].to(device), feed)
    if feed.unreadable.line:
        notice(feed.unreadable.line)
    return found


def agreement_line(found: Mapping[str, Any]) -> str:
    same = (
        "the same class for every one"
        if not found["differing"]
        else f"another class for {found['differing']} of them"
    )
    return (
        f"accuracy on {found['images']} validation images: {found['unmerged_accuracy']:.2f} % "
        f"before the merge, {found['merged_accuracy']:.2f} % after it, {same}"
    )


def certificate_line(certificate: Certificate) -> str:
    """The certificate in one line: worst region, interior and border, and the whole network."""
    if not certificate.regions:
        return "nothing merged"
    interior = max(region.interior_float64.relative for region in certificate.regions)
    border = max(region.border_float64.relative for region in certificate.regions)
    worst = f"worst {certificate.segments.removesuffix('s')}"
    return (
        f"certificate ({certificate.padding}), relative errors: {worst} {interior:.1e} inside "
        f"and {border:.1e} at the border in float64; whole network "
        f"{certificate.network_float64.relative:.1e} in float64, "
        f"{certificate.network_float32.relative:.1e} in float32"
    )
