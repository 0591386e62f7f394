"""Measure an experiment of the paper on a device; write tables and pictures beside the published.

Every file carries the name of its experiment, so that several share a folder. Journals and latency
tables stay there: the same call resumes an interrupted run, and a finished one measures nothing.
"""

from __future__ import annotations

from dshrink.operations.paper.blocks import measure_blocks
from dshrink.operations.paper.kim import compare_kim, write_kim
from dshrink.operations.paper.request import PADDING, PaperOutcome, PaperRequest, SpeedRun
from dshrink.operations.paper.speeds import measure_speeds
from dshrink.paper.experiments import KIM, BlockExperiment, PaperError, experiment
from dshrink.progress import Notice, OnProgress, no_notice, no_progress

__all__ = ["PADDING", "PaperOutcome", "PaperRequest", "SpeedRun", "measure_experiment"]


def measure_experiment(
    request: PaperRequest, *, on_progress: OnProgress = no_progress, notice: Notice = no_notice
) -> PaperOutcome:
    """Measure, and write CSV, JSON, Markdown and pictures. Raises PaperError."""
    _check(request)
    if request.experiment == KIM:
        return _kim(request)
    found = experiment(request.experiment)
    if isinstance(found, BlockExperiment):
        return measure_blocks(found, request, on_progress, notice)
    return measure_speeds(found, request, on_progress, notice)


def _check(request: PaperRequest) -> None:
    for_kim = (request.table, request.importance, request.plans, request.allow_unfit)
    if request.experiment != KIM and any(for_kim):
        raise PaperError(
            f"--table, --importance, --plan and --allow-unfit are for kim, not {request.experiment}"
        )
    if request.experiment == KIM and (request.batches or request.unmerged):
        raise PaperError("kim measures nothing: it takes neither --batch nor --unmerged")


def _kim(request: PaperRequest) -> PaperOutcome:
    found = compare_kim(
        table=request.table,
        importance=request.importance,
        plans=request.plans,
        allow_unfit=request.allow_unfit,
    )
    records, files = write_kim(found, request.folder / KIM)
    return PaperOutcome(experiment=None, kim=found, records=records, files=files)
