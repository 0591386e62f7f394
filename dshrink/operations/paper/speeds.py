"""Measure an experiment of throughputs, a batch size after the other.

Each is written when it is measured: what ends a run (memory that is too small for the next batch)
does not take what is known already.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from devices.inventory import load_inventory
from dshrink.front_results import fronts_of
from dshrink.operations.bench_run import BENCH_ROUNDS, measure_run
from dshrink.operations.paper.files import write_experiment
from dshrink.operations.paper.networks import PaperNetworks, with_unmerged
from dshrink.operations.paper.request import PADDING, PaperOutcome, PaperRequest, SpeedRun
from dshrink.paper.experiments import Experiment
from dshrink.paper.flops import FLOPS_COUNTED
from dshrink.paper.published import Setting
from dshrink.paper.report import speed_lines
from dshrink.paper.results import csv_columns, paper_results, record
from dshrink.plots import front_figure, save_figure
from dshrink.plots.paper import speedups_figure
from dshrink.plots.style import describe_conditions
from dshrink.progress import Notice, OnProgress
from latency_tables.records import plain
from profiler.target import batch_on, measuring_on


def measure_speeds(
    found: Experiment, request: PaperRequest, on_progress: OnProgress, notice: Notice
) -> PaperOutcome:
    asked = tuple(with_unmerged(found.networks)) if request.unmerged else found.networks
    networks = PaperNetworks(request.padding)
    # A user's board is compared with the figures of its kind, on the processor that they are of.
    device = load_inventory().get(request.target.device)
    is_published = batch_on(replace(request.target, batch=None)) == device.paper_batch
    kind = device.kind if is_published else f"the CPU of {device.kind}"
    runs: list[SpeedRun] = []
    for batch in dict.fromkeys(request.batches or found.batches_on(kind)):
        target = replace(request.target, batch=batch or request.target.batch)
        with measuring_on(target, notice) as (scheduler, conditions):
            size = conditions.batch
            run = measure_run(
                networks.built(asked, size),
                conditions,
                scheduler,
                request.folder / _journal_name(found, request, size),
                seed=request.seed,
                effort=BENCH_ROUNDS.effort,
                on_progress=on_progress,
                notice=notice,
            )
        results = paper_results(asked, size, run.results)
        runs.append(SpeedRun(run=run, setting=Setting(kind, size), results=results))
        outcome = _written_speeds(found, request, tuple(runs))
    return outcome


def _journal_name(found: Experiment, request: PaperRequest, batch: int) -> str:
    """Other networks are another run: what was measured before stays."""
    words = [found.name, f"batch{batch}"]
    words += ["unmerged"] if request.unmerged else []
    words += [request.padding] if request.padding != PADDING else []
    return f"{'_'.join(words)}.journal"


def _written_speeds(
    found: Experiment, request: PaperRequest, runs: tuple[SpeedRun, ...]
) -> PaperOutcome:
    settings = found.settings
    rows = [record(result, settings) for run in runs for result in run.results]
    at = request.folder / found.name
    about = []
    if any(one.form == "merged" for one in found.networks):
        about += [f"Merged blocks: padding {request.padding}, ReLU6 behind them, as in the paper."]
    if any(one.mflops for one in found.networks):
        about += [FLOPS_COUNTED]
    titled = [(describe_conditions(run.conditions), run.setting, run.results) for run in runs]
    lines = speed_lines(found, titled, about=about)
    data = {"runs": [_run_data(run) for run in runs]}
    date = max(run.run.date for run in runs)
    files = write_experiment(at, csv_columns(settings), rows, lines, data, date)
    for run in runs:
        name = at.with_name(f"{found.name}_batch{run.conditions.batch}.png")
        if any(one.measured and one.measured.speedup for one in run.results):
            files += save_figure(speedups_figure(found, run.conditions, run.results), name)
    measured = [one.measured for run in runs for one in run.results if one.measured]
    if found.is_front and any(one.accuracy_percent and one.throughput_fps for one in measured):
        front = front_figure(fronts_of([one for one in measured if one.accuracy_percent]).fronts)
        files += save_figure(front, at.with_name(f"{found.name}_front.png"))
    return PaperOutcome(experiment=found, runs=runs, records=tuple(rows), files=tuple(files))


def _run_data(run: SpeedRun) -> dict[str, Any]:
    return {
        "conditions": run.conditions.to_json(),
        "fingerprint": plain(run.run.fingerprint),
        "level": asdict(run.run.level) if run.run.level else None,
        "date": run.run.date,
        "warnings": list(run.run.warnings),
        "results": [asdict(one.measured) for one in run.results if one.measured],
    }
