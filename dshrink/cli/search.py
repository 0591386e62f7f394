"""``dshrink search``: what to shrink, from latency tables alone, with importances, or learnt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dshrink.cli import options, train_options
from dshrink.cli.console import notice, out, print_json
from dshrink.cli.render_search import found_lines, plan_lines
from dshrink.cli.search_kinds import check_options
from dshrink.cli.search_mask import MaskSearchCommand
from dshrink.errors import DshrinkError
from dshrink.train.unreadable import Unreadable

if TYPE_CHECKING:
    from dshrink.search.dp.found import Found
    from dshrink.search.dp.run import TableSearch
    from dshrink.search.plan import Plan

Value = TypeVar("Value")


def register(app: typer.Typer) -> None:
    app.command(name="search")(command)


def command(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="a timm name, or torchvision:NAME")] = None,
    table: Annotated[
        list[Path] | None, typer.Option(help="folder of a latency table; dp takes several")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="greedy, random, dp (needs --importance), or mask (learnt; needs --data)"
        ),
    ] = "greedy",
    budget_ms: Annotated[
        list[float] | None, typer.Option(help="latency that must be met, one a table")
    ] = None,
    budget_share: Annotated[
        float | None, typer.Option(help="budget as a share of each original network's latency (dp)")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="number of blocks that stay as they are")] = None,
    importance: Annotated[Path | None, typer.Option(help="CSV with an importance a key")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="normalisation of raw importances [1.6 if not given]")
    ] = None,
    time_table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|published:NAME",
            help="CSV st,end,time in place of MODEL and --table; with a column kernel: LayerMerge",
        ),
    ] = None,
    frontier: Annotated[Path | None, typer.Option(help="CSV for every budget's best plan")] = None,
    one_plan: Annotated[
        str | None, typer.Option(help="one plan for all tables: worst (each meets its budget), mix")
    ] = None,
    weight: Annotated[list[float] | None, typer.Option(help="of each table in a mix")] = None,
    max_kernel: Annotated[int | None, typer.Option(help="largest merged kernel size")] = None,
    max_macs: Annotated[int | None, typer.Option(help="of the network, one image")] = None,
    max_parameters: Annotated[int | None, typer.Option(help="of the network")] = None,
    max_peak_mib: Annotated[
        float | None, typer.Option(help="of activations while one piece runs, for the batch")
    ] = None,
    keep_block: Annotated[
        list[int] | None, typer.Option(help="number of a block that stays as it is")
    ] = None,
    compat: Annotated[
        str | None, typer.Option(help="kim2023: the public code's truncated program")
    ] = None,
    prec: Annotated[
        float | None, typer.Option(help="its steps a millisecond [20 if not given]")
    ] = None,
    data: train_options.Data | None = None,
    weights: train_options.Weights = "pretrained",
    resolution: Annotated[
        int | None, typer.Option(min=8, help="height and width in pixels [the table's, else 224]")
    ] = None,
    recipe: train_options.Recipe = None,
    decay: Annotated[
        float | None,
        typer.Option(help="strength of the latency-aware decay of a learnt mask; 0 for none"),
    ] = None,
    mask_limit: Annotated[
        float | None,
        typer.Option(help="largest slope of a mask value that counts in a step; none if not given"),
    ] = None,
    epochs: train_options.Epochs = None,
    batch: train_options.Batch = None,
    accumulate: train_options.Accumulate = None,
    learning_rate: train_options.LearningRate = None,
    warmup_epochs: train_options.WarmupEpochs = None,
    clip: train_options.Clip = None,
    precision: train_options.TrainPrecision = None,
    loaders: train_options.Loaders = None,
    unreadable: train_options.OnUnreadable = Unreadable.SKIP,
    checkpoint_steps: train_options.CheckpointSteps = None,
    padding: options.TablePadding = None,
    seed: train_options.Seed = None,
    allow_unfit: Annotated[
        bool, typer.Option("--allow-unfit", help="use a table that is not fit for search")
    ] = False,
    out_file: Annotated[
        list[Path] | None, typer.Option("--out", help="plan to write; one a table, or --one-plan's")
    ] = None,
    json: options.Json = False,
) -> None:
    """Choose what to shrink of MODEL, for a latency budget or a number of kept blocks."""
    from dshrink.search.dp.found import save_frontier
    from dshrink.search.dp.from_table import Bounds
    from dshrink.search.dp.published import search_published
    from dshrink.search.dp.run import TableSearch

    check_options(context, method)
    files = tuple(out_file or ())
    if method == "mask":
        assert model is not None and data is not None
        plan_file = _one(out_file, "--out")
        assert plan_file is not None
        wanted_mask = MaskSearchCommand(
            model=model,
            data=data,
            plan_file=plan_file,
            keep=keep,
            budget_ms=_one(budget_ms, "--budget-ms"),
            table=_one(table, "--table"),
            weights=weights,
            resolution=resolution,
            recipe=recipe,
            decay=decay,
            limit=mask_limit,
            allow_unfit=allow_unfit,
            unreadable=unreadable,
            given=train_options.given_settings(context),
        )
        learnt = wanted_mask.run()
        if learnt is not None:
            _say(learnt.plan.to_json() if json else wanted_mask.lines(learnt), files)
        return
    if importance is None:  # greedy and random have none, dp cannot do without
        _check_files(files, 1)
        goal = (_one(budget_ms, "--budget-ms"), keep)
        drawn = (seed or 0) if method == "random" else None
        plan = _search_blocks(model, _one(table, "--table"), goal, padding, drawn, allow_unfit)
        _save([plan], files)
        _say(plan.to_json() if json else plan_lines(plan), files)
        return
    if time_table is not None:
        found = search_published(
            time_table,
            importance,
            budget_ms=_one(budget_ms, "--budget-ms"),
            alpha=alpha,
            compat=compat,
            prec=prec,
        )
    else:
        wanted = TableSearch(
            importance=importance,
            alpha=alpha,
            bounds=Bounds(
                max_kernel=max_kernel,
                max_peak_mib=max_peak_mib,
                max_macs=max_macs,
                max_parameters=max_parameters,
                keep_blocks=tuple(keep_block or ()),
            ),
            padding=padding,
            allow_unfit=allow_unfit,
            budgets_ms=tuple(budget_ms or ()),
            share=budget_share,
            one_plan=one_plan,
            weights=weight,
            frontier=frontier is not None,
        )
        _check_files(files, wanted.plan_count(len(table or ())))
        found = _search_tables(model, table or (), wanted)
    if found.unjudged:
        about = importance.with_suffix(".json")
        notice(f"{found.unjudged} keys have no importance ({about} says why): no plan uses them")
    if frontier and found.frontier:
        save_frontier(found.frontier, frontier, found.problem)
    _save(found.plans, files)
    _say(found.to_json() if json else found_lines(found, frontier), files)


def _check_files(files: Sequence[Path], plans: int) -> None:
    """Raise, before anything is searched, unless each plan has a file where any is written."""
    if len(files) not in (0, plans):
        raise DshrinkError(
            f"--out is given {len(files)} time(s) for {plans} plan(s): give one a plan, in the "
            "order of the tables; a plan needs a budget, and --one-plan makes one for all tables"
        )


def _search_blocks(
    model: str | None,
    table: Path | None,
    goal: tuple[float | None, int | None],
    padding: str | None,
    seed: int | None,
    allow_unfit: bool,
) -> Plan:
    """A random plan with a ``seed``, otherwise the greedy one."""
    from dshrink.network.models import load_network
    from dshrink.pieces.plan_binding import bind_to_network
    from dshrink.search.greedy import greedy
    from dshrink.search.random_search import random_plan
    from latency_tables.io import load_table

    assert model is not None and table is not None
    budget_ms, keep = goal
    options.one_goal(budget_ms, keep)
    latencies = load_table(table)
    search = greedy if seed is None else partial(random_plan, seed=seed)
    plan = search(
        latencies,
        budget_ms=budget_ms,
        keep=keep,
        padding=padding or "bias_map",
        allow_unfit=allow_unfit,
    )
    return bind_to_network(plan, load_network(model, resolution=latencies.resolution))


def _search_tables(model: str | None, folders: Sequence[Path], wanted: TableSearch) -> Found:
    from dshrink.network.models import load_network
    from dshrink.pieces.plan_binding import bind_to_network
    from dshrink.pieces.span_pieces import span_pieces
    from dshrink.search.dp.piece_sizes import sizes_of
    from latency_tables.io import load_table

    assert model is not None
    tables = [load_table(folder) for folder in folders]
    network = load_network(model, resolution=tables[0].resolution)
    sizes = None
    if wanted.bounds.max_kernel is not None or wanted.bounds.max_peak_mib is not None:
        # Its spans are those of every mode.
        sizes = sizes_of(span_pieces(network, mode="exact"))
    found = wanted.run(tables, sizes)
    return replace(found, plans=tuple(bind_to_network(plan, network) for plan in found.plans))


def _one(values: Sequence[Value] | None, name: str) -> Value | None:
    """The only value of an option that may be given several times."""
    if values and len(values) > 1:
        raise DshrinkError(f"{name} is given {len(values)} times; here it may be given once")
    return values[0] if values else None


def _save(plans: Sequence[Plan], files: Sequence[Path]) -> None:
    from dshrink.search.plan import save_plan

    if files:
        for plan, file in zip(plans, files, strict=True):
            save_plan(plan, file)


def _say(result: dict[str, Any] | Iterable[str], files: Sequence[Path]) -> None:
    """JSON data as such, otherwise lines and where the plans are."""
    if isinstance(result, dict):
        print_json(result)
        return
    for line in (*result, *(f"plan: {file}" for file in files)):
        out.print(line)
