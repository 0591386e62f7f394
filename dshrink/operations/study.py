"""A study from its recipe to its tables and pictures.

Latency is measured before the training and after it, never beside it. Networks of equal structure
are one measurement: their speed does not depend on the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dshrink.errors import DshrinkError
from dshrink.front_results import fronts_of, save_fronts
from dshrink.operations.bench import bench_networks
from dshrink.operations.profile import profile_network
from dshrink.plots import front_figure, save_figure
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.results import BenchmarkResult, save_results
from dshrink.study.folders import StepFolders, TableResult
from dshrink.study.networks import benchmark_result, one_a_structure, report_row, study_networks
from dshrink.study.recipe import ImageCounts, Recipe
from dshrink.study.report import report_lines
from dshrink.study.rows import StudyContext
from dshrink.study.runner import Study
from dshrink.study.steps import MERGE, TABLE, Step, StepsFailedError, StudyError, steps_of
from dshrink.train.data import Images, open_images
from dshrink.train.processes import is_main_process, together
from dshrink.train.unreadable import Unreadable
from latency_tables.files import write_atomically
from latency_tables.io import load_table
from profiler.target import Target, batch_on

TABLE_FOLDER = "table"
#: Conditions that only a table gives.
_TABLES_OWN = ("statistic", "launch", "cache_mode")
#: Opens a progress bar with a title.
OpenProgress = Callable[[str], AbstractContextManager[OnProgress]]


def no_bar(title: str) -> AbstractContextManager[OnProgress]:
    """For whoever does not ask."""
    return nullcontext(no_progress)


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


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What came out of a study; the rows of ``results`` are those of ``results.csv``."""

    results: Sequence[BenchmarkResult]
    report: Sequence[str]
    files: Sequence[Path]


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


def plan_study(request: StudyRequest, notice: Notice = no_notice) -> StudyPlan:
    """Every step, and what is done of it; nothing is trained or written.

    Without images the recipe says how many there are. Raises DshrinkError where it does not.
    """
    recipe, done = request.recipe, frozenset[str]()
    counts = recipe.images
    if request.data:
        images = open_images(request.data)
        sizes = (len(images.train), len(images.validation), len(images.classes))
        counts = ImageCounts(training=sizes[0], validation=sizes[1], classes=sizes[2])
        done = frozenset(study_context(request, images).folders.results())
    elif counts is None:
        raise DshrinkError(f"{recipe.name}: has no section [images]: give --data DIR")
    else:
        notice("without --data: the recipe gives the number of images, and no step counts as done")
    return StudyPlan(steps=request.steps(), done=done, images=counts)


def run_study(
    request: StudyRequest, *, notice: Notice = no_notice, progress: OpenProgress = no_bar
) -> StudyResult | None:
    """Do whatever is not done yet; None in all processes but the first.

    Where steps fail, the others are measured and reported before StepsFailedError is raised.
    """
    stages = StudyStages.of(request, notice=notice, progress=progress)
    if request.table is None:
        stages.measure_table()
    failed: StepsFailedError | None = None
    try:
        stages.train()
    except StepsFailedError as error:
        failed = error
    study = None
    if is_main_process():
        shown = stages.reported()
        if failed is None or study_networks(shown.context):
            study = shown.write(shown.measure_networks(), failed.failures if failed else {})
    if failed is not None:
        raise failed
    return study


