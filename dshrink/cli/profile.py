"""``dshrink profile``: measure the pieces of a network and write its latency table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli import options
from dshrink.cli.console import err, show_result
from dshrink.cli.render import summary_lines, table_data
from dshrink.cli.report import also_write

pieces = partial(typer.Option, rich_help_panel="Pieces")


def command(
    context: typer.Context,
    model: options.Model,
    folder: Annotated[Path, typer.Option("--out", help="folder of the table and its journal")],
    device: options.Device = "local",
    runtime: options.Runtime = None,
    precision: options.Precision = "fp32",
    batch: options.Batch = None,
    threads: options.Threads = 1,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    statistic: options.Statistic = None,
    launch: options.Launch = "plain",
    cache_mode: options.CacheMode = "hot",
    scheduler: options.Scheduler = None,
    hold_clocks: options.HoldClocks = False,
    segments: Annotated[
        str,
        pieces(
            help="what is profiled: blocks, or spans (every run of convolutions that can become "
            "one, across blocks as well)"
        ),
    ] = "blocks",
    span_mode: Annotated[
        str | None, pieces(help="which spans: kim2023 (the paper's; default) or exact (all)")
    ] = None,
    max_kernel: Annotated[
        int | None, pieces(min=1, help="skip spans with a wider merged kernel")
    ] = None,
    dense: Annotated[
        bool, pieces("--dense", help="with blocks: also measure same-FLOPs dense counterparts")
    ] = False,
    hold_out: Annotated[int, typer.Option(min=8, help="number of hold-out networks")] = 20,
    target_error: Annotated[
        float,
        typer.Option(
            help="per cent that predictions are to be off by on average; measuring goes on until "
            "they should be"
        ),
    ] = 0.7,
    time_limit: Annotated[
        float | None,
        typer.Option(min=1, help="seconds of measuring after which it ends all the same"),
    ] = None,
    seed: options.Seed = 0,
    report: options.Report = None,
    json: options.Json = False,
) -> None:
    """Measure every piece of MODEL on a device and write a latency table.

    Run the same command again to resume an interrupted run.
    """
    from dshrink.network.references import ModelChoice
    from dshrink.operations.profile import profile_network
    from profiler.target import Target

    options.warn_of_plain_tcp(scheduler)
    target = options.call(context, Target)
    choice = options.call(context, ModelChoice)
    result = options.run(
        context, profile_network, f"profile {choice.name}", choice=choice, target=target
    )
    files = f"table: {folder / 'table.csv'} (and .json); raw samples: {folder}/journal.jsonl"
    show_result(
        {**table_data(result.table), "table": str(folder)},
        (*summary_lines(result.table), files),
        as_json=json,
    )
    also_write(report, folder)
    if all(row.latency_ms is None for row in result.table.rows):
        reason = result.table.rows[0].reason
        err.print(f"dshrink: nothing could be measured: {reason}", style="red", soft_wrap=True)
        raise typer.Exit(1)
