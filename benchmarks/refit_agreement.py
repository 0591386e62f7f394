"""Agreement of merged networks with their original on photographs, refitted without labels.

    python benchmarks/refit_agreement.py --out DIR [--table DIR] [--only single growing]

EfficientNet-Lite0 with pre-trained weights at 224x224. Half of 38 photographs are fitted (152
random crops), the others are tested (95 crops): each block merged alone (its convolution
refitted), growing plans in the order
of what they save on the table for what a refit loses, and the first two by the number of
photographs. Weights and photographs come from packages of the registry
(``photographs.py``). Results so far are in ``DIR/results.jsonl``: the same command goes on.
The page is made by ``refit_pages.py``. Allow an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photographs import MODEL, fetch, trained_network
from torch import Tensor, nn

from dshrink.merge.merged_network import MergedNetwork, MergedRegion, merge_network
from dshrink.merge.padding import merge
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.mask_changes import Rewriting, rewriting
from dshrink.network.models import Network
from dshrink.network.references import ModelChoice
from dshrink.operations.profile import profile_network
from dshrink.refit.distances import result_error
from dshrink.refit.images import CROPS, CalibrationImages, calibration_images
from dshrink.refit.linearised import linearised_graph
from dshrink.refit.network_refit import refit_network
from dshrink.refit.stream import Stream
from dshrink.train.batches import ImageDataset
from dshrink.train.image_sets import Split, open_unlabelled
from dshrink.train.opening import preprocessing_for
from dshrink.train.tuning import recalibrate
from latency_tables.io import load_table
from latency_tables.predictor import predict
from profiler.target import Target

RESULTS = Path(__file__).parent / "results"
NAME = "refit_agreement_local"
CPU = torch.device("cpu")
PADDING = "repad"
FIT_CROPS, TEST_CROPS_EACH = 152, 5
#: Blocks of the largest plan.
MOST = 4
#: What a refit keeps well, whatever it saves.
OTHER_BLOCKS = (4, 6, 7, 9)
METHODS = ("algebraic", "recalibrated", "linearised", "merged only", "refit")
TITLES = {
    "algebraic": "algebraic merge",
    "recalibrated": "norms recalibrated",
    "linearised": "linearised, then merged",
    "merged only": "refit of merged convolutions only",
    "refit": "refit",
}


@dataclass(kw_only=True)
class Bench:
    network: Network
    fit: Split
    test: Tensor
    wanted: Tensor
    file: Path
    known: dict[str, dict[str, Any]]

    def measured(
        self,
        key: str,
        blocks: Sequence[int],
        *,
        photographs: int | None = None,
        images: int = FIT_CROPS,
        methods: Sequence[str] = METHODS,
    ) -> dict[str, Any]:
        """A plan's result by method; measured now, unless the file has it."""
        if key in self.known:
            return self.known[key]
        mask = "".join("0" if n in blocks else "1" for n in range(len(self.network.blocks)))
        changes = rewriting(self.network, mask, free_activation=False)
        calibration = calibration_images(
            first_photographs(self.fit, photographs),
            preprocessing_for(self.network),
            count=images,
            seed=0,
            device=CPU,
        )
        found: dict[str, Any] = {"key": key, "blocks": list(blocks), "mask": mask, "methods": {}}
        for method in methods:
            start = time.perf_counter()
            module, about = self.made(method, changes, calibration)
            seconds = time.perf_counter() - start
            found["methods"][method] = {
                **self.tested(module),
                **about,
                "seconds": round(seconds, 1),
            }
            print(key, method, f"{found['methods'][method]['agreement']:.1f} %", flush=True)
        with self.file.open("a") as stream:
            stream.write(json.dumps(found) + "\n")
        self.known[key] = found
        return found

    def made(
        self, method: str, changes: Rewriting, calibration: CalibrationImages
    ) -> tuple[nn.Module, dict[str, Any]]:
        network = self.network
        match method:
            case "algebraic":
                return merge_network(network, changes, padding=PADDING).module(torch.float32), {}
            case "recalibrated":
                module = unmerged_module(network, changes, padding=PADDING)
                batches = list(calibration.fit)
                joined = [torch.cat(batches[at : at + 4]) for at in range(0, len(batches), 4)]
                labels = torch.zeros(32, dtype=torch.long)
                recalibrate(module, ((batch, labels[: len(batch)]) for batch in joined))
                return module, {}
            case "linearised":
                return self.linearised(changes, calibration), {}
        refitted = refit_network(
            network,
            changes,
            calibration.fit,
            calibration.held_out,
            padding=PADDING,
            merged_only=method == "merged only",
        )
        merged = [fit for fit in refitted.fits if fit.merged]
        return refitted.module, {
            "held_out_error": refitted.error,
            "explained": [fit.explained for fit in merged],
            "ridges": [fit.ridge for fit in merged],
        }

    def linearised(self, changes: Rewriting, calibration: CalibrationImages) -> nn.Module:
        regions = []
        for region in changes.regions:
            stream = Stream(module=self.network.module, images=calibration.fit)
            graph = linearised_graph(self.network, region, stream)
            regions.append(MergedRegion(region=region, graph=graph, merged=merge(graph, PADDING)))
        merged = MergedNetwork(
            source=self.network, changes=changes, padding=PADDING, regions=tuple(regions)
        )
        return merged.module(torch.float32)

    @torch.inference_mode()
    def tested(self, module: nn.Module) -> dict[str, Any]:
        result = torch.cat([module(batch) for batch in self.test.split(8)])
        same = result.argmax(dim=1) == self.wanted.argmax(dim=1)
        by_photograph = same.reshape(TEST_CROPS_EACH, -1).float().mean(dim=0)
        low, high = interval(by_photograph.numpy())
        near = (result.topk(5).indices == self.wanted.argmax(dim=1)[:, None]).any(dim=1)
        return {
            "agreement": 100 * float(same.float().mean()),
            "low": low,
            "high": high,
            "in_top5": 100 * float(near.float().mean()),
            "error": result_error(self.wanted, result),
        }


