"""``dshrink demo``: a full-size network on this machine, from its table to smaller ones of it.

It measures speed, and says what it does not measure. The training of a network is an extra that is
asked for, as minutes on two cores train a small one only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import notice, out, print_json, progress
from dshrink.cli.grids import print_report
from dshrink.cli.render import summary_lines

#: What ``--train`` trains: the digits in a short form, one seed.
RECIPE = "digits_short"


def command(
    context: typer.Context,
    folder: Annotated[Path, outputs.folder_option("--out", help="folder to write into")] = Path(
        "demo"
    ),
    model: Annotated[
        str, typer.Option("--model", help="network to show it with, as for `dshrink profile`")
    ] = "mobilenetv2_140",
    resolution: options.Resolution = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="default: pretrained if they can be had, else random, of which speed can be shown "
            "and agreement cannot",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="images to refit a merged network on; default: photographs that come with "
            "scikit-learn and matplotlib",
        ),
    ] = None,
    threads: options.Threads = 1,
    train: Annotated[
        bool,
        typer.Option("--train", help="then also train a small network on handwritten digits"),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(help="trainings in parallel with --train; default: one per core"),
    ] = None,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Profile a full-size network on this machine, merge it for three budgets, measure, show.

    Run the same command again to resume an interrupted run.
    """
    from dshrink.network.references import ModelChoice
    from profiler.target import Target

    say = notice if json else out.print
    say(f"1 of 6: load {model}")
    choice = ModelChoice(model=model, resolution=resolution, weights=weights or "pretrained")
    target = options.call(context, Target)
    with progress(f"load {model}"):
        from dshrink.operations.demo import Demo, DemoRequest  # torch takes seconds

        request = DemoRequest(
            choice=choice, folder=folder, or_random=weights is None, data=data, target=target
        )
        demo = Demo.of(request, notice=notice, progress=progress)

    say("2 of 6: measure its blocks, original and merged, and whole networks on this machine")
    table = demo.measure_table()
    for line in summary_lines(table):
        say(f"  {line}")

    say("3 of 6: choose by that table what to merge, for three budgets; merge, prove, export")
    plans = demo.search(table)
    for budget_ms, plan in plans:
        merged = plan.keep_mask.count("0")
        say(f"  at most {budget_ms:g} ms: merge {merged} of {len(plan.keep_mask)} blocks")
    shrunk = demo.merge(plans)

    say("4 of 6: merge a few blocks only and refit them to photographs, without training")
    agreement = demo.refit(table)

    say("5 of 6: measure the networks by turns in the same processes")
    results = demo.measure_networks(table, shrunk)

    say("6 of 6: draw the pictures, write the page")
    result = demo.write(table, shrunk, agreement, results)
    if train:
        say("and a training: handwritten digits, one seed")
        _train(folder / "digits", threads, jobs, wide, as_json=json)
    if json:
        print_json(result)
    else:
        from dshrink.cli.render_demo import print_demo

        out.print()
        print_demo(result, wide=wide)
    if any(one.result.latency_ms is None for one in result.networks):
        raise typer.Exit(1)


def _train(folder: Path, threads: int, jobs: int | None, wide: bool, *, as_json: bool) -> None:
    """The short study on digits with its first seed, and its report."""
    from dshrink.operations.study import run_study
    from dshrink.operations.study_plan import StudyRequest, own_images
    from dshrink.study.recipe import load_recipe
    from dshrink.study.runner import jobs_here
    from profiler.target import Target

    whole = load_recipe(RECIPE)
    request = StudyRequest(
        recipe=whole.changed(seeds=whole.seeds[:1]),
        data=str(own_images(whole, folder)),
        folder=folder,
        target=Target(threads=threads),
        allow_unfit=True,
        jobs=jobs_here(jobs),
    )
    study = run_study(request, notice=notice, progress=progress)
    if study is not None and not as_json:
        print_report(study.report, wide=wide)
