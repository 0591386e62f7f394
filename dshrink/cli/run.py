"""``dshrink run``: a whole study from its recipe, from training to the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options, train_options
from dshrink.cli.console import notice, out, print_json
from dshrink.cli.grids import Column, print_grid, print_report
from dshrink.cli.run_study import StudyRequest, run_study
from dshrink.errors import DshrinkError
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.study.estimate import Estimate
    from dshrink.study.recipe import ImageCounts, Recipe
    from dshrink.study.steps import Step
    from profiler.target import Target


#: Conditions that only a table gives.
_TABLES_OWN = ("statistic", "launch", "cache_mode")


def register(app: typer.Typer) -> None:
    app.command(name="run")(command)


def command(
    recipe: Annotated[
        str | None, typer.Argument(help="a name of `dshrink run --list`, or a file *.toml")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="images, as of `dshrink finetune`; --dry-run needs none"),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="folder to write into")] = None,
    table: Annotated[
        Path | None, typer.Option(help="a latency table of the network; measured if not given")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="a name of `dshrink devices list`; the table's, else local")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="the table's, else the device's first that is driven")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8; the table's, else fp32")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="images a batch; the table's, else the paper's")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads on a CPU; the table's, else 1")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="only these rows, such as searched,random")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="these seeds, such as 0,1,2")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="runs at a time; one a core without a GPU, else one"),
    ] = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    allow_unfit: Annotated[
        bool, typer.Option("--allow-unfit", help="use a table that is not fit for search")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would run and how long, and stop")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="list the recipes")] = False,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Train, search, merge and measure all that RECIPE compares; write tables and the front.

    An interrupted run goes on where it was: give the same command again. On several GPUs:
    `accelerate launch -m dshrink run ... --table DIR`.
    """
    from dshrink.study.recipe import load_recipe
    from dshrink.study.runner import jobs_here

    if listed:
        _list(json, wide)
        return
    if recipe is None:
        raise DshrinkError("give a RECIPE; `dshrink run --list` names them")
    whole = load_recipe(recipe)
    asked = {
        **{"device": device, "runtime": runtime, "precision": precision},
        **{"batch": batch, "threads": threads},
    }
    request = StudyRequest(
        recipe=whole.changed(rows=_names(rows), seeds=_numbers(seeds)),
        whole=whole,
        data=data or "",
        folder=folder or Path(whole.name),
        target=_target(table, {name: value for name, value in asked.items() if value is not None}),
        table=table,
        allow_unfit=allow_unfit,
        unreadable=unreadable,
    )
    count = jobs_here(jobs)
    if dry_run:
        _dry_run(request, count, json)
        return
    if data is None:
        raise DshrinkError("give --data DIR: the images to train on (or --dry-run)")
    result = run_study(request, count)
    if result is None:
        return
    if json:
        print_json([asdict(row) for row in result.results])
        return
    print_report(result.report, wide=wide)
    out.print(f"written: {', '.join(map(str, result.files))}")


def _target(table: Path | None, asked: Mapping[str, Any]) -> Target:
    """What the networks are measured on: a given table's conditions, else what is asked for.

    Raises DshrinkError where an option contradicts the table: its predictions, and the masks that
    were chosen by it, would be of another device than the measurements.
    """
    from latency_tables.io import load_table
    from profiler.target import Target

    if table is None:
        return Target(**asked)
    conditions = load_table(table).conditions
    for name, value in asked.items():
        if value != (known := getattr(conditions, name)):
            raise DshrinkError(
                f"--{name} {value}: {table} was measured with {name} {known}; leave --{name} out, "
                "or give a table of what you want to measure on"
            )
    names = (*("device", "runtime", "precision", "batch", "threads"), *_TABLES_OWN)
    return Target(**{name: getattr(conditions, name) for name in names})


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
        print_json(recipes)
        return
    columns: list[Column[tuple[str, str]]] = [
        Column("recipe", itemgetter(0)),
        Column("title", itemgetter(1), least=20, is_prose=True),
    ]
    print_grid(columns, list(recipes.items()), wide=wide)


