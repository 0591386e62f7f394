"""Networks exported to ONNX by torch and read back: the same chain and spans, the same merge.

    python benchmarks/onnx_round_trip.py [--out results/onnx_round_trip.md] [NAME[@RESOLUTION] ...]

Each network has random weights and norms, is exported with its batch left open, read back, merged
throughout (every block that merges) and written as the edited file. Both merged files run in ONNX
Runtime on the same random images; the difference is the largest one, relative to the largest value.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from dshrink.merge.activations import WeightsOrigin
from dshrink.merge.certified_export import export_merged
from dshrink.network.chain import span_chain
from dshrink.network.lowering import lower
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load_network, randomise
from dshrink.network.onnx_files.runtime import run_onnx
from dshrink.network.tracing import trace
from dshrink.version import __version__
from latency_tables.files import write_atomically

NAMES = ("mobilenetv2_100", "resnet50", "repvgg_a0", "mobileone_s0@96", "yolo@96", "net@64")
BATCH = 2


class Unit(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Unit(width, width, 3), Unit(width, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = x + self.second(self.first(x))
        return added


class CrossStage(nn.Module):
    """As in YOLOv8: split, bottlenecks one after the other, and all of them concatenated."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.half = width // 2
        self.enter, self.leave = Unit(width, width), Unit(self.half * (2 + depth), width)
        self.parts = nn.ModuleList(Bottleneck(self.half) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = list(self.enter(x).split(self.half, 1))
        for part in self.parts:
            found.append(part(found[-1]))
        left: torch.Tensor = self.leave(torch.cat(found, 1))
        return left


class InvertedResidual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.layers = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def own(name: str) -> nn.Module:
    """A YOLO-like backbone with split and concat, or a small network that has none of these."""
    blocks = [InvertedResidual(16), InvertedResidual(16)]
    middle = [CrossStage(16, 2), Unit(16, 16, 3, 2), *blocks] if name == "yolo" else blocks
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    return nn.Sequential(Unit(3, 16, 3, 2), *middle, *ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is the same, and the largest relative difference of the merged files."""

    name: str
    same_chain: bool
    same_spans: bool
    merged: str
    difference: float


def network_of(name: str, resolution: int) -> Network:
    if name not in ("yolo", "net"):
        return load_network(name, resolution=resolution, weights="random")
    torch.manual_seed(0)
    module = own(name)
    randomise(module, (3, resolution, resolution))
    traced = trace(module, (3, resolution, resolution))
    return Network(name=name, module=traced, lowered=lower(traced))


def merged_file(network: Network, file: Path) -> str:
    """The network with every block merged that can be; which blocks."""
    mask = "".join("1" if block.unmergeable else "0" for block in network.blocks)
    certificate = file.with_suffix(".json")
    changes = rewriting(network, mask)
    export_merged(
        network,
        changes,
        file,
        padding="repad",
        certificate_file=certificate,
        origin=WeightsOrigin(trained="never", whose="random weights"),
        batch=BATCH,
    )
    return f"{mask.count('0')} of {len(mask)} blocks"


def round_trip(name: str, resolution: int, folder: Path) -> Row:
    network = network_of(name, resolution)
    exported = folder / f"{name}.onnx"
    image = torch.randn(
        BATCH, 3, resolution, resolution, generator=torch.Generator().manual_seed(1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one
        torch.onnx.export(
            network.module,
            (image,),
            str(exported),
            dynamo=False,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        )
    back = load_network(str(exported), resolution=resolution)
    ours, theirs = (span_chain(one.chain) for one in (network, back))
    files = folder / f"{name}_merged.onnx", folder / f"{name}_back_merged.onnx"
    merged = merged_file(network, files[0])
    merged_file(back, files[1])
    expected, result = (run_onnx(file.read_bytes(), image.numpy()) for file in files)
    return Row(
        name=f"{name}, {resolution}",
        same_chain=(ours.mask, ours.skips) == (theirs.mask, theirs.skips),
        same_spans=network.chain.spans() == back.chain.spans(),
        merged=merged,
        difference=float(np.abs(result - expected).max() / np.abs(expected).max()),
    )


def page(rows: Sequence[Row]) -> str:
    lines = [
        "# ONNX files read back",
        "",
        f"`python benchmarks/onnx_round_trip.py`, {date.today().isoformat()}: dshrink "
        f"{__version__}, torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime "
        f"{onnxruntime.__version__}, Python {platform.python_version()}.",
        "",
        "| network, pixels | same chain | same spans | merged | largest relative difference |",
        "|---|---|---|---|---|",
    ]
    said = {True: "yes", False: "no"}
    lines += [
        f"| {row.name} | {said[row.same_chain]} | {said[row.same_spans]} | {row.merged} | "
        f"{row.difference:.1e} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for text in given.names:
            name, _, resolution = text.partition("@")
            rows.append(round_trip(name, int(resolution or 224), Path(folder)))
            print(rows[-1], flush=True)
    if given.out:
        write_atomically(given.out, page(rows))


if __name__ == "__main__":
    main()
