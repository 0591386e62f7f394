"""``dshrink merge``: merge a plan's blocks with real weights, prove it, write ONNX."""

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
    plan: Annotated[str, typer.Option(help="a plan file, mask:0011..., or paper:NAME")],
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
    """Merge the blocks of MODEL that a plan shrinks, and write the network as ONNX.

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
    out.print(f"merged {result['blocks_merged']} blocks in {result['merge_s']:.2f} s")
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
    from dshrink.merge.rewrite import merge_blocks
    from dshrink.merge.verify import certify
    from dshrink.models import load_network
    from dshrink.plans import bind_to_network
    from dshrink.search.plan import parse_plan
    from latency_tables.io import write_atomically

    wanted = parse_plan(plan)
    source = weights if weights in ("pretrained", "random") else Path(weights)
    size = wanted.resolution or resolution
    network = load_network(model, resolution=size, weights=source, seed=seed)
    bound = bind_to_network(wanted, network)
    start = time.perf_counter()
    merged = merge_blocks(
        network,
        bound.keep_mask,
        padding=padding or bound.padding,
        free_activation=free_activation,
    )
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
        "keep_mask": bound.keep_mask,
        "padding": merged.padding,
        "blocks_merged": len(merged.blocks),
        "merge_s": merge_s,
        "onnx_difference": difference,
        "cost": {
            "macs": [network.spec.macs, merged.network.spec.macs],
            "parameters": [network.spec.parameters, merged.network.spec.parameters],
        },
    }


def certificate_line(certificate: Certificate) -> str:
    """The certificate in one line: worst block, interior and border, and the whole network."""
    if not certificate.blocks:
        return "nothing merged: the network is the original"
    interior = max(block.interior_float64.relative for block in certificate.blocks)
    border = max(block.border_float64.relative for block in certificate.blocks)
    return (
        f"certificate ({certificate.padding}), relative errors: worst block {interior:.1e} inside "
        f"and {border:.1e} at the border in float64; whole network "
        f"{certificate.network_float64.relative:.1e} in float64, "
        f"{certificate.network_float32.relative:.1e} in float32"
    )