def _dry_run(request: StudyRequest, jobs: int, json: bool) -> None:
    """Every step, what is done of it, and the estimate; nothing is trained or written."""
    from dshrink.study.estimate import Stopwatch, estimate

    steps = request.steps()
    counts, done = _known(request)
    watch = Stopwatch(request.recipe, counts.classes, jobs=jobs)
    left = [step for step in steps if step.name not in done]
    found = estimate(left, counts, watch, jobs=jobs, device=watch.device.type)
    if json:
        print_json(_as_json(request, steps, done, found))
        return
    _say(request, steps, done, counts, found)


def _known(request: StudyRequest) -> tuple[ImageCounts, set[str]]:
    """How many images there are, and what was done: nothing, where the images are not at hand."""
    from dshrink.study.estimate import counts_of
    from dshrink.study.runner import results_of
    from dshrink.train.data import open_images

    recipe = request.recipe
    if request.data:
        images = open_images(request.data)
        return counts_of(images), set(results_of(request.workplace(images)))
    if recipe.images is None:
        raise DshrinkError(f"{recipe.name}: has no section [images]: give --data DIR")
    notice("without --data: the recipe says how many images there are, and nothing counts as done")
    return recipe.images, set()


def _as_json(
    request: StudyRequest, steps: Sequence[Step], done: set[str], found: Estimate
) -> dict[str, Any]:
    return {
        "recipe": request.recipe.name,
        "steps": [
            {
                **{"step": step.name, "kind": step.kind, "method": step.method},
                **{"seed": step.seed, "epochs": step.training.epochs if step.training else None},
                **{"from": list(step.needs), "to": str(request.folder / step.name)},
                **{"done": step.name in done, "seconds": found.seconds.get(step.name)},
            }
            for step in steps
        ],
        "total_s": found.total_s,
        "jobs": found.jobs,
        "device": found.device,
    }


def _say(
    request: StudyRequest,
    steps: Sequence[Step],
    done: set[str],
    counts: ImageCounts,
    found: Estimate,
) -> None:
    recipe = request.recipe
    out.print(f"{recipe.name}: {recipe.title}")
    out.print(
        f"{recipe.model} at {recipe.resolution}x{recipe.resolution}, {counts.classes} classes; "
        f"{counts.training} images to train on, {counts.validation} to validate"
    )
    width = max(len(step.name) for step in steps)
    for step in steps:
        out.print(f"{step.name:<{width}}  {_what(recipe, step, step.name in done, found)}")
    out.print(f"all in {request.folder}; {len(steps)} steps, {len(done)} of them done")
    out.print(
        "then: all networks measured interleaved, results.csv, front.csv, front.png, report.md"
    )
    out.print(_estimate_line(found))


def _what(recipe: Recipe, step: Step, is_done: bool, found: Estimate) -> str:
    """What a step does, from what, and how long it would take."""
    if step.training is not None:
        start = "initial weights" if step.from_initial else recipe.weights
        if recipe.pretrain is not None and not step.from_initial:
            start = "pretrain"
        searched = [need for need in step.needs if need.startswith("search/")]
        source = " and ".join([start, *searched])
        text = f"{step.training.epochs} epochs from {source}"
    else:
        text = f"from {step.needs[0]}" if step.needs else f"profile {recipe.model}"
    if is_done:
        return f"{text}: done"
    seconds = found.seconds.get(step.name)
    return text if seconds is None else f"{text}: {_time(seconds)}"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _estimate_line(found: Estimate) -> str:
    import torch

    how = "one run at a time" if found.jobs == 1 else f"{found.jobs} runs at a time"
    if found.device == "cpu" and found.jobs > 1:
        how += " with one thread each"
    text = (
        f"estimate on this machine ({found.device}, {how}): {_time(found.total_s)} of training, "
        "from a few steps of each form; reading images, merging and measuring come on top"
    )
    if (gpus := torch.cuda.device_count()) > 1:
        text += f"; this is one process' estimate: accelerate launch shares it out to {gpus} GPUs"
    return text
