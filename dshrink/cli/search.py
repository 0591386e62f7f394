"""``dshrink search``: which blocks to shrink, from a latency table alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.console import out, print_json
from dshrink.errors import DshrinkError

if TYPE_CHECKING:
    from dshrink.search.plan import Plan

METHODS = ("greedy", "random")


def register(app: typer.Typer) -> None:
    app.command(name="search")(command)


def command(
    model: options.Model,
    table: options.Table,
    method: Annotated[str, typer.Option(help=" or ".join(METHODS))] = "greedy",
    budget_ms: Annotated[float | None, typer.Option(help="latency that must be met")] = None,
    keep: Annotated[int | None, typer.Option(help="number of blocks that stay as they are")] = None,
    padding: options.Padding = "bias_map",
    seed: options.Seed = 0,
    allow_unfit: Annotated[
        bool, typer.Option("--allow-unfit", help="use a table that is not fit for search")
    ] = False,
    out_file: Annotated[Path | None, typer.Option("--out", help="plan to write")] = None,
    json: options.Json = False,
) -> None:
    """Choose the blocks of MODEL to shrink, for a latency budget or a number of kept blocks."""
    from dshrink.models import load_network
    from dshrink.plans import bind_to_network
    from dshrink.search.greedy import greedy
    from dshrink.search.plan import save_plan
    from dshrink.search.random_search import random_plan
    from latency_tables.io import load_table

    if method not in METHODS:
        raise DshrinkError(f"--method {method}: known are {', '.join(METHODS)}")
    options.one_goal(budget_ms, keep)
    latencies = load_table(table)
    search = greedy if method == "greedy" else partial(random_plan, seed=seed)
    found = search(
        latencies, budget_ms=budget_ms, keep=keep, padding=padding, allow_unfit=allow_unfit
    )
    network = load_network(model, resolution=latencies.resolution)
    plan = bind_to_network(found, network)
    if out_file:
        save_plan(plan, out_file)
    if json:
        print_json(plan.to_json())
    else:
        _print(plan, out_file)


def _print(plan: Plan, out_file: Path | None) -> None:
    out.print(f"keep mask {plan.keep_mask}: {plan.kept_count} of {len(plan.keep_mask)} blocks kept")
    if plan.predicted:
        p = plan.predicted
        interval = f" (95 %: {p.low_ms:.3f} to {p.high_ms:.3f})" if p.low_ms is not None else ""
        out.print(f"predicted {p.latency_ms:.3f} ms{interval}, borders by {p.padding}")
    for choice in plan.blocks:
        if not choice.keep:
            out.print(f"merge block {choice.index}: {choice.first_layer} .. {choice.last_layer}")
    if out_file:
        out.print(f"plan: {out_file}")
