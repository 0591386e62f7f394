"""``dshrink paper``: the paper's tables and figures, measured here, beside what it published."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import out, print_json
from dshrink.cli.grids import Column, number, print_grid
from dshrink.cli.report import also_write
from latency_tables.files import require_writable_folder

if TYPE_CHECKING:
    from dshrink.operations.paper import PaperOutcome, SpeedRun
    from dshrink.operations.paper.kim import KimOutcome
    from dshrink.paper.kim import HeadlineRow
    from dshrink.paper.kim_masks import MaskComparison
    from dshrink.paper.published import Setting
    from dshrink.paper.report import BlockRow, MemoryRow
    from dshrink.paper.results import PaperResult

LIST = "list"
_checked = outputs.checked_by(require_writable_folder)


def check_folder(context: typer.Context, folder: Path) -> Path:
    """As of the other commands; the list of experiments writes nothing."""
    if context.params.get("experiment") != LIST:
        _checked(context, folder)
    return folder


of_kim = partial(typer.Option, rich_help_panel="Comparison with the dynamic program (kim)")


def command(
    context: typer.Context,
    experiment: Annotated[
        str,
        typer.Argument(
            metavar="EXPERIMENT", help="a name of `dshrink paper list`, such as table2 or fig4"
        ),
    ],
    folder: Annotated[
        Path,
        typer.Option(
            "--out", help="folder for results, pictures and journals", callback=check_folder
        ),
    ] = Path("paper"),
    device: options.Device = "local",
    runtime: options.Runtime = None,
    precision: options.Precision = "fp32",
    batches: options.Batches = None,
    threads: options.Threads = 1,
    statistic: options.Statistic = None,
    launch: options.Launch = "plain",
    cache_mode: options.CacheMode = "hot",
    scheduler: options.Scheduler = None,
    hold_clocks: options.HoldClocks = False,
    unmerged: Annotated[
        bool,
        typer.Option(
            "--unmerged",
            help="also time shrunk networks with their activations removed, but not merged",
        ),
    ] = False,
    padding: Annotated[
        str, options.merging(help="padding of merged blocks: bias_map, repad or interior")
    ] = "repad",
    table: Annotated[
        Path | None, of_kim("--table", help="folder of a latency table of spans")
    ] = None,
    importance: Annotated[
        Path | None, of_kim("--importance", help="importances of that network's spans, a CSV")
    ] = None,
    plans: Annotated[
        list[str] | None,
        of_kim("--plan", help="mask:0011... or paper:NAME; default: the paper's; repeatable"),
    ] = None,
    allow_unfit: Annotated[
        bool, of_kim("--allow-unfit", help="use a table that is not fit for search")
    ] = False,
    seed: options.Seed = 0,
    report: options.Report = None,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Measure a table or figure of DepthShrinker here, beside what was published.

    Run the same command again to resume an interrupted run.
    """
    if experiment == LIST:
        _list(json, wide)
        return
    from dshrink.operations.paper import PaperRequest, measure_experiment
    from profiler.target import Target

    options.warn_of_plain_tcp(scheduler)
    request = options.call(
        context,
        PaperRequest,
        target=options.call(context, Target, batch=None),
        batches=tuple(batches or ()),
        plans=tuple(plans or ()),
    )
    outcome = options.run(context, measure_experiment, experiment, request=request)
    if json:
        from dshrink.cli.payloads.paper import paper_data

        print_json(paper_data(outcome))
    else:
        _print(outcome, wide)
    also_write(report, folder)
    if outcome.failed:
        raise typer.Exit(1)


def _list(json: bool, wide: bool) -> None:
    from dshrink.paper.experiments import Listed, listed

    found = listed()
    if json:
        from dshrink.cli.payloads.paper import ExperimentsData

        print_json(ExperimentsData(experiments=found))
        return
    columns: list[Column[Listed]] = [
        Column("experiment", lambda one: one.name),
        Column("what", lambda one: one.title, least=20, is_prose=True),
        number("networks", lambda one: one.networks, "d"),
        Column("published for", lambda one: one.published, rank=1, least=16, is_prose=True),
    ]
    print_grid(columns, found, wide=wide)


def _print(outcome: PaperOutcome, wide: bool) -> None:
    for run in outcome.runs:
        _print_run(outcome, run, wide)
    if outcome.blocks:
        _print_blocks(outcome, wide)
    if outcome.memory:
        _print_memory(outcome, wide)
    if outcome.kim:
        _print_kim(outcome.kim, wide)
    out.print(f"written: {', '.join(map(str, outcome.files))}")


