"""``dshrink search``: what to shrink, from latency tables alone or with an importance table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dshrink.cli import options
from dshrink.cli.console import out, print_json
from dshrink.errors import DshrinkError

if TYPE_CHECKING:
    from dshrink.search.dp.from_table import Bounds
    from dshrink.search.dp.run import Found
    from dshrink.search.plan import Plan

Value = TypeVar("Value")

METHODS = ("greedy", "random", "dp")


def register(app: typer.Typer) -> None:
    app.command(name="search")(command)


def command(
    model: Annotated[str | None, typer.Argument(help="a timm name, or torchvision:NAME")] = None,
    table: Annotated[
        list[Path] | None, typer.Option(help="folder of a latency table; dp takes several")
    ] = None,
    method: Annotated[str, typer.Option(help="greedy, random, or dp (needs --importance)")] = (
        "greedy"
    ),
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
        Path | None, typer.Option(help="CSV st,end,time in place of MODEL and --table")
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
        float | None, typer.Option(help="what one piece may hold of activations, for the batch")
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
    padding: options.TablePadding = None,
    seed: options.Seed = 0,
    allow_unfit: Annotated[
        bool, typer.Option("--allow-unfit", help="use a table that is not fit for search")
    ] = False,
    out_file: Annotated[Path | None, typer.Option("--out", help="plan to write")] = None,
    json: options.Json = False,
) -> None:
    """Choose what to shrink of MODEL, for a latency budget or a number of kept blocks."""
    if method not in METHODS:
        raise DshrinkError(f"--method {method}: known are {', '.join(METHODS)}")
    if method != "dp":
        given = (
            budget_share,
            importance,
            alpha,
            time_table,
            frontier,
            one_plan,
            weight,
            max_kernel,
        )
        others = (max_macs, max_parameters, max_peak_mib, keep_block, compat, prec)
        if any(option is not None for option in (*given, *others)):
            raise DshrinkError(f"--method {method} takes no option of --method dp")
        goal = (_one(budget_ms, "--budget-ms"), keep)
        _search_blocks(model, table, method, goal, padding, seed, allow_unfit, out_file, json)
        return
    if importance is None:
        raise DshrinkError("--method dp needs --importance FILE")
    if keep is not None:
        raise DshrinkError("--method dp needs a budget: --keep is for greedy and random")
    from dshrink.search.dp.from_table import Bounds

    bounds = Bounds(
        max_kernel=max_kernel,
        max_peak_mib=max_peak_mib,
        max_macs=max_macs,
        max_parameters=max_parameters,
        keep_blocks=tuple(keep_block or ()),
    )
    if time_table is not None:
        if model or table or out_file or one_plan or budget_share or bounds != Bounds():
            raise DshrinkError(
                "--time-table stands for MODEL and --table, and knows spans alone: it takes "
                "--importance, --budget-ms, --frontier, --alpha and --compat"
            )
        from dshrink.search.dp.run import search_published

        found = search_published(
            time_table,
            importance,
            budget_ms=_one(budget_ms, "--budget-ms"),
            alpha=alpha,
            compat=compat,
            prec=prec,
        )
    else:
        if compat is not None or prec is not None:
            raise DshrinkError("--compat needs --time-table: it is for published tables")
        found = _search_tables(
            model,
            table,
            importance,
            alpha=alpha,
            bounds=bounds,
            budgets_ms=budget_ms or (),
            share=budget_share,
            one_plan=one_plan,
            weights=weight,
            padding=padding,
            allow_unfit=allow_unfit,
            frontier=frontier is not None,
        )
    _write(found, frontier, out_file)
    if json:
        print_json(found.to_json())
    else:
        _print_found(found, frontier, out_file)


def _search_blocks(
    model: str | None,
    tables: Sequence[Path] | None,
    method: str,
    goal: tuple[float | None, int | None],
    padding: str | None,
    seed: int,
    allow_unfit: bool,
    out_file: Path | None,
    json: bool,
) -> None:
    from dshrink.models import load_network
    from dshrink.plans import bind_to_network
    from dshrink.search.greedy import greedy
    from dshrink.search.plan import save_plan
    from dshrink.search.random_search import random_plan
    from latency_tables.io import load_table

    table = _one(tables, "--table")
    if model is None or table is None:
        raise DshrinkError(f"--method {method} needs MODEL and --table DIR")
    budget_ms, keep = goal
    options.one_goal(budget_ms, keep)
    latencies = load_table(table)
    search = greedy if method == "greedy" else partial(random_plan, seed=seed)
    found = search(
        latencies,
        budget_ms=budget_ms,
        keep=keep,
        padding=padding or "bias_map",
        allow_unfit=allow_unfit,
    )
    network = load_network(model, resolution=latencies.resolution)
    plan = bind_to_network(found, network)
    if out_file:
        save_plan(plan, out_file)
    if json:
        print_json(plan.to_json())
    else:
        _print(plan, out_file)


def _search_tables(
    model: str | None,
    tables: Sequence[Path] | None,
    importance: Path,
    *,
    alpha: float | None,
    bounds: Bounds,
    budgets_ms: Sequence[float],
    share: float | None,
    one_plan: str | None,
    weights: Sequence[float] | None,
    padding: str | None,
    allow_unfit: bool,
    frontier: bool,
) -> Found:
    from dataclasses import replace

    from dshrink.models import load_network
    from dshrink.plans import bind_to_network
    from dshrink.search.dp.from_table import kernels_of
    from dshrink.search.dp.run import TableSearch
    from dshrink.spans import span_pieces
    from latency_tables.io import load_table

    if model is None or not tables:
        raise DshrinkError("--method dp needs MODEL and --table DIR, or --time-table A.csv")
    latencies = [load_table(table) for table in tables]
    network = load_network(model, resolution=latencies[0].resolution)
    kernels = kernels_of(span_pieces(network)) if bounds.max_kernel is not None else None
    found = TableSearch(
        tables=latencies,
        importance=importance,
        alpha=alpha,
        bounds=bounds,
        kernels=kernels,
        padding=padding,
        allow_unfit=allow_unfit,
    ).run(
        budgets_ms=budgets_ms,
        share=share,
        one_plan=one_plan,
        weights=weights,
        frontier=frontier,
    )
    return replace(found, plans=tuple(bind_to_network(plan, network) for plan in found.plans))


def _one(values: Sequence[Value] | None, name: str) -> Value | None:
    """The only value of an option that may be given several times."""
    if values and len(values) > 1:
        raise DshrinkError(f"{name} is given {len(values)} times; here it may be given once")
    return values[0] if values else None


def _write(found: Found, frontier: Path | None, out_file: Path | None) -> None:
    from dshrink.search.dp.run import save_frontier
    from dshrink.search.plan import save_plan

    if frontier and found.frontier:
        save_frontier(found.frontier, frontier, found.problem)
    if out_file is None:
        return
    if len(found.plans) != 1:
        raise DshrinkError(f"--out writes one plan, and there are {len(found.plans)}")
    save_plan(found.plans[0], out_file)


def _print_found(found: Found, frontier: Path | None, out_file: Path | None) -> None:
    if frontier and found.frontier:
        out.print(f"frontier of {len(found.frontier)} plans: {frontier}")
    for number, plan in enumerate(found.spans):
        out.print(f"plan spans:{plan.mask}: {plan.layers} layers, importance {plan.importance:.6g}")
        predicted = found.plans[number].predicted if found.plans else None
        if predicted:
            out.print(_prediction(found.plans[number]))
        else:
            out.print(f"time {plan.time_ms:.6g} ms")
    if found.overrun_ms is not None:
        out.print(f"over its budget by {found.overrun_ms:.6g} ms (below 0: within)")
    for one in found.outcomes:
        out.print(
            f"{one.device}: {one.predicted_ms:.3f} ms of {one.budget_ms:.3f}, importance "
            f"{one.lost_importance:.6g} below its own best plan's {one.own_importance:.6g}"
        )
    if out_file:
        out.print(f"plan: {out_file}")


def _prediction(plan: Plan) -> str:
    p = plan.predicted
    assert p is not None
    interval = f" (95 %: {p.low_ms:.3f} to {p.high_ms:.3f})" if p.low_ms is not None else ""
    return f"predicted {p.latency_ms:.3f} ms{interval}, borders by {p.padding}"


def _print(plan: Plan, out_file: Path | None) -> None:
    out.print(f"keep mask {plan.keep_mask}: {plan.kept_count} of {len(plan.keep_mask)} blocks kept")
    if plan.predicted:
        out.print(_prediction(plan))
    for choice in plan.blocks:
        if not choice.keep:
            out.print(f"merge block {choice.index}: {choice.first_layer} .. {choice.last_layer}")
    if out_file:
        out.print(f"plan: {out_file}")
