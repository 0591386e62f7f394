"""Measure what removed activations cost in accuracy, span by span."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dshrink.importance.journal import Shard
from dshrink.importance.run import ImportanceResult, ImportanceRun
from dshrink.importance.settings import ImportanceSettings
from dshrink.operations.merged_weights import require_whole
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from profiler.scheduling.dask_connection import connect


def measure_importance(
    settings: ImportanceSettings,
    file: Path | str,
    *,
    shard: Shard | None = None,
    scheduler: str | None = None,
    retry_failed: bool = False,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> ImportanceResult:
    """Measure what removed activations cost in accuracy, span by span, for ``search_dp``.

    All networks are evaluated, or those of a ``shard``; without one the table, I(i, j, a, b) of Kim
    et al. (ICML 2023), goes to ``file``. The workers of the Dask cluster at ``scheduler`` evaluate,
    this process where there is none. The same call resumes an interrupted run. Raises as
    ``ImportanceRun.run``.
    """
    require_whole(settings.choice.weights, "an importance")
    run = ImportanceRun(
        settings=settings,
        out=Path(file),
        shard=shard,
        connect=partial(connect, scheduler) if scheduler else None,
        retry_failed=retry_failed,
    )
    return run.run(on_progress, notice)
