"""An experiment's report as Markdown: conditions, our rows beside the published ones, notes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dshrink.markdown import markdown_table
from dshrink.paper.experiments import UNMERGED, BlockExperiment, Experiment
from dshrink.paper.published import SOURCE, Setting
from dshrink.paper.results import PaperResult, reference


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """A block before and after; ``published`` are (original, replaced) in ms on the 2080 Ti."""

    model: str
    block: int
    name: str
    original_ms: float | None
    replaced_ms: float | None
    published: tuple[float, float] | None = None

    @property
    def saving_percent(self) -> float | None:
        if not self.original_ms or self.replaced_ms is None:
            return None
        return 100.0 * (1.0 - self.replaced_ms / self.original_ms)

    @property
    def published_saving_percent(self) -> float | None:
        return 100.0 * (1.0 - self.published[1] / self.published[0]) if self.published else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """A block at 16 bit and one image, in KiB, before and after merging; None: it cannot merge.

    A peak is the largest sum of input, output and residual of one convolution of the block.
    """

    model: str
    block: int
    name: str
    weights_kib: float
    peak_kib: float
    merged_weights_kib: float | None
    merged_peak_kib: float | None


def heading(experiment: Experiment | BlockExperiment) -> str:
    """ "Table 2: MobileNetV2-1.4 shrunk"."""
    name = experiment.name.replace("table", "Table ").replace("fig", "Figure ")
    return f"{name}: {experiment.title}"


def speed_lines(
    experiment: Experiment,
    runs: Sequence[tuple[str, Setting, Sequence[PaperResult]]],
    *,
    about: Sequence[str] = (),
) -> list[str]:
    """The report of a table of throughputs, of runs (title, setting, rows).

    ``title`` says where and how; ``about`` are further sentences on how they were made.
    """
    lines = [f"# {heading(experiment)} (DepthShrinker)", "", f"Published: {SOURCE}."]
    lines += [line for sentence in about for line in ("", sentence)]
    measured = {here for _, here, _ in runs}
    for title, here, results in runs:
        lines += ["", f"## {title}", ""]
        lines += _table(experiment, here, results)
        lines += [line for note in notes(experiment, measured, results) for line in ("", note)]
    return lines


def _table(experiment: Experiment, here: Setting, results: Sequence[PaperResult]) -> list[str]:
    against = reference(experiment.settings, here)
    heads = ["network", "MFLOPs (published)", "top-1 % (published)", "latency ms (95 %)", "FPS"]
    heads += ["speed-up (95 %)", *(f"{one.title}, published" for one in experiment.settings)]
    heads += [f"ours / {against.title}"] if against else []
    rows = []
    for one in results:
        cells = [one.network.name, *_counts(one), *_measured(one)]
        cells += [
            _number(one.published.get(setting), ".2f", "x") for setting in experiment.settings
        ]
        cells += [_number(one.ratio(against), ".2f")] if against else []
        rows.append(cells)
    return markdown_table(heads, rows)


def _counts(one: PaperResult) -> list[str]:
    published = f" ({one.network.mflops:g})" if one.network.mflops else ""
    return [
        _number(one.macs_millions, ".0f") + published if one.macs_millions else published.strip(),
        _number(one.network.top1_percent, ".2f"),
    ]


def _measured(one: PaperResult) -> list[str]:
    found = one.measured
    if found is None:
        return ["not measured", "", ""]
    if found.latency_ms is None:
        return [found.verdict, "", ""]
    latency = f"{found.latency_ms:.3f} ({found.low_ms:.3f} to {found.high_ms:.3f})"
    return [latency, _number(found.throughput_fps, ".1f"), speedup(one)]


def speedup(one: PaperResult) -> str:
    """As "1.52x (1.50 to 1.54)"."""
    found = one.measured
    if found is None or found.speedup is None:
        return ""
    ends = f" ({found.speedup_low:.3f} to {found.speedup_high:.3f})" if found.speedup_low else ""
    return f"{found.speedup:.3f}x{ends}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def notes(
    experiment: Experiment, measured: Collection[Setting], results: Sequence[PaperResult]
) -> list[str]:
    """What a reader must know of the rows; ``measured`` are the settings of all runs."""
    found = []
    first = dict.fromkeys(one.network.group for one in results)
    bases = [next(r.network.name for r in results if r.network.group == group) for group in first]
    found.append(
        f"Speed-ups are over {', '.join(bases)}: ratios of networks measured by turns in the same "
        "processes, with the 95 % interval of the ratio."
    )
    if any(one.network.form == UNMERGED for one in results):
        found.append(
            "Unmerged: the activations are removed and the convolutions are all there; what the "
            "merged network is faster than that is what merging brings."
        )
    if any(one.network.keeps_block_0 for one in results):
        found.append(
            "Block 0 kept: the mask merges it, but by its published MFLOPs the paper's network has "
            "it unmerged (the authors' code removes its activation only)."
        )
    found += experiment.remarks
    for reason, names in _missing(results).items():
        found.append(f"Not measured: {', '.join(names)} ({reason}).")
    waiting = [setting.title for setting in experiment.settings if setting not in measured]
    if waiting:
        found.append(f"Not measured by us: {'; '.join(waiting)}.")
    return found


def _missing(results: Iterable[PaperResult]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in results:
        if one.network.missing:
            found.setdefault(one.network.missing, []).append(one.network.name)
    return found


def block_lines(experiment: BlockExperiment, title: str, rows: Sequence[BlockRow]) -> list[str]:
    """The report of a figure of blocks; ``title`` says where they were measured."""
    with_published = any(row.published for row in rows)
    what = {"dense": "dense counterpart", "merged": "merged"}[experiment.kind]
    heads = ["network", "block", "original ms", f"{what} ms", "saves"]
    heads += ["published original ms", "published merged ms", "saves"] if with_published else []
    cells = []
    for row in rows:
        own = [row.model, f"{row.block} ({row.name})", _number(row.original_ms, ".3f")]
        own += [_number(row.replaced_ms, ".3f"), _number(row.saving_percent, ".1f", " %")]
        if with_published:
            own += [_number(ms, ".2f") for ms in row.published or (None, None)]
            own += [_number(row.published_saving_percent, ".1f", " %")]
        cells.append(own)
    lines = [f"# {heading(experiment)} (DepthShrinker)", "", f"Published: {SOURCE}."]
    where = "in the network" if experiment.kind == "merged" else "measured alone"
    lines += ["", f"## {title}", "", f"Latencies are those {where}.", ""]
    lines += markdown_table(heads, cells)
    savings = [row.saving_percent for row in rows if row.saving_percent is not None]
    if savings:
        said = f"A block saves {max(savings):.1f} % at most, {min(savings):.1f} % at least."
        if experiment.most_percent:
            said += f" The paper states up to {experiment.most_percent:g} % on an RTX 2080 Ti."
        lines += ["", said]
    if with_published:
        lines += [
            "",
            "Published latencies: RTX 2080 Ti, PyTorch, from the configurations of the authors' "
            "code (batch 1024, by their sum; the authors state none).",
        ]
    return lines


def memory_lines(experiment: BlockExperiment, rows: Sequence[MemoryRow]) -> list[str]:
    """The report of the figure of memory."""
    heads = (
        *("network", "block", "weights KiB", "merged weights KiB"),
        *("peak activations KiB", "merged peak KiB"),
    )
    cells = [
        [
            row.model,
            f"{row.block} ({row.name})",
            _number(row.weights_kib, ".1f"),
            _number(row.merged_weights_kib, ".1f"),
            _number(row.peak_kib, ".1f"),
            _number(row.merged_peak_kib, ".1f"),
        ]
        for row in rows
    ]
    return [
        f"# {heading(experiment)} (DepthShrinker)",
        "",
        f"Published as a drawing: {SOURCE}.",
        "",
        "One image at 16 bit; counted, so the same on every device.",
        "",
        *markdown_table(heads, cells),
    ]