def interval(shares: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 %, in percent, by drawing photographs with replacement, for crops of one are alike."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(shares), size=(4000, len(shares)))
    low, high = np.percentile(shares[drawn].mean(axis=1), (2.5, 97.5))
    return 100 * float(low), 100 * float(high)


class _First:
    """The first images of a data set of timm's."""

    def __init__(self, source: Any, count: int) -> None:
        self.reader = _Reader(source.reader, count)

    def __len__(self) -> int:
        return len(self.reader.samples)


class _Reader:
    def __init__(self, reader: Any, count: int) -> None:
        self.samples = reader.samples[:count]
        self._reader = reader

    def __getitem__(self, number: int) -> Any:
        return self._reader[number]


def first_photographs(split: Split, count: int | None) -> Split:
    if count is None:
        return split
    return Split(
        name=split.name, source=_First(split.source, count), mode=split.mode, folder=split.folder
    )


def crops(network: Network, split: Split, each: int, seed: int) -> Tensor:
    """``each`` crops of every photograph, one round after the other."""
    preprocessing = preprocessing_for(network)
    dataset = ImageDataset(split, preprocessing.transform(CROPS), seed, replace=False)
    pixels = torch.stack([dataset[place].pixels for place in range(each * len(split))])
    return preprocessing.normalise(pixels)


def savings_ms(folder: Path) -> list[float]:
    """What merging each block alone saves, by the table."""
    table = load_table(folder)
    count = len(table.block_names)
    whole = predict(table, "1" * count, PADDING).latency_ms

    def saved(block: int) -> float:
        mask = "".join("0" if n == block else "1" for n in range(count))
        return whole - predict(table, mask, PADDING).latency_ms

    return [saved(block) for block in range(count)]


def opened(folder: Path) -> Bench:
    fetch(folder)
    network = trained_network(folder)
    fit, _ = open_unlabelled(str(folder / "fit"))
    held, _ = open_unlabelled(str(folder / "test"))
    test = crops(network, held, TEST_CROPS_EACH, seed=1)
    with torch.inference_mode():
        wanted = torch.cat([network.module(batch) for batch in test.split(8)])
    file = folder / "results.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    known = {entry["key"]: entry for entry in map(json.loads, lines)}
    return Bench(network=network, fit=fit, test=test, wanted=wanted, file=file, known=known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    table = asked.table or asked.out / "table"
    if not (table / "table.json").exists():
        profile_network(ModelChoice(model=MODEL), table, Target(device="local"), notice=print)
    bench, savings = opened(asked.out), savings_ms(table)
    for part in asked.only:
        PARTS[part](bench, savings)


def order_of(bench: Bench, savings: Sequence[float]) -> list[int]:
    """Blocks that save time, by what each loses on the held-out images for what it saves."""
    worth = [block for block, saved in enumerate(savings) if saved > 0]
    single = {block: measured_alone(bench, block) for block in worth}
    errors = {n: one["methods"]["merged only"]["held_out_error"] for n, one in single.items()}
    return sorted(errors, key=lambda block: errors[block] / savings[block])


def growing(bench: Bench, savings: Sequence[float]) -> None:
    order = order_of(bench, savings)
    for count in range(2, MOST + 1):
        methods = METHODS if count in (2, 4) else ("algebraic", "recalibrated", "refit")
        bench.measured(f"growing {count}", sorted(order[:count]), methods=methods)


def others(bench: Bench, savings: Sequence[float]) -> None:
    bench.measured("other 4", OTHER_BLOCKS)


def crops_of_each(bench: Bench, savings: Sequence[float]) -> None:
    order, images = order_of(bench, savings), 3 * FIT_CROPS
    for blocks in (sorted(order[:2]), sorted(order[:3])):
        key = f"crops {images} of {' '.join(map(str, blocks))}"
        bench.measured(key, blocks, images=images, methods=("refit",))


def photographs(bench: Bench, savings: Sequence[float]) -> None:
    blocks = sorted(order_of(bench, savings)[:2])
    for count in (2, 4, 8, 12, len(bench.fit)):
        bench.measured(f"photographs {count}", blocks, photographs=count, methods=("merged only",))


def time_and_memory(bench: Bench, savings: Sequence[float]) -> None:
    """To be asked for alone: the peak of memory is that of the whole process."""
    bench.measured("time", range(len(savings)), images=64, methods=("refit",))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    with bench.file.open("a") as stream:
        stream.write(json.dumps({"key": "memory", "peak_gib": peak}) + "\n")


def singles(bench: Bench, savings: Sequence[float]) -> None:
    for block in range(len(savings)):
        measured_alone(bench, block)


PARTS = {
    **{"growing": growing, "others": others, "crops": crops_of_each},
    **{"photographs": photographs, "time": time_and_memory, "single": singles},
}


def measured_alone(bench: Bench, block: int) -> dict[str, Any]:
    return bench.measured(f"single {block}", [block], methods=("algebraic", "merged only"))


if __name__ == "__main__":
    main()
