"""Error of our predictions on held-out networks, and how much measuring they take.

    python benchmarks/prediction_error.py --out DIR [--model NAME ...] [--batch N ...]

Profiles each network at each batch with 60 networks that take no part (an interrupted run is
resumed) and writes next to this file, into results/: a CSV with every held-out network, a page with
the summary, the machine, the versions and the date, and a picture. All figures of a network and
batch are from one journal:

- ours: the posterior, as ``dshrink table predict`` gives it;
- alone: the same without the runtime's own profile, pieces alone as the prior;
- line: the best line through sums of pieces alone, of all networks that we learn from;
- before: how it was done before (a low quantile of a low quantile without levels; a line with a
  slope a form through the first 9 networks).

The error after so many rounds is that of what was known then, against the networks as measured in
all rounds, with the level (one factor for all) divided out.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dshrink.network.references import ModelChoice
from dshrink.operations.profile import profile_network
from latency_tables.estimator import NORMAL_95, NORMAL_MEAN
from latency_tables.hold_out import fitted_line
from latency_tables.networks import MeasuredNetwork
from latency_tables.priors import fit_estimate, network_costs, observations
from latency_tables.table import LatencyTable
from profiler.journal import JOURNAL_NAME, JournalState
from profiler.journal_lines import read_entry
from profiler.measurement import Measurement
from profiler.planning.profile_plan import PlannedNetwork, ProfilePlan
from profiler.profile import Profile, plan_of
from profiler.statistics import quantile
from profiler.table.evidence import Evidence, weigh
from profiler.target import Target

MODELS = ("mobilenetv2_100", "mobilenetv2_140", "tf_efficientnet_lite0", "resnet18")
BATCHES = (1, 8)
HELD_OUT = 60
RESULTS = Path(__file__).parent / "results"
#: The statistic of before: quantiles within a round, and over rounds.
BEFORE = (0.05, 0.25)
#: Networks that the line of before was fitted to, beside the original and the all-merged ones.
BEFORE_NETWORKS = 6

COLUMNS = (
    *("model", "batch", "segments", "keep_mask", "padding", "measured_ms", "low_ms", "high_ms"),
    *("predicted_ms", "predicted_sd_ms", "alone_ms", "line_ms", "before_ms", "plain_sum_ms"),
)

Errors = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A profile and its journal, round by round."""

    profile: Profile
    state: JournalState
    segments: str

    @classmethod
    def of(cls, profile: Profile, segments: str) -> Run:
        state = JournalState()
        file = profile.request.folder / JOURNAL_NAME
        for number, line in enumerate(file.read_text().splitlines()[1:], start=2):
            state.take(read_entry(json.loads(line), f"{file}, line {number}"))
        return cls(profile=profile, state=state, segments=segments)

    @property
    def table(self) -> LatencyTable:
        return self.profile.table

    @cached_property
    def plan(self) -> ProfilePlan:
        return plan_of(self.profile.request)

    @cached_property
    def rounds(self) -> int:
        return 1 + max(number for _, number in self.state.accepted)

    def measurements(self, rounds: int) -> dict[str, Measurement]:
        conditions = self.table.conditions
        return {
            job.id: Measurement(
                job_id=job.id,
                replies=tuple(r for r in self.state.replies(job.id) if r.round < rounds),
                clock=conditions.clock,
                statistic=conditions.statistic,
            )
            for job in self.plan.jobs
        }

    def seconds(self, rounds: int) -> float:
        """Of measuring, without the networks that only check."""
        checks = {network.job_id for network in self.plan.networks_of("check")}
        replies = self.state.accepted.values()
        return math.fsum(r.took_s for r in replies if r.round < rounds and r.job_id not in checks)

    def evidence(self, rounds: int) -> Evidence | None:
        return weigh(self.plan, self.table.conditions, self.measurements(rounds))

    @cached_property
    def checked(self) -> tuple[MeasuredNetwork, ...]:
        return tuple(one for one in self.table.known_networks if one.role == "check")

    def places(self, network: MeasuredNetwork | PlannedNetwork) -> tuple[Any, ...]:
        return self.table.places(network.keep_mask, network.padding)

    def predicted(self, evidence: Evidence) -> Errors:
        return np.array([evidence.costs.predict(self.places(one))[0] for one in self.checked])

    @cached_property
    def measured(self) -> Errors:
        return np.array([one.measured_ms for one in self.checked])

    @cached_property
    def ours(self) -> tuple[Errors, Errors]:
        """Predictions and their standard deviations."""
        assert self.table.costs is not None
        both = [self.table.costs.predict(self.places(one)) for one in self.checked]
        return np.array([ms for ms, _ in both]), np.array([sd for _, sd in both])

    @cached_property
    def alone(self) -> Errors:
        rows = [replace(row, profiled_ms=None) for row in self.table.rows]
        seen = observations(self.table.known_networks, self.table.forms)
        estimate = fit_estimate(rows, seen)
        assert estimate is not None
        costs = network_costs(rows, seen, estimate)
        assert costs is not None
        return np.array([costs.predict(self.places(one))[0] for one in self.checked])

    def sums(self, networks: Sequence[MeasuredNetwork]) -> list[float]:
        return [self.table.sum_ms(one.keep_mask, one.padding) for one in networks]

    @cached_property
    def line(self) -> Errors:
        fit = [one for one in self.table.known_networks if one.role == "fit"]
        slope, intercept = fitted_line(self.sums(fit), [one.measured_ms for one in fit])
        return intercept + slope * np.array(self.sums(self.checked))

    @cached_property
    def before(self) -> Errors:
        """With the level divided out: it had a statistic of its own."""
        known = {name: self._before_ms(name) for name in self.plan.by_id}
        pieces = {
            p.place: known[p.spec.digest] for p in self.plan.pieces.pieces if p.spec.digest in known
        }
        first = [*self.plan.networks_of("start"), *self._first_candidates(known)]
        base = first[0]

        def row(network: MeasuredNetwork | PlannedNetwork) -> list[float]:
            change = self._sum(pieces, network) - self._sum(pieces, base)
            mapped = network.padding == "bias_map"
            return [1.0, 0.0 if mapped else change, change if mapped else 0.0]

        y = np.array([known[network.job_id] for network in first], dtype=float)
        x = np.array([row(network) for network in first])
        slopes = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)[0]
        predicted = np.array([row(network) for network in self.checked]) @ slopes
        names = {(one.keep_mask, one.padding): one.job_id for one in self.plan.networks}
        own = [known[names[one.keep_mask, one.padding]] for one in self.checked]
        return np.asarray(predicted / np.array(own, dtype=float) * self.measured)

    def _first_candidates(self, known: Mapping[str, float | None]) -> list[PlannedNetwork]:
        used = [one for one in self.plan.networks_of("candidate") if known[one.job_id]]
        return used[:BEFORE_NETWORKS]

    def _before_ms(self, name: str) -> float | None:
        clock = self.table.conditions.clock
        samples = [r.samples for r in self.state.replies(name) if r.samples is not None]
        rounds = [quantile(one.times_ns(clock), BEFORE[0]) for one in samples]
        return quantile(rounds, BEFORE[1]) / 1e6 if rounds else None

    def _sum(
        self, pieces: Mapping[Any, float | None], network: MeasuredNetwork | PlannedNetwork
    ) -> float:
        return math.fsum(pieces[place] or 0.0 for place in self.places(network))

    def curve(self) -> Iterator[tuple[int, float, float, float]]:
        """Rounds, seconds, and the mean and largest error in per cent, level divided out."""
        for rounds in range(1, self.rounds + 1):
            evidence = self.evidence(rounds)
            if evidence is None:
                continue
            ratio = self.predicted(evidence) / self.measured
            errors = 100.0 * np.abs(ratio / np.median(ratio) - 1.0)
            yield rounds, self.seconds(rounds), float(errors.mean()), float(errors.max())


