"""``dshrink demo``: the whole journey on this machine, from digits and a profile to the front.

It is the study of a recipe (``run_study``), step by step, with what each step shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.bench import print_results
from dshrink.cli.console import out
from dshrink.cli.grids import print_report
from dshrink.cli.render import summary_lines
from dshrink.cli.run_study import (
    StudyRequest,
    measure_networks,
    measure_table,
    merged_networks,
    train,
    write_study,
)

if TYPE_CHECKING:
    from dshrink.results import BenchmarkResult
    from dshrink.search.plan import Plan
    from dshrink.study.rows import Workplace
    from latency_tables.table import LatencyTable

RECIPE = "digits_demo"


def register(app: typer.Typer) -> None:
    app.command(name="demo")(command)


def command(
    folder: Annotated[Path, typer.Option("--out", help="folder to write into")] = Path("demo"),
    threads: options.Threads = 1,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="training runs at a time; one a core if not given")
    ] = None,
    wide: options.Wide = False,
) -> None:
    """Profile a network here, learn what to shrink, fine-tune, merge, prove, benchmark, draw.

    An interrupted run goes on where it was: give the same command again.
    """
    from dshrink.study.recipe import load_recipe
    from dshrink.study.runner import jobs_here
    from dshrink.train.data import open_images
    from dshrink.train.digits import write_digits
    from latency_tables.io import load_table
    from profiler.target import Target

    out.rule("1 of 5: handwritten digits, to train on")
    digits = write_digits(folder / "digits")
    wanted = load_recipe(RECIPE)
    out.print(
        f"{digits.training} images to train {wanted.model} on, {digits.validation} to validate it"
    )
    # A table too noisy to be fit for search says so below; the journey goes on.
    request = StudyRequest(
        recipe=wanted,
        data=str(digits.folder),
        folder=folder,
        target=Target(threads=threads),
        allow_unfit=True,
    )
    images = open_images(request.data)
    place = request.workplace(images)

    out.rule("2 of 5: measure every piece of the network on this machine")
    measure_table(request, place, len(images.classes))
    table = load_table(place.table)
    out.print("\n".join(summary_lines(table)))

    out.rule("3 of 5: learn what to shrink by that table, fine-tune, merge, prove")
    train(place, images, jobs_here(jobs))
    plans = _plans(place)
    _say_plans(plans)
    _say_merges(place)

    out.rule("4 of 5: measure the networks, beside what the table predicted")
    results = measure_networks(request, place)
    print_results([result for result in results if not result.seed], wide=wide)
    out.print("(those of the first seed; results.csv has all)")

    out.rule("5 of 5: tables and pictures")
    study = write_study(request, place, results)
    pictures = _draw(table, plans, place, results)
    print_report(study.report, wide=wide)
    out.print("files written:")
    tables = [place.table / name for name in ("table.csv", "table.json", "journal.jsonl")]
    for name in (*tables, *study.files, *pictures):
        out.print(f"  {name}")
    out.print(f"  and the networks of all rows below {folder}")


def _plans(place: Workplace) -> dict[str, Plan]:
    """The searched plans of the first seed, by their targets' names."""
    from dshrink.search.plan import load_plan
    from dshrink.study.rows import PLAN
    from dshrink.study.steps import SEARCH

    first = place.recipe.seeds[0]
    return {
        step.target.name: load_plan(place.folders.folder(name) / PLAN)
        for name, step in place.folders.steps.items()
        if step.kind == SEARCH and step.seed == first and step.target is not None
    }


def _say_plans(plans: Mapping[str, Plan]) -> None:
    for name, plan in plans.items():
        latency = f", predicted {plan.predicted.latency_ms:.3f} ms" if plan.predicted else ""
        out.print(f"{name}: of {len(plan.keep_mask)} blocks stay {plan.keep_mask}{latency}")


def _say_merges(place: Workplace) -> None:
    """How exact the merges are, in one line: each has a certificate of its own."""
    merges = [facts for facts in merged_networks(place).values() if "certificate" in facts]
    worst = max(facts["certificate"] for facts in merges)
    differing = sum(facts["differing"] for facts in merges)
    out.print(
        f"{len(merges)} networks merged: in float64 they differ from the unmerged ones by "
        f"{worst:.1e} (relative) at most, and on {merges[0]['validation_images']} validation "
        f"images each they tell {differing if differing else 'none'} otherwise"
    )


def _draw(
    table: LatencyTable,
    plans: Mapping[str, Plan],
    place: Workplace,
    results: Sequence[BenchmarkResult],
) -> list[Path]:
    from dshrink import plots
    from dshrink.study.rows import HISTORY
    from dshrink.study.steps import SEARCH

    folder = place.folders.root
    shown = [r for r in results if not r.seed and r.method in ("original", "searched")]
    figures = {
        "blocks": plots.blocks_figure(table),
        "memory": plots.memory_figure(table),
        "kept": plots.kept_figure(plans, table=table),
        "throughput": plots.throughput_figure(shown),
    }
    if table.hold_out:
        figures["predicted"] = plots.predicted_figure(table)
    first = next(name for name in place.folders.steps if name.startswith(f"{SEARCH}/"))
    history = plots.load_mask_history(place.folders.folder(first) / HISTORY)
    figures["mask"] = plots.mask_history_figure(history, first)
    written: list[Path] = []
    for name, figure in figures.items():
        written += plots.save_figure(figure, folder / f"{name}.png")
    return written
