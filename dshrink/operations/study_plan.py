"""What a study is asked for, what it would do, and the context of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from devices.agent.protocol import file_digest
from dshrink.errors import DshrinkError
from dshrink.limits import MOST_JOBS, require_within
from dshrink.network.references import NAMED_WEIGHTS, same_model
from dshrink.progress import Notice, no_notice
from dshrink.search.goal import check_fit
from dshrink.study.folders import StepFolders
from dshrink.study.recipe import ImageCounts, Recipe
from dshrink.study.rows import StudyContext
from dshrink.study.steps import SEARCH, Step, steps_of
from dshrink.train.digits import write_digits
from dshrink.train.image_sets import Images, open_images
from dshrink.train.unreadable import Unreadable
from latency_tables.io import load_table
from latency_tables.table import LatencyTable
from profiler.target import Target, batch_on

TABLE_FOLDER = "table"
#: Conditions that only a table gives.
_TABLES_OWN = ("statistic", "launch", "cache_mode")


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """A recipe, its images, what to measure on, and where everything goes.

    ``recipe`` has the rows and seeds that are asked for now, ``whole`` all that it names; they are
    one where it is not given. ``table`` is a latency table of the recipe's network; None measures
    one into ``folder``. ``jobs`` training runs at a time.
    """

    recipe: Recipe
    data: str
    folder: Path
    target: Target
    whole: Recipe | None = None
    table: Path | None = None
    allow_unfit: bool = False
    unreadable: Unreadable = Unreadable.SKIP
    jobs: int = 1

    def __post_init__(self) -> None:
        require_within("jobs", self.jobs, 1, MOST_JOBS)

    def steps(self, recipe: Recipe | None = None) -> tuple[Step, ...]:
        """All steps of the training."""
        batch = batch_on(self.target)
        return steps_of(recipe or self.recipe, measure_table=self.table is None, batch=batch)


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What a study would do; ``done`` names the steps that are done already."""

    steps: tuple[Step, ...]
    done: frozenset[str]
    images: ImageCounts

    @property
    def epochs_left(self) -> int:
        """Of all training that is not done."""
        return sum(s.training.epochs for s in self.steps if s.training and s.name not in self.done)


def study_target(table: Path | None, asked: Mapping[str, Any]) -> Target:
    """What the networks are measured on: a given table's conditions, else what is asked for.

    Raises DshrinkError where an option contradicts the table: its predictions, and the masks that
    were chosen by it, would be of another device than the measurements.
    """
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


def own_images(recipe: Recipe, folder: Path) -> Path:
    """The images that the recipe brings itself, written into the study's folder.

    Raises DshrinkError for one that brings none.
    """
    if recipe.data != "digits":
        raise DshrinkError("give --data DIR: the images to train on (or --dry-run)")
    return write_digits(folder / recipe.data).folder


def plan_study(request: StudyRequest, notice: Notice = no_notice) -> StudyPlan:
    """Every step, and what is done of it; nothing is trained or written.

    Without images the recipe says how many there are. Raises DshrinkError where it does not.
    """
    recipe, done = request.recipe, frozenset[str]()
    counts = recipe.images
    if request.data:
        images = open_images(request.data, recipe.choice.channels)
        sizes = (len(images.train), len(images.validation), len(images.classes))
        counts = ImageCounts(training=sizes[0], validation=sizes[1], classes=sizes[2])
        done = frozenset(study_context(request, images).folders.results())
    elif counts is None:
        raise DshrinkError(f"{recipe.name}: has no section [images]: give --data DIR")
    else:
        notice("without --data: the recipe gives the number of images, and no step counts as done")
    return StudyPlan(steps=request.steps(), done=done, images=counts)


def study_context(request: StudyRequest, images: Images) -> StudyContext:
    """What the steps are done with.

    Raises on a table that cannot be read, is of another network, or that no search may use: hours
    of training come before its use.
    """
    recipe = request.recipe
    identity = {
        "model": recipe.choice.name,
        "resolution": recipe.resolution,
        **({} if recipe.in_channels is None else {"in_channels": recipe.in_channels}),
        "weights": _weights_identity(recipe.weights),
        **({"weights_ema": True} if recipe.weights_ema else {}),
        "data": images.digest,
    }
    # A table that is measured here is identified by its conditions.
    table: Any = asdict(request.target)
    if request.table is not None:
        given = load_table(request.table)
        _require_table_of(recipe, given, request.table)
        if any(step.kind == SEARCH for step in request.steps()):
            check_fit(given, allow_unfit=request.allow_unfit)
        table = given.digest
    return StudyContext(
        recipe=recipe,
        data=request.data,
        table=request.table or request.folder / TABLE_FOLDER,
        folders=StepFolders.of(request.folder, identity, table, request.steps()),
        allow_unfit=request.allow_unfit,
        unreadable=request.unreadable,
    )


def _require_table_of(recipe: Recipe, table: LatencyTable, folder: Path) -> None:
    size = (recipe.size.height, recipe.size.width)
    if not same_model(table.model, recipe.choice.name) or table.resolution != size:
        theirs, ours = ("x".join(map(str, each)) for each in (table.resolution, size))
        raise DshrinkError(
            f"--table {folder}: it is of {table.model} at {theirs}, the recipe is about "
            f"{recipe.choice.name} at {ours}: give the table of that network, or leave it out to "
            "measure one"
        )


def _weights_identity(weights: str) -> str:
    """Published and initial weights by their names, a file by its digest. Raises DshrinkError."""
    if weights in NAMED_WEIGHTS:
        return weights
    try:
        return f"file {file_digest(weights)[:16]}"
    except OSError as error:
        raise DshrinkError(f"weights = {weights!r} cannot be read ({error.strerror})") from None
