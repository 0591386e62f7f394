"""What is asked of an experiment of the paper, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dshrink.operations.bench_run import BenchmarkRun
from dshrink.operations.paper.kim import KimOutcome
from dshrink.paper.experiments import BlockExperiment, Experiment
from dshrink.paper.published import Setting
from dshrink.paper.report import BlockRow, MemoryRow, heading
from dshrink.paper.results import PaperResult
from latency_tables.schema import Conditions
from profiler.target import Target

#: Of merged blocks: one convolution with all of its padding in front, as the paper counts them.
PADDING = "repad"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRequest:
    """What is asked for; ``batches`` are the experiment's own where none are given.

    With ``unmerged`` each shrunk network is also timed with its activations removed and nothing
    merged. ``padding`` is that of merged blocks. From ``table`` on it is for ``kim`` alone, which
    measures nothing.
    """

    experiment: str
    folder: Path
    target: Target
    batches: tuple[int, ...] = ()
    unmerged: bool = False
    padding: str = PADDING
    seed: int = 0
    table: Path | None = None
    importance: Path | None = None
    plans: tuple[str, ...] = ()
    allow_unfit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRun:
    """The rows of one batch size, and the benchmark that they come from.

    ``setting`` is the published one that it would be: the device is the kind of the one measured.
    """

    run: BenchmarkRun
    setting: Setting
    results: tuple[PaperResult, ...]

    @property
    def conditions(self) -> Conditions:
        return self.run.conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperOutcome:
    """What came out: ``runs`` of throughputs, ``blocks`` or ``memory`` of blocks, or ``kim``.

    ``where`` says in words what the latencies of blocks were measured on.
    """

    experiment: Experiment | BlockExperiment | None
    kim: KimOutcome | None = None
    runs: tuple[SpeedRun, ...] = ()
    blocks: tuple[BlockRow, ...] = ()
    where: str = ""
    memory: tuple[MemoryRow, ...] = ()
    records: tuple[Mapping[str, Any], ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """Of a table or figure."""
        return heading(self.experiment) if self.experiment else ""

    @property
    def failed(self) -> bool:
        """Whether a network or a block that is in the device's results could not be measured."""
        rows = [one.measured for run in self.runs for one in run.results]
        return any(row is not None and row.latency_ms is None for row in rows) or any(
            row.original_ms is None for row in self.blocks
        )

    @property
    def speeds(self) -> Experiment:
        """Of a table of throughputs."""
        assert isinstance(self.experiment, Experiment)
        return self.experiment

    @property
    def replaced(self) -> str:
        """What a block of a figure becomes."""
        assert isinstance(self.experiment, BlockExperiment)
        return self.experiment.kind

    @property
    def most_percent(self) -> float | None:
        """The largest saving of a block that the paper states."""
        return getattr(self.experiment, "most_percent", None)
