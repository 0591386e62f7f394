"""The networks that a study made: the result of each, and the speed of its structure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dshrink.results import BenchmarkResult
from dshrink.study.folders import MergedStep
from dshrink.study.report import RowResult
from dshrink.study.rows import StudyContext
from dshrink.study.steps import MERGE, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyNetwork:
    """One network in its ONNX file; ``epochs`` are all that its weights were trained for."""

    step: Step
    merged: MergedStep
    file: Path
    epochs: int


def study_networks(context: StudyContext) -> list[StudyNetwork]:
    """All networks that are done, in the order of the steps. Raises StudyError."""
    folders, found = context.folders, []
    for name, step in folders.steps.items():
        merged = folders.result(name, MergedStep) if step.kind == MERGE else None
        if merged is not None:
            file = folders.folder(name) / merged.file
            epochs = folders.epochs(name)
            found.append(StudyNetwork(step=step, merged=merged, file=file, epochs=epochs))
    return found


def result_row(
    context: StudyContext, network: StudyNetwork, measured: BenchmarkResult
) -> BenchmarkResult:
    """A network's row of results: its own facts, and the measured speed of its structure."""
    merged = network.merged
    return replace(
        measured,
        network=merged.file,
        keep_mask=merged.keep_mask,
        kept_blocks=merged.keep_mask.count("1") if merged.keep_mask else None,
        macs=merged.macs,
        parameters=merged.parameters,
        file=str(network.file),
        method=network.step.method,
        seed=network.step.seed,
        accuracy_percent=merged.accuracy_percent,
        data=context.folders.identity["data"],
        recipe=context.recipe.name,
        validation_images=merged.validation_images,
    )


def report_row(network: StudyNetwork, measured: BenchmarkResult) -> RowResult:
    """A network's row of the report."""
    step, merged = network.step, network.merged
    return RowResult(
        method=step.method,
        place=step.goal.name if step.goal else step.narrower or "",
        seed=step.seed,
        accuracy_percent=merged.accuracy_percent,
        throughput_fps=measured.throughput_fps,
        macs=merged.macs,
        epochs=network.epochs,
        differing=merged.differing,
        validation_images=merged.validation_images,
    )
