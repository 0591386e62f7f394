"""``dshrink merge``: merge a plan's blocks or spans with real weights, prove it, write ONNX."""

from __future__ import annotations

import json as json_text
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options
from dshrink.cli.console import out, print_json

if TYPE_CHECKING:
    from dshrink.merge.verify import Certificate


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
    padding: options.PlanPadding = None,
    free_activation: options.FreeActivation = True,
    batch: options.FileBatch = 1,
    resolution: options.Resolution = 224,
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
    padding: str | None = None,
    free_activation: bool = True,
    batch: int = 1,
    resolution: int = 224,
    seed: int = 0,
) -> dict[str, Any]:
    """Merge, certify, export; the result is what the command prints."""
    from dshrink.export import export_onnx, merge_metadata
    from dshrink.merge.rewrite import merge_network
    from dshrink.merge.verify import certify
    from dshrink.models import load_network
    from dshrink.plans import bind_to_network
    from dshrink.regions import rewriting
    from dshrink.search.plan import parse_plan
    from latency_tables.io import write_atomically

    wanted = parse_plan(plan)
    source = weights if weights in ("pretrained", "random") else Path(weights)
    size = wanted.resolution or resolution
    network = load_network(model, resolution=size, weights=source, seed=seed)
    bound = bind_to_network(wanted, network)
    start = time.perf_counter()
    changes = rewriting(
        network, bound.mask, segments=bound.segments, free_activation=free_activation
    )
    merged = merge_network(network, changes, padding=padding or bound.padding)
    merge_s = time.perf_counter() - start
    certificate = certify(merged)
    certificate.require()
    metadata = {**merge_metadata(merged, certificate), "plan": bound.source or plan}
    difference = export_onnx(merged.network, out_file, batch=batch, metadata=metadata)
    beside = out_file.with_name(f"{out_file.name}.certificate.json")
    text = json_text.dumps(certificate.to_json(), indent=2)
    write_atomically(beside, text + "\n")
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
        "cost": {
            "macs": [network.spec.macs, merged.network.spec.macs],
            "parameters": [network.spec.parameters, merged.network.spec.parameters],
        },
    }


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
