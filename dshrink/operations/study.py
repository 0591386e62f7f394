"""A study from its recipe to its tables and pictures.

Latency is measured before the training and after it, never at the same time. Networks of equal
structure are one measurement: their speed does not depend on the weights.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from dshrink.errors import DshrinkError
from dshrink.front_results import fronts_of, save_fronts
from dshrink.operations.bench import bench_networks
from dshrink.operations.profile import profile_network
from dshrink.operations.study_plan import StudyRequest, study_context
from dshrink.plots import front_figure, save_figure
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.results import BenchmarkResult, save_results
from dshrink.study.folders import MeasuredStep
from dshrink.study.networks import report_row, result_row, study_networks
from dshrink.study.recipe import INITIAL
from dshrink.study.report import report_lines
from dshrink.study.rows import StudyContext
from dshrink.study.runner import Study
from dshrink.study.steps import MERGE, TABLE, StepsFailedError, StudyError
from dshrink.train.image_sets import Images, open_images
from dshrink.train.processes import is_main_process, together
from dshrink.train.trackers import require_trackers
from latency_tables.files import write_atomically
from latency_tables.wording import counted

#: Opens a progress bar with a title.
OpenProgress = Callable[[str], AbstractContextManager[OnProgress]]


def no_bar(title: str) -> AbstractContextManager[OnProgress]:
    """No progress bar."""
    return nullcontext(no_progress)


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What came out of a study; the rows of ``results`` are those of ``results.csv``."""

    results: Sequence[BenchmarkResult]
    report: Sequence[str]
    files: Sequence[Path]


def run_study(
    request: StudyRequest, *, notice: Notice = no_notice, progress: OpenProgress = no_bar
) -> StudyResult | None:
    """Train, search, merge and measure every network of a recipe; write its tables and pictures.

    Does whatever is not done yet; None in all processes but the first.
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
            try:
                study = shown.write(shown.measure_networks(), failed.failures if failed else {})
            except OSError:
                if failed is None:  # else a disk is full since a step, which says more
                    raise
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
        """Open the images. Raises on an unreadable table, and for a tracker that is missing."""
        require_trackers(request.recipe.log_with)
        images = open_images(request.data, request.recipe.choice.channels)
        context = study_context(request, images)
        return cls(
            request=request, images=images, context=context, notice=notice, progress=progress
        )

    def measure_table(self) -> None:
        """Profile the recipe's network, unless that was done.

        Raises DshrinkError in one of several processes of a launcher.
        """
        context, recipe = self.context, self.context.recipe
        choice = replace(recipe.choice, weights=INITIAL, weights_ema=False)
        if choice.reference.takes_classes:
            choice = replace(choice, classes=len(self.images.classes))
        if context.folders.any_result(TABLE) is not None:
            return
        if together().num_processes > 1:
            inputs = ["--resolution", str(recipe.size)]
            if choice.in_channels is not None:
                inputs += ["--in-channels", str(choice.in_channels)]
            if choice.classes is not None:
                inputs += ["--classes", str(choice.classes)]
            raise DshrinkError(
                "several processes train together, they do not measure: measure the table first "
                f"(`dshrink profile {shlex.join([*choice.words, *inputs])}`) and give it with "
                "--table"
            )
        with self.progress(f"profile {choice.name}") as update:
            profile = profile_network(
                choice,
                context.table,
                self.request.target,
                dense=recipe.table.dense,
                hold_out=recipe.table.hold_out,
                on_progress=update,
                notice=self.notice,
            )
        context.folders.finish(TABLE, MeasuredStep(digest=profile.table.digest))

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
        files: dict[str, Path] = {}  # of each structure the first: speed depends on no weights
        for one in networks:
            files.setdefault(one.merged.structure, one.file)
        with self.progress("benchmark") as update:
            measured = bench_networks(
                [str(file) for file in files.values()],
                self.request.folder / "bench.csv",
                self.request.target,
                tables=[self.context.table],
                tables_must_fit=False,
                on_progress=update,
                notice=self.notice,
            )
        speeds = dict(zip(files, measured, strict=True))
        return [result_row(self.context, one, speeds[one.merged.structure]) for one in networks]

    def reported(self) -> StudyStages:
        """The study of the whole recipe, with the steps that are asked for now.

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
            self.notice(f"not in the report: {counted(len(left_out), 'network')}, as {left_out[0]}")
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
