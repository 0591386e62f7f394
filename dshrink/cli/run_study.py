"""A study from its recipe to its tables and pictures: what ``dshrink run`` and the demo do.

Latency is measured before the training and after it, never beside it. Networks of equal structure
are one measurement: their speed does not depend on the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dshrink.cli.console import notice, progress
from dshrink.cli.train_options import is_main_process
from dshrink.errors import DshrinkError
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.results import BenchmarkResult
    from dshrink.study.recipe import Recipe
    from dshrink.study.rows import Workplace
    from dshrink.study.steps import Step, StepsFailedError
    from dshrink.train.data import Images
    from profiler.target import Target

TABLE_FOLDER = "table"


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """A recipe, its images, what to measure on, and where everything goes.

    ``recipe`` has the rows and seeds that are asked for now, ``whole`` all that it names; they are
    one where it is not given. ``table`` is a latency table of the recipe's network; None measures
    one into ``folder``.
    """

    recipe: Recipe
    data: str
    folder: Path
    target: Target
    whole: Recipe | None = None
    table: Path | None = None
    allow_unfit: bool = False
    unreadable: Unreadable = Unreadable.SKIP

    def steps(self) -> tuple[Step, ...]:
        """All steps of the training."""
        return self._steps_of(self.recipe)

    def _steps_of(self, recipe: Recipe) -> tuple[Step, ...]:
        from dshrink.study.steps import steps_of
        from profiler.target import batch_on

        return steps_of(recipe, measure_table=self.table is None, batch=batch_on(self.target))

    def reported(self, place: Workplace) -> Workplace:
        """``place`` with all steps of the whole recipe beside those asked for now.

        What was done under other settings, and is not asked for, is left out, with a notice.
        """
        from dshrink.study.steps import MERGE, StudyError

        recipe = (self.whole or self.recipe).with_all_of(self.recipe)
        steps = {step.name: step for step in self._steps_of(recipe)}
        folders = replace(place.folders, steps=steps)
        left_out: list[str] = []
        for name, step in list(steps.items()):
            if step.kind == MERGE and name not in place.folders.steps:
                try:
                    folders.result(name)
                except StudyError as error:
                    left_out.append(str(error))
                    del steps[name]
        if left_out:
            notice(f"not in the report: {len(left_out)} networks, as {left_out[0]}")
        return replace(place, recipe=recipe, folders=folders)

    def workplace(self, images: Images) -> Workplace:
        """Where the steps are done, with what is done already. Raises on an unreadable table."""
        from dshrink.study.rows import Workplace
        from dshrink.study.steps import StepFolders
        from latency_tables.io import load_table

        recipe = self.recipe
        identity = {
            "model": recipe.model,
            "resolution": recipe.resolution,
            "weights": _known_weights(recipe.weights),
            "data": images.digest,
        }
        # A table that is measured here is known by what it is measured under.
        table: Any = asdict(self.target) if self.table is None else load_table(self.table).digest
        return Workplace(
            recipe=recipe,
            data=self.data,
            table=self.table or self.folder / TABLE_FOLDER,
            folders=StepFolders.of(self.folder, identity, table, self.steps()),
            allow_unfit=self.allow_unfit,
            unreadable=self.unreadable,
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


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study ends in; the rows of ``results`` are those of ``results.csv``."""

    results: Sequence[BenchmarkResult]
    report: Sequence[str]
    files: Sequence[Path]


def run_study(request: StudyRequest, jobs: int) -> StudyResult | None:
    """Do whatever is not done yet, with progress bars; None in all processes but the first.

    Where steps fail, the others are measured and reported before StepsFailedError is raised.
    """
    from dshrink.study.steps import StepsFailedError
    from dshrink.train.data import open_images

    images = open_images(request.data)
    place = request.workplace(images)
    if request.table is None:
        measure_table(request, place, len(images.classes))
    failed: StepsFailedError | None = None
    try:
        train(place, images, jobs)
    except StepsFailedError as error:
        failed = error
    study = None
    if is_main_process():
        shown = request.reported(place)
        if failed is None or merged_networks(shown):
            results = measure_networks(request, shown)
            study = write_study(request, shown, results, failed)
    if failed is not None:
        raise failed
    return study


def measure_table(request: StudyRequest, place: Workplace, classes: int) -> None:
    """Profile the recipe's network, unless that was done. Raises DshrinkError under accelerate."""
    from dshrink.operations.profile import profile_network
    from dshrink.study.steps import TABLE
    from dshrink.train.processes import together

    if place.folders.result(TABLE) is not None:
        return
    if together().num_processes > 1:
        raise DshrinkError(
            "several processes train together, they do not measure: measure the table first "
            f"(`dshrink profile {place.recipe.model} --resolution {place.recipe.resolution} "
            f"--classes {classes}`) and give it with --table"
        )
    with progress(f"profile {place.recipe.model}") as update:
        profile = profile_network(
            place.recipe.model,
            place.table,
            request.target,
            resolution=place.recipe.resolution,
            classes=classes,
            dense=place.recipe.dense,
            hold_out=place.recipe.hold_out,
            on_progress=update,
            notice=notice,
        )
    place.folders.finish(TABLE, {"digest": profile.table.digest})


