"""Plots of a study besides its front: table, plans, first search, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dshrink import plots
from dshrink.results import BenchmarkResult
from dshrink.search.plan import Plan, load_plan
from dshrink.study.rows import HISTORY, PLAN, StudyContext
from dshrink.study.steps import SEARCH
from latency_tables.io import load_table


def searched_plans(context: StudyContext) -> dict[str, Plan]:
    """The searched plans of the first seed, by the names of their goals."""
    first = context.recipe.seeds[0]
    return {
        step.goal.name: load_plan(context.folders.folder(name) / PLAN)
        for name, step in context.folders.steps.items()
        if step.kind == SEARCH and step.seed == first and step.goal is not None
    }


def draw_study(context: StudyContext, results: Sequence[BenchmarkResult]) -> list[Path]:
    """Draw them into the study's folder; results are those of the first seed."""
    table = load_table(context.table)
    shown = [r for r in results if not r.seed and r.method in ("original", "searched")]
    search = next(name for name, s in context.folders.steps.items() if s.kind == SEARCH)
    history = plots.load_mask_history(context.folders.folder(search) / HISTORY)
    figures = {
        "blocks": plots.blocks_figure(table),
        "memory": plots.memory_figure(table),
        "kept": plots.kept_figure(searched_plans(context), table=table),
        "throughput": plots.throughput_figure(shown),
    }
    if history.epochs > 1:
        figures["mask"] = plots.mask_history_figure(history, search)
    if table.hold_out:
        figures["predicted"] = plots.predicted_figure(table)
    written: list[Path] = []
    for name, figure in figures.items():
        written += plots.save_figure(figure, context.folders.root / f"{name}.png")
    return written
