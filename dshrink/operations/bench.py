"""Throughput of whole networks, measured interleaved and compared with a table's predictions.

Latency does not depend on the weights, so a network given by name and plan is built with random
ones; an ONNX file is measured as it is. The rounds, the order and the statistic are those of a
profile, so that prediction and measurement mean the same. Each batch size is a run of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dshrink.errors import DshrinkError, PlotError
from dshrink.network.models import Network
from dshrink.network.references import ModelChoice
from dshrink.operations.bench_inputs import BenchInputs
from dshrink.operations.bench_networks import BenchNetwork
from dshrink.operations.bench_records import save_records
from dshrink.operations.bench_run import BenchmarkRun, measure_run
from dshrink.operations.bench_sweep import sweep_batches
from dshrink.operations.bench_tables import require_tables_of, require_tables_under
from dshrink.operations.given import AnyPlan, AnyTable, opened_plan, opened_table, table_words
from dshrink.plots import batches_figure, save_figure
from dshrink.progress import Notice, OnProgress, no_notice, no_progress
from dshrink.results import BenchmarkResult, save_results
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable
from profiler.scheduling.serial import Scheduler
from profiler.target import HERE, Target, batch_on, measuring_on

#: What is written beside the CSV.
_BESIDE = (".jsonl", ".md", ".png", ".svg")


def bench_networks(
    networks: Sequence[str | Network],
    out_file: Path | str,
    target: Target = HERE,
    *,
    plans: Sequence[AnyPlan] = (),
    tables: Sequence[AnyTable] = (),
    batches: Sequence[int] | None = None,
    sweep: bool = False,
    tables_must_fit: bool = True,
    choice: ModelChoice | None = None,
    padding: str | None = None,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> list[BenchmarkResult]:
    """Measure networks, and under each plan those that are no merged file; write the results.

    A network is in hand, a name as the commands take it, or a file; the first is what the others
    are compared with. The rows of ``out_file`` are returned; its journal, samples and a table for
    readers are written beside it. Where ``tables`` know a network, their predictions are given.
    ``batches`` are measured one after the other, by default the target's alone; ``sweep`` doubles
    the batch from 1 until throughput saturates. ``choice`` says what is asked of each network by
    name, whatever its own name is. ``notice`` reports what a table cannot predict, and merged files
    whose weights were not trained for it. The same call resumes an interrupted run. Raises
    ProfilerError, DevicesError and DshrinkError; the last before anything is measured for a table
    of other networks or conditions, unless ``tables_must_fit`` is False: then it is reported.
    """
    out_file = Path(out_file)
    if sweep and batches:
        raise DshrinkError("--sweep chooses the batch sizes itself: leave --batch out, or --sweep")
    if out_file.suffix in _BESIDE:
        raise DshrinkError(
            f"--out {out_file}: a file of this name is written beside the CSV: name it "
            f"{out_file.with_suffix('.csv').name}"
        )
    loaded = {table_words(table): opened_table(table) for table in tables}
    inputs = BenchInputs(
        networks=networks,
        plans=[opened_plan(plan) for plan in plans],
        tables=loaded,
        choice=choice,
        padding=padding,
        notice=notice,
    )
    wanted = list(dict.fromkeys(batches or [batch_on(target)]))
    several = sweep or len(wanted) > 1
    once = _once(notice)

    def measure(batch: int, at_batch: Sequence[BenchNetwork]) -> BenchmarkRun:
        name = f"{out_file.stem}.batch{batch}.journal" if several else f"{out_file.stem}.journal"
        with measuring_on(replace(target, batch=batch), notice) as (scheduler, conditions):
            if tables_must_fit:
                require_tables_under(loaded, conditions, None if sweep else wanted)
            return measure_run(
                at_batch,
                conditions,
                scheduler,
                out_file.with_name(name),
                tables=[*loaded.values()],
                seed=seed,
                on_progress=_at_batch(batch, on_progress) if several else on_progress,
                notice=once,
            )

    # What cannot be measured is refused before anything is.
    found = inputs.at(1 if sweep else wanted[0])
    for batch in [2] if sweep else wanted[1:]:
        inputs.at(batch)
    if tables_must_fit:
        require_tables_of(loaded, found)
    _notice_unfit_weights(found, notice)
    runs: list[BenchmarkRun] = []
    if sweep:
        runs = sweep_batches(inputs.at, measure, notice)
        _save(runs, out_file)
    else:
        for batch in wanted:
            runs.append(measure(batch, inputs.at(batch)))
            # What ends the next one (memory, a lost link) does not take what is known already.
            _save(runs, out_file)
    _notice_idle_tables([*loaded.values()], [run.conditions for run in runs], notice)
    results = [result for run in runs for result in run.results]
    if several:
        _draw_batches(results, out_file, notice)
    return results


def _save(runs: Sequence[BenchmarkRun], out_file: Path) -> None:
    save_results([result for run in runs for result in run.results], out_file)
    save_records(runs, out_file)


def _at_batch(batch: int, on_progress: OnProgress) -> OnProgress:
    return lambda done, total, label: on_progress(done, total, f"batch {batch}, {label}")


def _once(notice: Notice) -> Notice:
    """What is so at one batch is so at the next."""
    said: set[str] = set()

    def unless_said(line: str) -> None:
        if line not in said:
            said.add(line)
            notice(line)

    return unless_said


def _draw_batches(results: Sequence[BenchmarkResult], out_file: Path, notice: Notice) -> None:
    """Draw the picture beside the results; what cannot be drawn is no reason to lose them."""
    try:
        figure = batches_figure(results)
    except PlotError as error:
        notice(f"no picture of the batch sizes: {error}")
        return
    pictures = save_figure(figure, out_file.with_suffix(".png"))
    notice(f"wrote {' and '.join(map(str, pictures))}")


def _notice_idle_tables(
    tables: Sequence[LatencyTable], measured: Sequence[Conditions], notice: Notice
) -> None:
    """Say which tables were measured under conditions that none of the runs has."""
    for table in tables:
        found = [table.conditions.differences(conditions) for conditions in measured]
        if found and all(found):
            nearest: tuple[str, ...] = min(found, key=len)
            notice(
                f"the table of {table.model} predicts nothing here: measured under other "
                f"conditions ({'; '.join(nearest)})"
            )


def _notice_unfit_weights(networks: Sequence[BenchNetwork], notice: Notice) -> None:
    """Speeds of such files are real, their accuracy is not what a reader may take it for."""
    unfit = [one.label for one in networks if one.facts.trained in ("with", "unknown")]
    if unfit:
        notice(
            f"{', '.join(unfit)}: merged from weights that were not trained, or are not known to "
            "be, without the activations that were removed: the speed is right, the accuracy "
            "mostly lost (docs/merging.md, Without training)"
        )


def run_benchmark(
    networks: Sequence[BenchNetwork],
    conditions: Conditions,
    scheduler: Scheduler,
    folder: Path,
    *,
    tables: Sequence[LatencyTable] = (),
    seed: int = 0,
    on_progress: OnProgress = no_progress,
    notice: Notice = no_notice,
) -> list[BenchmarkResult]:
    """The results of ``measure_run``: each with its speed-up against the network's baseline."""
    run = measure_run(
        networks,
        conditions,
        scheduler,
        folder,
        tables=tables,
        seed=seed,
        on_progress=on_progress,
        notice=notice,
    )
    return list(run.results)
