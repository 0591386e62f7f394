"""``dshrink run``: a whole study from its recipe, from training to the front."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs, train_options
from dshrink.cli.bench import exit_unless_measured
from dshrink.cli.console import notice, out, print_json, progress
from dshrink.cli.grids import Column, print_grid, print_report
from dshrink.cli.report import also_write
from dshrink.errors import DshrinkError
from dshrink.train.unreadable import Unreadable
from latency_tables.files import require_writable_folder
from latency_tables.wording import counted

if TYPE_CHECKING:
    from dshrink.cli.payloads.networks import StudySteps
    from dshrink.operations.study_plan import StudyPlan, StudyRequest
    from dshrink.study.recipe import Recipe
    from dshrink.study.steps import Step


def command(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="a name of `dshrink run --list`, or a file *.toml"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="image folder, as for `dshrink finetune`; --dry-run and the digits need none",
        ),
    ] = None,
    folder: Annotated[
        Path | None, outputs.folder_option("--out", help="folder to write into")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="latency table of the network; default: measure one")
    ] = None,
    device: Annotated[
        str | None,
        options.condition(help="default: the table's, else local (see `dshrink devices list`)"),
    ] = None,
    runtime: Annotated[
        str | None,
        options.condition(help="default: the table's, else the device's first supported one"),
    ] = None,
    precision: Annotated[
        str | None, options.condition(help="fp32, fp16 or int8; default: the table's, else fp32")
    ] = None,
    batch: Annotated[
        int | None,
        options.condition(min=1, help="batch size; default: the table's, else the paper's"),
    ] = None,
    threads: Annotated[
        int | None, options.condition(min=1, help="threads on a CPU; default: the table's, else 1")
    ] = None,
    rows: Annotated[
        str | None, train_options.training(help="only these rows, such as searched,random")
    ] = None,
    seeds: Annotated[
        str | None, train_options.training(help="only these seeds, such as 0,1,2")
    ] = None,
    jobs: Annotated[
        int | None,
        train_options.training(
            help="trainings in parallel; default: one per core without a GPU, else one"
        ),
    ] = None,
    log_with: train_options.LogWith = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    allow_unfit: options.AllowUnfit = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the steps, run nothing")] = False,
    report: options.Report = None,
    listed: Annotated[bool, typer.Option("--list", help="list the recipes")] = False,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Train, search, merge and measure the networks of RECIPE; write tables and the front.

    Run the same command again to resume an interrupted run. On several GPUs:
    `accelerate launch -m dshrink run ... --table DIR`
    """
    from dshrink.operations.study import run_study
    from dshrink.operations.study_plan import StudyRequest, own_images, plan_study, study_target
    from dshrink.study.recipe import load_recipe
    from dshrink.study.runner import jobs_here

    if listed:
        _list(json, wide)
        return
    if recipe is None:
        raise DshrinkError("give a RECIPE; `dshrink run --list` names them")
    whole = load_recipe(recipe).logged(log_with or ())
    given = {"device": device, "runtime": runtime, "precision": precision, "batch": batch}
    asked = {name: v for name, v in {**given, "threads": threads}.items() if v is not None}
    if table is not None:  # it knows better than a file of options, which is for all tables
        asked = {name: v for name, v in asked.items() if options.was_given(context, name)}
    request = StudyRequest(
        recipe=whole.changed(rows=_names(rows), seeds=_numbers(seeds)),
        whole=whole,
        data=data or "",
        folder=folder or Path(whole.name),
        target=study_target(table, asked),
        table=table,
        allow_unfit=allow_unfit,
        unreadable=unreadable,
        jobs=jobs_here(jobs),
    )
    if dry_run:
        _show_plan(request, plan_study(request, notice), json, wide)
        return
    require_writable_folder(request.folder)  # its default is the recipe's name
    if data is None:
        request = replace(request, data=str(own_images(whole, request.folder)))
    result = run_study(request, notice=notice, progress=progress)
    if result is None:
        return
    also_write(report, request.folder)
    if json:
        from dshrink.cli.payloads.networks import StudyData

        files = tuple(map(str, result.files))
        print_json(StudyData(results=tuple(result.results), files=files))
    else:
        print_report(result.report, wide=wide)
        out.print(f"written: {', '.join(map(str, result.files))}")
    exit_unless_measured(result.results)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _numbers(text: str | None) -> tuple[int, ...]:
    names = _names(text)
    if not all(name.isascii() and name.isdigit() for name in names):
        raise DshrinkError(f"--seeds {text!r}: give whole numbers, such as 0,1,2")
    return tuple(int(name) for name in names)


def _list(json: bool, wide: bool) -> None:
    from dshrink.study.recipe import load_recipe, shipped_recipes

    recipes = {name: load_recipe(name).title for name in shipped_recipes()}
    if json:
        from dshrink.cli.payloads.networks import RecipeData, RecipesData

        listed = (RecipeData(name=name, title=title) for name, title in recipes.items())
        print_json(RecipesData(recipes=tuple(listed)))
        return
    columns: list[Column[tuple[str, str]]] = [
        Column("recipe", itemgetter(0)),
        Column("title", itemgetter(1), least=20, is_prose=True),
    ]
    print_grid(columns, list(recipes.items()), wide=wide)


def _steps(request: StudyRequest, plan: StudyPlan) -> StudySteps:
    from dshrink.cli.payloads.networks import StudyStep, StudySteps

    return StudySteps(
        recipe=request.recipe.name,
        images=plan.images,
        steps=tuple(
            StudyStep(
                step=step.name,
                kind=step.kind,
                method=step.method,
                seed=step.seed,
                epochs=step.training.epochs if step.training else None,
                needs=step.needs,
                folder=str(request.folder / step.name),
                done=step.name in plan.done,
            )
            for step in plan.steps
        ),
        epochs_left=plan.epochs_left,
        jobs=request.jobs,
    )


def _show_plan(request: StudyRequest, plan: StudyPlan, json: bool, wide: bool) -> None:
    if json:
        print_json(_steps(request, plan))
        return
    recipe, images = request.recipe, plan.images
    height, width = recipe.size
    out.print(f"{recipe.name}: {recipe.title}")
    out.print(
        f"{recipe.choice.name} at {height}x{width}, {counted(images.classes, 'class', 'classes')}; "
        f"{counted(images.training, 'image')} to train on, {images.validation} to validate"
    )
    columns: list[Column[Step]] = [
        Column("step", lambda step: step.name),
        Column("what", lambda step: _what(recipe, step), least=20, is_prose=True),
        Column("done", lambda step: "done" if step.name in plan.done else ""),
    ]
    print_grid(columns, plan.steps, wide=wide)
    out.print(
        f"all in {request.folder}; {counted(len(plan.steps), 'step')}, {len(plan.done)} of "
        "them done"
    )
    out.print(
        "then: all networks measured interleaved, results.csv, front.csv, front.png, report.md"
    )
    how = f"{counted(request.jobs, 'run')} at a time"
    out.print(
        f"{counted(plan.epochs_left, 'epoch')} of training left, {how}; a run estimates the "
        "time once its first epoch has been timed"
    )


def _what(recipe: Recipe, step: Step) -> str:
    """What a step does, and from what."""
    if step.training is None:
        return f"from {step.needs[0]}" if step.needs else f"profile {recipe.choice.name}"
    start = "initial weights" if step.from_initial else recipe.weights
    if recipe.pretrain is not None and not step.from_initial:
        start = "pretrain"
    searched = any(need.startswith("search/") for need in step.needs)
    return (
        f"{counted(step.training.epochs, 'epoch')} from "
        f"{start}{', searched mask' if searched else ''}"
    )