def _print_run(outcome: PaperOutcome, run: SpeedRun, wide: bool) -> None:
    from dshrink.paper.report import notes, speedup
    from dshrink.paper.results import reference

    experiment = outcome.speeds
    against = reference(experiment.settings, run.setting)
    columns: list[Column[PaperResult]] = [
        # Hardly shortened: names differ in their middle.
        Column("network", lambda one: one.network.name, least=27),
        number("MFLOPs", lambda one: one.macs_millions, ".0f", rank=3),
        number("published MFLOPs", lambda one: one.network.mflops, "g", rank=5),
        number("top-1", lambda one: one.network.top1_percent, ".2f", suffix=" %", rank=4),
        number("ms", lambda one: one.measured.latency_ms if one.measured else None, ".3f"),
        number(
            "FPS", lambda one: one.measured.throughput_fps if one.measured else None, ".1f", rank=3
        ),
        Column("speed-up (95 %)", speedup, is_number=True),
    ]
    for at, setting in enumerate(experiment.settings):
        title = f"{setting.device} b{setting.batch}"
        rank = 0 if setting == against else 6 + at
        columns.append(number(title, partial(_published, setting), ".2f", suffix="x", rank=rank))
    if against:
        columns.append(number("ratio", lambda one: one.ratio(against), ".2f", rank=2))
    columns.append(
        Column("verdict", lambda one: one.measured.verdict if one.measured else "", rank=1)
    )
    print_grid(columns, run.results, title=_title(outcome, run), wide=wide)
    for note in notes(experiment, {one.setting for one in outcome.runs}, run.results):
        out.print(note)
    for one in run.results:
        if one.measured and one.measured.latency_ms is None:
            out.print(f"{one.network.name}: {' '.join(one.measured.reason.split())}")


def _published(setting: Setting, one: PaperResult) -> float | None:
    return one.published.get(setting)


def _title(outcome: PaperOutcome, run: SpeedRun) -> str:
    from dshrink.plots.style import describe_conditions

    return f"{outcome.title}\n{describe_conditions(run.conditions)}"


def _print_blocks(outcome: PaperOutcome, wide: bool) -> None:
    what = outcome.replaced
    columns: list[Column[BlockRow]] = [
        Column("network", lambda row: row.model, rank=2),
        number("block", lambda row: row.block, "d"),
        Column("name", lambda row: row.name, rank=3),
        number("original ms", lambda row: row.original_ms, ".3f"),
        number(f"{what} ms", lambda row: row.replaced_ms, ".3f"),
        number("saves", lambda row: row.saving_percent, ".1f", suffix=" %"),
        number("2080 Ti saves", lambda row: row.published_saving_percent, ".1f", suffix=" %"),
    ]
    print_grid(columns, outcome.blocks, title=f"{outcome.title}\n{outcome.where}", wide=wide)
    if outcome.most_percent:
        out.print(
            f"published: up to {outcome.most_percent:g} % of a block's latency, on an RTX 2080 Ti"
        )


def _print_memory(outcome: PaperOutcome, wide: bool) -> None:
    columns: list[Column[MemoryRow]] = [
        Column("network", lambda row: row.model, rank=1),
        number("block", lambda row: row.block, "d"),
        Column("name", lambda row: row.name, rank=2),
        number("weights KiB", lambda row: row.weights_kib, ".1f"),
        number("merged weights", lambda row: row.merged_weights_kib, ".1f"),
        number("peak KiB", lambda row: row.peak_kib, ".1f"),
        number("merged peak", lambda row: row.merged_peak_kib, ".1f"),
    ]
    print_grid(columns, outcome.memory, title=outcome.title, wide=wide)


def _print_kim(found: KimOutcome, wide: bool) -> None:
    from dshrink.operations.paper.kim import ABOUT_IMPORTANCE
    from dshrink.paper.kim import NOT_REBUILT

    columns: list[Column[HeadlineRow]] = [
        Column("network", lambda row: row.model),
        Column("method", lambda row: row.method),
        number("top-1", lambda row: row.top1_percent, ".2f", suffix=" %", rank=2),
        number("budget ms", lambda row: row.budget_ms, "g"),
        number("speed-up", lambda row: row.published_speedup, ".2f", suffix="x"),
        number("by their table", lambda row: row.table_speedup, ".2f", suffix="x"),
        number("differs", lambda row: row.difference_percent, "+.1f", suffix=" %", rank=1),
    ]
    print_grid(columns, found.headline, title="Published by Kim et al. (ICML 2023)", wide=wide)
    out.print(NOT_REBUILT)
    if found.comparisons is None:
        return
    masks: list[Column[MaskComparison]] = [
        Column("mask", lambda one: one.name, least=14),
        number("ms", lambda one: one.predicted_ms, ".3f"),
        number("importance", lambda one: one.importance, ".2f"),
        number("gain", lambda one: one.importance_gain, "+.2f"),
        number("faster", lambda one: one.faster_percent, ".1f", suffix=" %"),
        Column("note", lambda one: one.reason, rank=1, least=16, is_prose=True),
    ]
    title = (
        "Masks against the dynamic program: gain of importance at their latency, and how much "
        "faster at their importance"
    )
    print_grid(masks, found.comparisons, title=title, wide=wide)
    out.print(ABOUT_IMPORTANCE)