def percent(predicted: Errors, measured: Errors) -> Errors:
    return np.asarray(100.0 * np.abs(predicted / measured - 1.0))


def covered_percent(run: Run) -> float:
    """Of the networks, inside the posterior's 95 % interval, their own measurement's included."""
    predicted, sd = run.ours
    own = np.array([one.error_ms for one in run.checked])
    return float(100.0 * np.mean(np.abs(predicted - run.measured) <= NORMAL_95 * np.hypot(sd, own)))


def measuring_percent(run: Run) -> float:
    return (
        100.0
        * NORMAL_MEAN
        * float(np.mean([one.error_ms / one.measured_ms for one in run.checked]))
    )


def write_networks(runs: Sequence[Run], file: Path) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in runs:
            columns = (*run.ours, run.alone, run.line, run.before, np.array(run.sums(run.checked)))
            for one, *values in zip(run.checked, *columns, strict=True):
                about = (run.table.model, run.table.conditions.batch, run.segments)
                own = (one.measured_ms, one.low_ms, one.high_ms, *values)
                writer.writerow(
                    (*about, one.keep_mask, one.padding, *(f"{value:.5f}" for value in own))
                )


def page(runs: Sequence[Run]) -> str:
    """The summary as a page."""
    tables = [run.table for run in runs]
    machine, conditions = tables[0].fingerprint, tables[0].conditions
    lines = [
        "# Error of predicted latency on held-out networks",
        "",
        f"Machine: {machine.get('cpu_model')}, {machine.get('cores')} cores, {machine.get('os')}, "
        f"kernel {machine.get('kernel')}. {conditions.runtime} {conditions.runtime_version}, "
        f"{conditions.precision}, {conditions.threads} thread, 224x224, statistic "
        f"{conditions.statistic}. dshrink {tables[0].dshrink_version}. "
        f"Dates: {tables[0].date} to {tables[-1].date}.",
        "",
        *(__doc__ or "").split("\n\n", 2)[2].strip().split("\n"),
        "",
        "Mean / largest error in per cent of the measured latency. `measuring` is the mean",
        "error that a perfect prediction would have: the measurement of the held-out networks",
        "themselves. `covered` is the share inside the 95 % interval. `fit on` are the networks",
        "that were learned from, `processes` how many there were, `one process` by how much a",
        "single one may differ (95 %).",
        "",
        "| network | batch | held out | **ours** | alone | line | before | plain sum | measuring | "
        "covered | fit on | processes | one process | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(run) for run in runs),
        "",
        "## Error against measuring",
        "",
        "Seconds of measuring (without the networks that only check), mean / largest error then.",
        "",
        "| network | batch | " + " | ".join(f"{n} rounds" for n in _shown(runs)) + " |",
        "|---|---|" + "---|" * len(_shown(runs)),
        *(_curve_line(run, _shown(runs)) for run in runs),
    ]
    notes = [f"- {t.model}, batch {t.conditions.batch}: {w}" for t in tables for w in t.warnings]
    return (
        "\n".join([*lines, *(["", "Warnings of the tables:", "", *notes] if notes else [])]) + "\n"
    )


