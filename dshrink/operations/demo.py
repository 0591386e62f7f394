"""The whole journey with one network on this machine, step by step: ``dshrink demo``.

Each step is an operation that has a command of its own, and finds in the folder what it has done
before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from devices.agent.protocol import file_digest
from dshrink.errors import DshrinkError, NetworkError
from dshrink.network.models import Network, load
from dshrink.network.references import ModelChoice
from dshrink.operations.bench import bench_networks
from dshrink.operations.bench_networks import network_of_file
from dshrink.operations.demo_folder import (
    certificate_of,
    keep_state,
    known_closeness,
    read_object,
    state_of,
)
from dshrink.operations.demo_plans import budgets_ms, mild_plan
from dshrink.operations.demo_results import DemoAgreement, DemoNetwork, DemoResult
from dshrink.operations.figures import plot_blocks, plot_kept, plot_predicted, plot_throughput
from dshrink.operations.merge import merge_by_plan
from dshrink.operations.profile import profile_network
from dshrink.operations.refit import REPORT, refit_by_plan, require_refittable
from dshrink.operations.report import write_report
from dshrink.operations.search import search_blocks
from dshrink.operations.study import OpenProgress, no_bar
from dshrink.plots import save_figure
from dshrink.progress import Notice, no_notice
from dshrink.refit.photographs import write_photographs
from dshrink.result_notes import result_notes
from dshrink.results import BenchmarkResult
from dshrink.search.greedy import padding_of
from dshrink.search.plan import Plan, save_plan
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable
from latency_tables.trust import verdict_line
from profiler.target import HERE, Target, batch_on

#: Measuring ends after so many seconds, however restless the machine is.
PROFILE_LIMIT_S = 100.0
#: Crops of the photographs: as many as a refit of some blocks takes seconds for.
REFIT_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """What to show it with. ``or_random``: where pre-trained weights cannot be had, random ones.

    ``data`` are images to refit on; None: photographs that come with a dependency.
    """

    choice: ModelChoice
    folder: Path
    or_random: bool = True
    data: str | None = None
    target: Target = HERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """What a budget buys. ``certificate`` is the merge's largest relative error in float64."""

    budget_ms: float
    plan: Plan
    plan_file: Path
    file: Path
    certificate: float


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The steps in their order; each says what the next ones need."""

    request: DemoRequest
    network: Network
    notice: Notice = no_notice
    progress: OpenProgress = no_bar

    @classmethod
    def of(
        cls, request: DemoRequest, *, notice: Notice = no_notice, progress: OpenProgress = no_bar
    ) -> Demo:
        """Load the network. Raises DemoError where the folder holds another demo."""
        network = _loaded(request, notice)
        keep_state(request.folder, network, request.data)
        return cls(request=request, network=network, notice=notice, progress=progress)

    def measure_table(self) -> LatencyTable:
        with self.progress(f"profile {self.network.name}") as update:
            profile = profile_network(
                self.network,
                self.request.folder / "table",
                self.request.target,
                time_limit=PROFILE_LIMIT_S,
                on_progress=update,
                notice=self.notice,
            )
        return profile.table

    def search(self, table: LatencyTable) -> list[tuple[float, Plan]]:
        """A plan for each budget. Raises DemoError where merging saves next to nothing."""
        found: dict[str, tuple[float, Plan]] = {}
        for budget_ms in budgets_ms(table):
            # A table that is not fit is used all the same: the demo says that it is not.
            plan = search_blocks(
                self.network,
                table,
                budget_ms=budget_ms,
                padding=padding_of(table),
                allow_unfit=True,
            )
            found.setdefault(plan.mask, (budget_ms, plan))
        return [*found.values()]

    def merge(self, plans: Sequence[tuple[float, Plan]]) -> list[Shrunk]:
        """Merge by each plan, write the file, and prove that it computes the same."""
        done = []
        with self.progress("merge and certify") as update:
            for number, (budget_ms, plan) in enumerate(plans, start=1):
                plan_file = self.request.folder / f"plan{number}.json"
                file = self.request.folder / f"shrunk{number}.onnx"
                update(number - 1, len(plans), file.name)
                save_plan(plan, plan_file)
                if not self._is_merged(plan, file):
                    merge_by_plan(
                        self.network, plan_file, file, batch=self._batch, notice=self.notice
                    )
                shrunk = Shrunk(
                    budget_ms=budget_ms,
                    plan=plan,
                    plan_file=plan_file,
                    file=file,
                    certificate=float(
                        read_object(certificate_of(file))["network_float64"]["relative"]
                    ),
                )
                done.append(shrunk)
                update(number, len(plans), file.name)
        return done

    def refit(self, table: LatencyTable) -> DemoAgreement | None:
        """Merge a few blocks, and fit them to the original on a few photographs.

        Some that have a skip, which keeps most of what they compute: more than that takes training.
        None, with a notice, for weights that are not trained or cannot be changed.
        """
        try:
            require_refittable(self.network)
        except DshrinkError as error:
            self.notice(f"no refit: {error}")
            return None
        plan = mild_plan(self.network, table)
        folder = self.request.folder / "refit"
        data = self.request.data
        if data is None:
            photographs = self.request.folder / "photographs"
            write_photographs(photographs)
            data = str(photographs)
        closeness = known_closeness(folder / REPORT, plan)
        if closeness is None:
            with self.progress("refit") as update:
                closeness = refit_by_plan(
                    self.network,
                    plan,
                    data,
                    folder,
                    images=REFIT_IMAGES,
                    on_progress=update,
                    notice=self.notice,
                ).result.held_out
        whole_ms = predict(table, table.forms.base).latency_ms
        return DemoAgreement(
            merged=plan.keep_mask.count("0"),
            predicted_speedup=whole_ms / predict(table, plan.keep_mask, plan.padding).latency_ms,
            closeness=closeness,
        )

    def measure_networks(
        self, table: LatencyTable, shrunk: Sequence[Shrunk]
    ) -> list[BenchmarkResult]:
        """The original and what was made of it, by turns, beside the table's predictions."""
        with self.progress("benchmark") as update:
            return bench_networks(
                [self.network, *(str(one.file) for one in shrunk)],
                self.request.folder / "results.csv",
                self.request.target,
                tables=[table],
                on_progress=update,
                notice=self.notice,
            )

    def write(
        self,
        table: LatencyTable,
        shrunk: Sequence[Shrunk],
        agreement: DemoAgreement | None,
        results: Sequence[BenchmarkResult],
    ) -> DemoResult:
        """Draw the pictures, write the page, and put together what was found."""
        folder = self.request.folder
        pictures, page = folder / "pictures", folder / "report.html"
        with self.progress("draw") as update:
            figures: dict[str, Callable[[], Figure]] = {
                "blocks": lambda: plot_blocks(table),
                "predicted": lambda: plot_predicted(table),
                "kept": lambda: plot_kept(
                    {one.plan_file.name: one.plan for one in shrunk}, table=table
                ),
                "throughput": lambda: plot_throughput(results),
            }
            for number, (name, draw) in enumerate(figures.items()):
                update(number, len(figures) + 1, name)
                save_figure(draw(), pictures / f"{name}.png")
            update(len(figures), len(figures) + 1, page.name)
            write_report(folder, page, only=self._on_the_page(shrunk), notice=self.notice)
        first, *others = results
        return DemoResult(
            model=self.network.name,
            resolution=self.network.resolution,
            weights=self.network.weights,
            table=str(folder / "table"),
            fit_for_search=table.fit_for_search,
            usable=verdict_line(table),
            networks=(
                DemoNetwork(result=first, blocks=table.block_count),
                *(
                    DemoNetwork(
                        result=result,
                        blocks=table.block_count,
                        budget_ms=one.budget_ms,
                        plan=str(one.plan_file),
                        file=str(one.file),
                        certificate=one.certificate,
                    )
                    for one, result in zip(shrunk, others, strict=True)
                ),
            ),
            agreement=agreement,
            notes=tuple(result_notes(results)),
            report=str(page),
            pictures=str(pictures),
        )

    def _on_the_page(self, shrunk: Sequence[Shrunk]) -> list[Path]:
        """The files of these steps, whatever else lies in the folder."""
        folder = self.request.folder
        found = [folder / "table" / "table.json", folder / "results.csv"]
        for one in shrunk:
            found += [one.plan_file, certificate_of(one.file)]
        refit = folder / "refit" / REPORT
        return [*found, refit] if refit.exists() else found

    @property
    def _batch(self) -> int:
        return batch_on(self.request.target)

    def _is_merged(self, plan: Plan, file: Path) -> bool:
        """Whether this plan's file, and its certificate, are there."""
        if not (file.exists() and certificate_of(file).exists()):
            return False
        if read_object(certificate_of(file)).get("onnx_sha256") != file_digest(str(file)):
            return False
        facts = network_of_file(file, self._batch).facts
        return (facts.keep_mask, facts.padding) == (plan.mask, plan.padding)


def _loaded(request: DemoRequest, notice: Notice) -> Network:
    choice = request.choice
    if not request.or_random:
        return load(choice, notice)
    if state_of(request.folder).get("weights") != "random":
        try:
            return load(replace(choice, weights="pretrained"), notice)
        except NetworkError as error:
            why = str(error).partition(";")[0]
            notice(
                f"{why}: random ones stand in, on which speed does not depend; or --weights FILE"
            )
    return load(replace(choice, weights="random"), notice)