@dataclass(frozen=True, kw_only=True)
class StudyStages:
    """A study, stage by stage: the table, the training, the networks' speed, the files."""

    request: StudyRequest
    images: Images
    context: StudyContext
    notice: Notice = no_notice
    progress: OpenProgress = no_bar

    @classmethod
    def of(
        cls, request: StudyRequest, *, notice: Notice = no_notice, progress: OpenProgress = no_bar
    ) -> StudyStages:
        """Open the images. Raises on an unreadable table."""
        images = open_images(request.data)
        context = study_context(request, images)
        return cls(
            request=request, images=images, context=context, notice=notice, progress=progress
        )

    def measure_table(self) -> None:
        """Profile the recipe's network, unless that was done.

        Raises DshrinkError in one of several processes of a launcher.
        """
        context, recipe, classes = self.context, self.context.recipe, len(self.images.classes)
        if context.folders.any_result(TABLE) is not None:
            return
        if together().num_processes > 1:
            raise DshrinkError(
                "several processes train together, they do not measure: measure the table first "
                f"(`dshrink profile {recipe.model} --resolution {recipe.resolution} "
                f"--classes {classes}`) and give it with --table"
            )
        with self.progress(f"profile {recipe.model}") as update:
            profile = profile_network(
                recipe.model,
                context.table,
                self.request.target,
                resolution=recipe.resolution,
                dense=recipe.table.dense,
                hold_out=recipe.table.hold_out,
                classes=classes,
                on_progress=update,
                notice=self.notice,
            )
        context.folders.finish(TABLE, TableResult(digest=profile.table.digest))

    def train(self) -> None:
        """All steps of training, searching and merging; progress is in epochs."""
        with self.progress("epochs") if is_main_process() else no_bar("") as update:
            Study(
                context=self.context,
                images=self.images,
                jobs=self.request.jobs,
                notice=self.notice,
                progress=update,
            ).run()

    def measure_networks(self) -> list[BenchmarkResult]:
        """Bench one network of every structure, interleaved; a result for every trained network."""
        networks = study_networks(self.context)
        files = one_a_structure(networks)
        with self.progress("benchmark") as update:
            measured = bench_networks(
                [str(file) for file in files.values()],
                [],
                [self.context.table],
                self.request.folder / "bench.csv",
                self.request.target,
                on_progress=update,
                notice=self.notice,
            )
        speeds = dict(zip(files, measured, strict=True))
        return [
            benchmark_result(self.context, one, speeds[one.merged.structure]) for one in networks
        ]

    def reported(self) -> StudyStages:
        """The study of the whole recipe, beside the steps that are asked for now.

        What was done under other settings, and is not asked for, is left out, with a notice.
        """
        request, context = self.request, self.context
        recipe = (request.whole or request.recipe).with_all_of(request.recipe)
        steps = {step.name: step for step in request.steps(recipe)}
        folders = replace(context.folders, steps=steps)
        left_out: list[str] = []
        for name, step in list(steps.items()):
            if step.kind == MERGE and name not in context.folders.steps:
                try:
                    folders.any_result(name)
                except StudyError as error:
                    left_out.append(str(error))
                    del steps[name]
        if left_out:
            self.notice(f"not in the report: {len(left_out)} networks, as {left_out[0]}")
        return replace(self, context=replace(context, recipe=recipe, folders=folders))

    def write(
        self, results: Sequence[BenchmarkResult], failures: Mapping[str, str] | None = None
    ) -> StudyResult:
        """Write the results, the front, its picture and the report, which names what failed."""
        folder, recipe = self.request.folder, self.context.recipe
        names = ("results.csv", "front.csv", "report.md")
        csv_file, front_file, report_file = (folder / name for name in names)
        save_results(results, csv_file)
        found = fronts_of(results)
        save_fronts(found.fronts, front_file)
        pictures = save_figure(
            front_figure(found.fronts, left_out=found.left_out), folder / "front.png"
        )
        rows = zip(study_networks(self.context), results, strict=True)
        report = report_lines(
            recipe.title,
            [report_row(network, result) for network, result in rows],
            remarks=recipe.remarks,
            failures=failures,
        )
        write_atomically(report_file, "\n".join(report) + "\n")
        files = (csv_file, front_file, *pictures, report_file)
        return StudyResult(results=results, report=report, files=files)


def study_context(request: StudyRequest, images: Images) -> StudyContext:
    """What the steps are done with. Raises on an unreadable table."""
    recipe = request.recipe
    identity = {
        "model": recipe.model,
        "resolution": recipe.resolution,
        "weights": _known_weights(recipe.weights),
        "data": images.digest,
    }
    # A table that is measured here is identified by its conditions.
    table: Any = asdict(request.target)
    if request.table is not None:
        table = load_table(request.table).digest
    return StudyContext(
        recipe=recipe,
        data=request.data,
        table=request.table or request.folder / TABLE_FOLDER,
        folders=StepFolders.of(request.folder, identity, table, request.steps()),
        allow_unfit=request.allow_unfit,
        unreadable=request.unreadable,
    )


def _known_weights(weights: str) -> str:
    """Published and initial weights by their names, a file by its content. Raises DshrinkError."""
    if weights in ("pretrained", "initial", "random"):
        return weights
    try:
        with Path(weights).open("rb") as file:
            return f"file {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    except OSError as error:
        raise DshrinkError(f"weights = {weights!r} cannot be read ({error.strerror})") from None
