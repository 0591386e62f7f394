"""``dshrink search``: which blocks or spans to merge, by tables, by importances, or by training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, outputs, search_mask
from dshrink.cli.console import notice, progress, show_result
from dshrink.cli.render_search import plan_lines, result_data, result_lines
from dshrink.errors import DshrinkError
from latency_tables.wording import counted

if TYPE_CHECKING:
    from dshrink.operations.search import DpResult
    from dshrink.search.plan import Plan


app = typer.Typer(
    no_args_is_help=True, help="Choose which blocks or spans to merge, by one of five methods."
)


@app.command()
def greedy(
    context: typer.Context,
    model: options.Model,
    table: options.Table,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    budget_ms: options.BudgetMs = None,
    keep: options.Keep = None,
    padding: options.BlockPadding = None,
    allow_unfit: options.AllowUnfit = False,
    out_file: options.PlanFile = None,
    json: options.Json = False,
) -> None:
    """Merge the blocks of MODEL with the largest saving, for a latency budget or a block count."""
    from dshrink.network.references import ModelChoice
    from dshrink.operations.search import search_blocks

    choice = options.call(context, ModelChoice)
    with progress(f"search {choice.name}"):
        plan = options.call(context, search_blocks, network=choice)
    _write_plan(plan, out_file, json)


@app.command()
def random(
    context: typer.Context,
    model: options.Model,
    table: options.Table,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    budget_ms: options.BudgetMs = None,
    keep: options.Keep = None,
    seed: options.Seed = 0,
    padding: options.BlockPadding = None,
    allow_unfit: options.AllowUnfit = False,
    out_file: options.PlanFile = None,
    json: options.Json = False,
) -> None:
    """Merge blocks of MODEL drawn at random: a baseline."""
    from dshrink.network.references import ModelChoice
    from dshrink.operations.search import search_blocks

    choice = options.call(context, ModelChoice)
    with progress(f"search {choice.name}"):
        plan = options.call(context, search_blocks, network=choice)
    _write_plan(plan, out_file, json)


app.command()(search_mask.mask)


@app.command()
def dp(
    context: typer.Context,
    model: options.Model,
    table: Annotated[
        list[Path], typer.Option(help="folder of a latency table of spans; one per device")
    ],
    importance: options.Importance,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    budget_ms: Annotated[
        list[float] | None, options.searching(help="latency budget in ms, one per table")
    ] = None,
    share: Annotated[
        float | None,
        options.searching(
            "--budget-share", help="budget as a share of each original network's latency"
        ),
    ] = None,
    alpha: options.Alpha = None,
    padding: options.TablePadding = None,
    allow_unfit: options.AllowUnfit = False,
    max_peak_mib: Annotated[
        float | None,
        options.bound(help="peak activation memory of any piece, for the table's batch"),
    ] = None,
    max_parameters: Annotated[int | None, options.bound(help="parameters of the network")] = None,
    max_macs: Annotated[
        int | None, options.bound(help="multiply-accumulates of the network, one image")
    ] = None,
    max_kernel: Annotated[int | None, options.bound(help="longest side of a merged kernel")] = None,
    keep_block: Annotated[
        list[int] | None, options.bound(help="number of a block to keep unmerged; repeatable")
    ] = None,
    one_plan: Annotated[
        str | None,
        options.of_devices(
            help="one plan for all tables: worst (each meets its budget) or mix (the mean does)"
        ),
    ] = None,
    weights: Annotated[
        list[float] | None, options.of_devices("--weight", help="weight of each table in a mix")
    ] = None,
    frontier_file: options.FrontierFile = None,
    out_file: Annotated[
        list[Path] | None,
        outputs.file_option("--out", help="plan to write; one per table, or one with --one-plan"),
    ] = None,
    json: options.Json = False,
) -> None:
    """Find the spans of MODEL to merge, also across blocks: exact, for all budgets at once."""
    from dshrink.network.references import ModelChoice
    from dshrink.operations.search import DpRequest, search_dp
    from dshrink.search.dp.bounds import Bounds
    from dshrink.search.plan import save_plan

    request = options.call(
        context,
        DpRequest,
        bounds=options.call(context, Bounds, keep_blocks=tuple(keep_block or ())),
        budgets_ms=tuple(budget_ms or ()),
        frontier=frontier_file is not None,
    )
    files, count = out_file or [], request.plan_count(len(table))
    if len(files) not in (0, count):
        raise DshrinkError(
            f"--out is given {counted(len(files), 'time')} for {counted(count, 'plan')}: give one "
            "a plan, in the order of the tables; a plan needs a budget, and --one-plan makes one "
            "for all tables"
        )
    # Here --weight is that of a table in a mix; a search reads no weights of networks.
    choice = options.call(context, ModelChoice, weights="initial")
    with progress(f"search {choice.name}"):
        found = search_dp(choice, table, request)
    if found.unevaluated:
        about = importance.with_suffix(".json")
        notice(f"keys without importance, which no plan uses: {found.unevaluated} (see {about})")
    for plan, file in zip(found.plans, files, strict=False):
        save_plan(plan, file)
    _write_result(found, frontier_file, files, json)


@app.command()
def csv(
    context: typer.Context,
    times: Annotated[
        str,
        typer.Option(
            "--time-table",
            metavar="FILE|published:NAME",
            help="CSV st,end,time of spans; with a column kernel: LayerMerge",
        ),
    ],
    importance: options.Importance,
    budget_ms: options.BudgetMs = None,
    alpha: options.Alpha = None,
    compat: Annotated[
        str | None,
        options.searching(help="kim2023: the public code's program, with truncated times"),
    ] = None,
    prec: Annotated[
        float | None, options.searching(help="with --compat: steps per millisecond; default: 20")
    ] = None,
    frontier_file: options.FrontierFile = None,
    json: options.Json = False,
) -> None:
    """Solve two CSV files as they were published, without a network: Kim et al., LayerMerge."""
    from dshrink.operations.search import search_csv

    with progress("search"):
        found = options.call(context, search_csv)
    _write_result(found, frontier_file, (), json)


def _write_plan(plan: Plan, file: Path | None, json: bool) -> None:
    from dshrink.search.plan import save_plan

    if file is not None:
        save_plan(plan, file)
    written = [] if file is None else [f"plan: {file}"]
    show_result(plan, (*plan_lines(plan), *written), as_json=json)


def _write_result(
    found: DpResult, frontier_file: Path | None, files: Sequence[Path], json: bool
) -> None:
    from dshrink.search.dp.files import save_frontier

    if frontier_file is not None and found.frontier is not None:
        predict = found.problem.predicted_ms if found.problem else None
        save_frontier(found.frontier, frontier_file, predict)
    lines = (*result_lines(found, frontier_file), *(f"plan: {file}" for file in files))
    show_result(result_data(found), lines, as_json=json)