def _shown(runs: Sequence[Run]) -> list[int]:
    return [n for n in (1, 2, 3, 4, 6, 8, 12, 16) if n <= max(run.rounds for run in runs)]


def _line(run: Run) -> str:
    def both(predicted: Errors) -> str:
        errors = percent(predicted, run.measured)
        return f"{errors.mean():.2f} / {errors.max():.2f}"

    level = run.table.level
    assert level is not None
    fit = sum(one.role == "fit" for one in run.table.known_networks)
    return (
        f"| {run.table.model} | {run.table.conditions.batch} | {len(run.checked)} "
        f"| **{both(run.ours[0])}** | {both(run.alone)} | {both(run.line)} | {both(run.before)} "
        f"| {both(np.array(run.sums(run.checked)))} | {measuring_percent(run):.2f} "
        f"| {covered_percent(run):.0f} % | {fit} | {level.processes} "
        f"| +-{level.spread_percent:.1f} % | {run.seconds(run.rounds):.0f} |"
    )


def _curve_line(run: Run, shown: Sequence[int]) -> str:
    points = {rounds: values for rounds, *values in run.curve()}
    cells = (
        "{:.0f} s: {:.2f} / {:.2f}".format(*points[number]) if number in points else ""
        for number in shown
    )
    return f"| {run.table.model} | {run.table.conditions.batch} | {' | '.join(cells)} |"


def draw(runs: Sequence[Run], file: Path) -> None:
    """Mean error against seconds of measuring, a line a network and batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        curve = list(run.curve())
        conditions = run.table.conditions
        axes.plot(
            [seconds for _, seconds, _, _ in curve],
            [mean for _, _, mean, _ in curve],
            marker="o",
            markersize=3,
            label=f"{run.table.model}, batch {conditions.batch}",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="seconds of measuring",
        ylabel="mean error on held-out networks, %",
    )
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--segments", default="blocks")
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--time-limit", type=float)
    parser.add_argument("--device", default="local")
    parser.add_argument("--name", default="prediction_error_local")
    given = parser.parse_args()
    runs = []
    for batch in given.batch:
        for model in given.model:
            profile = profile_network(
                ModelChoice(model=model),
                given.out / f"{model}-{given.segments}-batch{batch}",
                Target(device=given.device, batch=batch),
                segments=given.segments,
                hold_out=given.held_out,
                time_limit=given.time_limit,
                notice=print,
            )
            runs.append(Run.of(profile, given.segments))
            print(_line(runs[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    write_networks(runs, RESULTS / f"{given.name}.csv")
    draw(runs, RESULTS / f"{given.name}.png")
    (RESULTS / f"{given.name}.md").write_text(page(runs))
    print(page(runs))


if __name__ == "__main__":
    main()
