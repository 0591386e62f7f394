"""JSON output of ``dshrink paper``: ours beside the published, a shape for each kind of experiment.

The columns are those of the CSV that is written, but that published figures are a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dshrink.operations.paper import PaperOutcome
from dshrink.operations.paper.kim import KimOutcome, headline_records, kim_records
from dshrink.paper.experiments import Listed
from dshrink.paper.report import MemoryRow
from dshrink.paper.results import PaperResult, record


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentsData:
    """The experiments that ``dshrink paper`` can measure."""

    experiments: tuple[Listed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSpeed:
    """What the paper published for a network on one device."""

    device: str
    batch: int
    fps: float
    speedup: float | None
    ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """A network of a table, measured here; null from ``model`` on where it cannot be rebuilt."""

    network: str
    batch: int
    group: str
    form: str
    mask: str | None
    mflops: float | None
    top1_percent: float | None
    keeps_block_0: bool
    missing: str | None
    model: str | None
    resolution: str | None
    keep_mask: str | None
    padding: str | None
    device: str | None
    runtime: str | None
    precision: str | None
    launch: str | None
    threads: int | None
    macs: int | None
    parameters: int | None
    latency_ms: float | None
    low_ms: float | None
    high_ms: float | None
    throughput_fps: float | None
    throughput_low_fps: float | None
    throughput_high_fps: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    compared: str | None
    peak_memory_mib: float | None
    energy_mj: float | None
    verdict: str | None
    reason: str | None
    published: tuple[PublishedSpeed, ...]

    @classmethod
    def of(cls, result: PaperResult) -> PaperRow:
        known = record(result, ())
        known["keeps_block_0"] = result.network.keeps_block_0
        return cls(**known, published=tuple(_published(result)))


def _published(result: PaperResult) -> Iterator[PublishedSpeed]:
    for setting, fps in result.network.fps.items():
        yield PublishedSpeed(
            device=setting.device,
            batch=setting.batch,
            fps=fps,
            speedup=result.published.get(setting),
            ratio=result.ratio(setting),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperData:
    """A table of throughputs: a row a network and batch size."""

    experiment: str
    rows: tuple[PaperRow, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperBlock:
    """A block before and after it is replaced; what is published is of an RTX 2080 Ti."""

    model: str
    block: int
    name: str
    original_ms: float | None
    replaced_ms: float | None
    saving_percent: float | None
    published_original_ms: float | None
    published_replaced_ms: float | None
    published_saving_percent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperBlocks:
    """A figure of blocks, each replaced by its dense counterpart (fig1) or merged (fig4)."""

    experiment: str
    rows: tuple[PaperBlock, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperMemory:
    """The figure of weights and peak activation memory; nothing of it is measured."""

    experiment: str
    rows: tuple[MemoryRow, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KimHeadline:
    """A published result of Kim et al. beside what their own latency table says."""

    model: str
    method: str
    top1_percent: float
    budget_ms: float | None
    published_speedup: float | None
    table_speedup: float | None
    difference_percent: float | None
    unexplained_ms: float | None
    is_feasible: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KimMask:
    """A keep mask of DepthShrinker against the dynamic program's plans on the same tables."""

    mask: str
    keep_mask: str
    predicted_ms: float | None
    importance: float | None
    dp_importance_at_latency: float | None
    dp_ms_at_latency: float | None
    dp_plan_at_latency: str | None
    importance_gain: float | None
    dp_ms_at_importance: float | None
    dp_plan_at_importance: str | None
    faster_percent: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KimData:
    """Kim et al. beside DepthShrinker; ``masks`` is null where no table was given."""

    experiment: str
    headline: tuple[KimHeadline, ...]
    masks: tuple[KimMask, ...] | None
    files: tuple[str, ...]


def paper_data(outcome: PaperOutcome) -> PaperData | PaperBlocks | PaperMemory | KimData:
    """The outcome in the shape of its experiment."""
    files = tuple(map(str, outcome.files))
    if outcome.kim is not None:
        return _kim_data(outcome.kim, files)
    assert outcome.experiment is not None
    name = outcome.experiment.name
    if outcome.memory:
        return PaperMemory(experiment=name, rows=outcome.memory, files=files)
    if outcome.blocks:
        blocks = tuple(PaperBlock(**one) for one in outcome.records)
        return PaperBlocks(experiment=name, rows=blocks, files=files)
    rows = tuple(PaperRow.of(one) for run in outcome.runs for one in run.results)
    return PaperData(experiment=name, rows=rows, files=files)


def _kim_data(found: KimOutcome, files: tuple[str, ...]) -> KimData:
    compared = found.comparisons is not None
    return KimData(
        experiment="kim",
        headline=tuple(KimHeadline(**one) for one in headline_records(found)),
        masks=tuple(KimMask(**one) for one in kim_records(found)) if compared else None,
        files=files,
    )