def train(place: Workplace, images: Images, jobs: int) -> None:
    """All steps of training, searching and merging, with a progress bar in epochs."""
    from dshrink.study.runner import Study

    with ExitStack() as stack:
        study = Study(place=place, images=images, jobs=jobs, notice=notice)
        if is_main_process():
            study.progress = stack.enter_context(progress("epochs"))
        study.run()


def measure_networks(request: StudyRequest, place: Workplace) -> list[BenchmarkResult]:
    """Bench one network of every structure, interleaved; a row for every network that was trained.

    Writes ``results.csv``.
    """
    from dshrink.operations.bench import bench_networks
    from dshrink.results import save_results

    merged = merged_networks(place)
    first: dict[str, Path] = {}
    for name, facts in merged.items():
        first.setdefault(facts["structure"], place.folders.folder(name) / facts["file"])
    with progress("benchmark") as update:
        measured = bench_networks(
            [str(file) for file in first.values()],
            [],
            [place.table],
            request.folder / "bench.csv",
            request.target,
            resolution=place.recipe.resolution,
            on_progress=update,
            notice=notice,
        )
    by_structure = dict(zip(first, measured, strict=True))
    results = [
        _row(place, name, facts, by_structure[facts["structure"]]) for name, facts in merged.items()
    ]
    save_results(results, request.folder / "results.csv")
    return results


def merged_networks(place: Workplace) -> dict[str, Mapping[str, Any]]:
    """What came out of every merge, by the name of its step."""
    from dshrink.study.steps import MERGE

    found: dict[str, Mapping[str, Any]] = {}
    for name, step in place.folders.steps.items():
        result = place.folders.result(name) if step.kind == MERGE else None
        if result is not None:
            found[name] = result
    return found


def _row(
    place: Workplace, name: str, facts: Mapping[str, Any], measured: BenchmarkResult
) -> BenchmarkResult:
    """A network's row: its own facts, and the speed of the one of its structure."""
    step = place.folders.steps[name]
    mask = facts["keep_mask"]
    return replace(
        measured,
        network=facts["file"],
        keep_mask=mask,
        kept_blocks=mask.count("1") if mask else None,
        macs=facts["macs"],
        parameters=facts["parameters"],
        file=str(place.folders.folder(name) / facts["file"]),
        method=step.method,
        seed=step.seed,
        accuracy_percent=facts["accuracy_percent"],
        data=place.folders.identity["data"],
        recipe=place.recipe.name,
        validation_images=facts["validation_images"],
    )


def write_study(
    request: StudyRequest,
    place: Workplace,
    results: Sequence[BenchmarkResult],
    failed: StepsFailedError | None = None,
) -> StudyResult:
    """Write front, picture and report beside the results; the report names what failed."""
    from dshrink import plots
    from dshrink.front_results import load_fronts, save_fronts
    from dshrink.study.report import report_lines
    from latency_tables.files import write_atomically

    folder = request.folder
    csv_file, front_file, report_file = (
        folder / name for name in ("results.csv", "front.csv", "report.md")
    )
    loaded = load_fronts([csv_file])
    save_fronts(loaded.fronts, front_file)
    pictures = plots.save_figure(
        plots.front_figure(loaded.fronts, left_out=loaded.left_out), folder / "front.png"
    )
    report = report_lines(
        place.recipe.title,
        row_results(place, results),
        remarks=place.recipe.remarks,
        failures=failed.failures if failed else None,
    )
    write_atomically(report_file, "\n".join(report) + "\n")
    return StudyResult(
        results=results, report=report, files=(csv_file, front_file, *pictures, report_file)
    )


def row_results(place: Workplace, results: Sequence[BenchmarkResult]) -> list[Any]:
    """The results as the report wants them."""
    from dshrink.study.report import RowResult

    found = []
    for (name, facts), result in zip(merged_networks(place).items(), results, strict=True):
        step = place.folders.steps[name]
        width = f"width {step.width:g}" if step.width is not None else ""
        found.append(
            RowResult(
                method=step.method,
                place=step.target.name if step.target else width,
                seed=step.seed,
                accuracy_percent=facts["accuracy_percent"],
                throughput_fps=result.throughput_fps,
                macs=facts["macs"],
                epochs=place.folders.epochs(name),
                differing=facts.get("differing"),
                validation_images=facts.get("validation_images"),
            )
        )
    return found
