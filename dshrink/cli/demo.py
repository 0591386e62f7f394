"""``dshrink demo``: the whole journey on this machine, from digits and a profile to the front.

It is the study of a recipe, stage by stage, with what each stage shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.bench import print_results
from dshrink.cli.console import notice, out, progress
from dshrink.cli.grids import print_report
from dshrink.cli.render import summary_lines
from latency_tables.wording import counted

if TYPE_CHECKING:
    from dshrink.study.rows import StudyContext

RECIPE = "digits_demo"


def command(
    folder: Annotated[Path, typer.Option("--out", help="folder to write into")] = Path("demo"),
    threads: options.Threads = 1,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="trainings in parallel; default: one per core")
    ] = None,
    wide: options.Wide = False,
) -> None:
    """Profile a network on this machine, search masks, fine-tune, merge, verify, bench, plot.

    Run the same command again to resume an interrupted run.
    """
    from dshrink.operations.study import StudyStages
    from dshrink.operations.study_plan import StudyRequest
    from dshrink.study.pictures import draw_study, searched_plans
    from dshrink.study.recipe import load_recipe
    from dshrink.study.runner import jobs_here
    from dshrink.train.digits import write_digits
    from latency_tables.io import load_table
    from profiler.target import Target

    out.rule("1 of 5: handwritten digits, to train on")
    digits = write_digits(folder / "digits")
    wanted = load_recipe(RECIPE)
    out.print(
        f"{digits.training} images to train {wanted.model} on, {digits.validation} to validate it"
    )
    # A table too noisy to be fit for search says so below, and is used all the same.
    request = StudyRequest(
        recipe=wanted,
        data=str(digits.folder),
        folder=folder,
        target=Target(threads=threads),
        allow_unfit=True,
        jobs=jobs_here(jobs),
    )
    study = StudyStages.of(request, notice=notice, progress=progress)
    context = study.context

    out.rule("2 of 5: measure every piece of the network on this machine")
    study.measure_table()
    out.print("\n".join(summary_lines(load_table(context.table))))

    out.rule("3 of 5: search masks with that table, fine-tune, merge, verify")
    study.train()
    for name, plan in searched_plans(context).items():
        latency = f", predicted {plan.predicted.latency_ms:.3f} ms" if plan.predicted else ""
        out.print(f"{name}: of {len(plan.keep_mask)} blocks stay {plan.keep_mask}{latency}")
    _say_merges(context)

    out.rule("4 of 5: measure the networks and compare with the table's predictions")
    results = study.measure_networks()
    print_results([result for result in results if not result.seed], wide=wide)
    out.print("(those of the first seed; results.csv has all)")

    out.rule("5 of 5: tables and plots")
    written = study.write(results)
    print_report(written.report, wide=wide)
    out.print("files written:")
    tables = [context.table / name for name in ("table.csv", "table.json", "journal.jsonl")]
    for file in (*tables, *written.files, *draw_study(context, results)):
        out.print(f"  {file}")
    out.print(f"  and the networks of all rows below {folder}")


def _say_merges(context: StudyContext) -> None:
    """How exact the merges are, in one line: each has a certificate of its own."""
    from dshrink.study.networks import study_networks

    merges = [one.merged for one in study_networks(context) if one.merged.certificate is not None]
    worst = max(merged.certificate or 0.0 for merged in merges)
    images = sum(merged.validation_images for merged in merges)
    differing = sum(merged.differing or 0 for merged in merges)
    out.print(
        f"{counted(len(merges), 'network')} merged: in float64 they differ from the unmerged "
        "ones by "
        f"{worst:.1e} (relative) at most; top-1 agreement on {images - differing} of {images} "
        "validation images"
    )
