"""Frames per second on a GPU: TensorRT and PyTorch, plain launches and CUDA graphs, side by side.

    python benchmarks/gpu_side_by_side.py --out DIR [--device local_gpu] [--batch N] [--repeats N]

Measures a network and its all-merged form under every set of conditions by turns, the order
shuffled in each repeat, so that a GPU that warms up favours none. Each turn is a whole
``dshrink bench`` of its own; one that is done already is not done again. Writes, next to this file,
into results/, a CSV of all turns and a page with the ratios to the first conditions.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from devices.errors import DevicesError
from dshrink.operations.bench import bench_networks
from dshrink.results import BenchmarkResult
from dshrink.version import __version__
from profiler.errors import ProfilerError
from profiler.statistics import median
from profiler.target import Target

MODEL = "mobilenetv2_140"
REPEATS = 3
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Way:
    """One way to run the network."""

    runtime: str
    launch: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.launch} {self.precision}"


#: The first one is what the others are compared with.
WAYS = tuple(
    Way(runtime, launch, precision)
    for precision in ("fp32", "fp16")
    for runtime in ("tensorrt", "pytorch")
    for launch in ("plain", "cuda_graph")
)


@dataclass(frozen=True)
class Turn:
    """The results of one way in one repeat."""

    repeat: int
    way: Way
    results: Sequence[BenchmarkResult]


def measure(
    ways: Sequence[Way],
    folder: Path,
    device: str,
    model: str,
    plans: Sequence[str],
    batch: int | None,
    repeats: int,
) -> tuple[list[Turn], list[str]]:
    """Every way in every repeat, in a new order each time; and what could not be measured."""
    turns: list[Turn] = []
    failed: list[str] = []
    for repeat in range(repeats):
        order = random.Random(repeat).sample(ways, len(ways))
        for way in order:
            target = Target(
                device=device,
                runtime=way.runtime,
                precision=way.precision,
                launch=way.launch,
                batch=batch,
            )
            name = way.name.replace(" ", "-")
            file = folder / f"{name}-{repeat}.csv"
            _share_timing_cache(folder, name, repeat)
            try:
                results = bench_networks([model], file, target, plans=plans, notice=print)
            except (ProfilerError, DevicesError) as error:
                failed.append(f"{way.name}, repeat {repeat}: {error}")
            else:
                turns.append(Turn(repeat, way, results))
    return turns, failed


def _share_timing_cache(folder: Path, name: str, repeat: int) -> None:
    """What the first repeat learned from building, for the others."""
    if repeat:
        place = folder / f"{name}-{repeat}.journal"
        place.mkdir(parents=True, exist_ok=True)
        for cache in (folder / f"{name}-0.journal").glob("timing_cache-*"):
            shutil.copy(cache, place)


def ratios(turns: Sequence[Turn], ways: Sequence[Way]) -> Mapping[tuple[str, str], list[float]]:
    """(way, network) to its throughput over that of the first way, a value a repeat."""
    fps = {
        (turn.repeat, turn.way, result.network): result.throughput_fps
        for turn in turns
        for result in turn.results
    }
    found: dict[tuple[str, str], list[float]] = {}
    for (repeat, way, network), value in fps.items():
        base = fps.get((repeat, ways[0], network))
        if value and base:
            found.setdefault((way.name, network), []).append(value / base)
    return found


def page(turns: Sequence[Turn], ways: Sequence[Way], about: str, missing: Sequence[str]) -> str:
    """The summary as a page."""
    compared = ratios(turns, ways)
    lines = [
        "# Frames per second on a GPU, side by side",
        "",
        about,
        "",
        f"Ratios are to `{ways[0].name}`, within each repeat; the median, smallest and largest of "
        "them. FPS is the median over the repeats.",
        "",
        "| way | network | FPS | ratio | smallest | largest | verdicts | built |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (way, network), values in sorted(compared.items()):
        of_way = [
            result
            for turn in turns
            for result in turn.results
            if turn.way.name == way and result.network == network
        ]
        fps = median([r.throughput_fps for r in of_way if r.throughput_fps])
        verdicts = ", ".join(sorted({r.verdict for r in of_way}))
        built = ", ".join(sorted({r.built_precision for r in of_way}))
        lines.append(
            f"| {way} | {network} | {fps:.1f} | {median(values):.3f} | {min(values):.3f} "
            f"| {max(values):.3f} | {verdicts} | {built} |"
        )
    failed = [f"- {one}" for one in missing] + [
        f"- {turn.way.name}, {result.network}: {result.reason}"
        for turn in turns
        for result in turn.results
        if result.latency_ms is None
    ]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else [])]) + "\n"


def write_csv(turns: Sequence[Turn], file: Path) -> None:
    """All turns, a line a network."""
    with file.open("w", newline="") as stream:
        writer: csv.DictWriter[str] | None = None
        for turn in turns:
            for result in turn.results:
                row = {"repeat": turn.repeat, **asdict(result)}
                writer = writer or csv.DictWriter(stream, list(row), lineterminator="\n")
                if not stream.tell():
                    writer.writeheader()
                writer.writerow(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="local_gpu")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--plan", nargs="*", default=["mask:" + "1" + "0" * 16])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--runtime", nargs="+", choices=sorted({way.runtime for way in WAYS}))
    parser.add_argument("--precision", nargs="+")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="gpu_side_by_side")
    given = parser.parse_args()
    ways = [
        way
        for way in WAYS
        if (not given.runtime or way.runtime in given.runtime)
        and (not given.precision or way.precision in given.precision)
    ]
    if not ways:
        known = ", ".join(way.name for way in WAYS)
        parser.error(f"nothing is left to measure of {known}")
    given.out.mkdir(parents=True, exist_ok=True)
    turns, failed = measure(
        ways, given.out, given.device, given.model, given.plan, given.batch, given.repeats
    )
    if not turns:
        parser.error("; ".join(failed))
    first = turns[0].results[0]
    about = (
        f"{first.model} on {first.device}, batch {first.batch}, {given.repeats} repeats; "
        f"dshrink {__version__}, {datetime.now(UTC):%Y-%m-%d}. "
        f"`python benchmarks/gpu_side_by_side.py --out DIR`."
    )
    given.results.mkdir(exist_ok=True, parents=True)
    write_csv(turns, given.results / f"{given.name}.csv")
    text = page(turns, ways, about, failed)
    (given.results / f"{given.name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
