"""Whole networks, measured: latencies, speed-ups, what was predicted, and accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from dshrink.front_results import fronts_of
from dshrink.fronts import Front, FrontError
from dshrink.report.content import Block, Cell, Column, Grid, Section, Text, number, word
from dshrink.report.figures.of_results import front_figure, latencies
from dshrink.report.folder import Contents, Held, ResultsFacts
from dshrink.results import BenchmarkResult
from latency_tables.wording import counted

#: A figure with more rows says less than the table does; seeds are in the figure of the front.
_MOST_ROWS = 40


def section(contents: Contents) -> Section | None:
    """All benchmarks, a figure and a table each."""
    if not contents.results:
        return None
    blocks: list[Block] = []
    for held in contents.results:
        blocks += _blocks(held)
    return Section(anchor="networks", title="Whole networks, measured", blocks=tuple(blocks))


def original_of(results: Sequence[BenchmarkResult]) -> BenchmarkResult | None:
    """The network as it is: the one that others are compared with, or that merges nothing."""
    for one in results:
        if one.method == "original" or (one.baseline and one.network == one.baseline):
            return one
    whole = [one for one in results if one.keep_mask and "0" not in one.keep_mask]
    return whole[0] if whole else None


def _blocks(held: Held[ResultsFacts]) -> list[Block]:
    results, stem = held.value.results, _stem(held.file)
    blocks: list[Block] = []
    several_seeds = len({one.seed for one in results}) > 1
    if 0 < sum(one.latency_ms is not None for one in results) <= _MOST_ROWS and not several_seeds:
        blocks.append(latencies(results, f"{stem}_latency"))
    baselines = list(dict.fromkeys(one.baseline for one in results if one.compared))
    if baselines:
        blocks.append(
            Text(
                text=f"Speed-ups are over {', '.join(baselines)}, measured by turns in the same "
                "processes. A network is faster or slower where the 95 % interval of the ratio "
                "leaves 1 out; else these measurements do not tell the two apart."
            )
        )
    blocks.append(_grid(results, f"{stem}_networks", held.file))
    if failed := [one for one in results if one.latency_ms is None]:
        reasons = "; ".join(f"{one.network}: {one.reason or one.verdict}" for one in failed)
        blocks.append(Text(text=f"Not measured: {reasons}."))
    return blocks


def _stem(file: str) -> str:
    return "_".join(PurePosixPath(file).with_suffix("").parts)


_COLUMNS = (
    Column(title="network"),
    Column(title="batch", is_number=True),
    Column(title="kept", hint="blocks that stay as they are", is_number=True),
    Column(title="method"),
    Column(title="seed", is_number=True),
    Column(title="latency ms", hint="what a process expects, a batch", is_number=True),
    Column(title="95 % from", is_number=True),
    Column(title="to", is_number=True),
    Column(title="FPS", hint="frames per second", is_number=True),
    Column(title="speed-up", hint="latency of the baseline by its own", is_number=True),
    Column(title="± ", hint="wider half of the 95 % interval of the speed-up", is_number=True),
    Column(title="compared"),
    Column(title="predicted ms", is_number=True),
    Column(title="error", hint="of the prediction, in per cent", is_number=True),
    Column(title="accuracy", hint="top-1, on validation images", is_number=True),
    Column(title="images", is_number=True),
    Column(title="p99 ms", hint="of single samples", is_number=True),
    Column(title="memory MiB", hint="peak of a process", is_number=True),
    Column(title="mJ a frame", is_number=True),
    Column(title="verdict", hint="whether it is known as precisely as wanted"),
    Column(title="mask"),
    Column(title="file"),
)


def _grid(results: Sequence[BenchmarkResult], name: str, file: str) -> Grid:
    batches = {one.batch for one in results}
    return Grid(
        name=name,
        caption=f"Networks of {file}",
        columns=_COLUMNS,
        rows=tuple(_row(one, several=len(batches) > 1) for one in results),
    )


def _row(one: BenchmarkResult, *, several: bool) -> tuple[Cell, ...]:
    half = None
    if None not in (one.speedup, one.speedup_low, one.speedup_high):
        assert one.speedup and one.speedup_low and one.speedup_high
        half = max(one.speedup - one.speedup_low, one.speedup_high - one.speedup)
    return (
        word(one.network),
        number(one.batch if several else None),
        number(one.kept_blocks),
        word(one.method),
        number(one.seed),
        number(one.latency_ms, ".3f"),
        number(one.low_ms, ".3f"),
        number(one.high_ms, ".3f"),
        number(one.throughput_fps, ".1f"),
        number(one.speedup, ".3f"),
        number(half, ".3f"),
        word(one.compared),
        number(one.predicted_ms, ".3f"),
        number(one.error_percent, "+.1f", " %"),
        number(one.accuracy_percent, ".2f", " %"),
        number(one.validation_images),
        number(one.p99_ms, ".3f"),
        number(one.peak_memory_mib, ".1f"),
        number(one.energy_mj, ".2f"),
        word(one.verdict),
        word(one.keep_mask),
        word(one.file),
    )


def front_section(contents: Contents) -> Section | None:
    """Accuracy against throughput, where networks have both."""
    blocks: list[Block] = []
    for held in contents.results:
        try:
            found = fronts_of(held.value.results, source=held.file)
        except FrontError:  # no accuracy in this file: nothing to draw
            continue
        for at, front in enumerate(found.fronts):
            if len(front.points) < 2:
                continue
            name = f"{_stem(held.file)}_front{at + 1 if len(found.fronts) > 1 else ''}"
            blocks += [front_figure(front, name, _front_title(front)), _front_grid(front, name)]
    if not blocks:
        return None
    text = Text(
        text="Further up is more accurate, further right is faster. A network is on the front "
        "unless another one is better by more than the noise of both. Networks that differ only "
        "in their seed are one point: its bars are 95 % intervals over seeds and images."
    )
    return Section(anchor="front", title="Accuracy against throughput", blocks=(text, *blocks))


def _front_title(front: Front) -> str:
    device, runtime, precision, batch, threads = front.conditions[:5]
    count = counted(int(threads), "thread")
    return f"{device}, {runtime}, {precision}, batch {batch}, {count}"


def _front_grid(front: Front, name: str) -> Grid:
    columns = (
        Column(title="network"),
        Column(title="method"),
        Column(title="kept", is_number=True),
        Column(title="runs", hint="seeds", is_number=True),
        Column(title="FPS", is_number=True),
        Column(title="accuracy", is_number=True),
        Column(title="95 % from", is_number=True),
        Column(title="to", is_number=True),
        Column(title="on the front"),
    )
    rows = []
    for point, on_front in zip(front.points, front.on_front, strict=True):
        accuracy, is_known = point.accuracy_percent, point.has_accuracy_interval
        rows.append(
            (
                word(point.network),
                word(point.method),
                number(point.kept_blocks),
                number(len(point.of_seeds)),
                number(point.throughput_fps.mean, ".1f"),
                number(accuracy.mean, ".2f", " %"),
                number(accuracy.low if is_known else None, ".2f", " %"),
                number(accuracy.high if is_known else None, ".2f", " %"),
                word("yes" if on_front else ""),
            )
        )
    return Grid(
        name=f"{name}_points", caption="Points of the front", columns=columns, rows=tuple(rows)
    )
