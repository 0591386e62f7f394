"""``dshrink profile``: measure the pieces of a network and write its latency table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import err, show_result
from dshrink.cli.render import summary_lines
from dshrink.cli.render_layers import layer_summary
from dshrink.cli.report import also_write
from dshrink.errors import DshrinkError
from dshrink.network.references import FORMS

pieces = partial(typer.Option, rich_help_panel="Pieces of a network")
of_layers = partial(typer.Option, rich_help_panel="Layers")

#: Options that say something of a network only.
_OF_NETWORKS = (
    *("model_args", "resolution", "in_channels", "classes", "segments", "span_mode"),
    *("max_kernel", "dense", "hold_out"),
)


def command(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help=f"{FORMS}; left out with --layers")
    ] = None,
    *,
    folder: Annotated[
        Path, outputs.folder_option("--out", help="folder of the table and its journal")
    ],
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
    max_kernel: Annotated[int | None, pieces(help="skip spans with a wider merged kernel")] = None,
    dense: Annotated[
        bool, pieces("--dense", help="with blocks: also measure same-FLOPs dense counterparts")
    ] = False,
    layers: Annotated[
        Path | None,
        of_layers(
            metavar="FILE.csv",
            help="measure these layers instead of a network: one a line (docs/layers.md)",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        of_layers(
            metavar="TEXT",
            help='measure a grid of layers: "cin=16:64:16 cout=32,64 k=1,3 hw=28"',
        ),
    ] = None,
    layer_context: Annotated[
        str,
        of_layers(
            "--context",
            help="alone, or pair: also what each layer adds behind a pointwise convolution",
        ),
    ] = "alone",
    hold_out: Annotated[int, typer.Option(help="number of hold-out networks, from 8 to 1000")] = 20,
    target_error: Annotated[
        float | None,
        typer.Option(
            help="per cent that predictions are to be off by on average (default: 0.7), or half "
            "the interval of each layer (default: 2); measuring goes on until they should be"
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(help="seconds of measuring after which it ends all the same"),
    ] = None,
    seed: options.Seed = 0,
    report: options.Report = None,
    json: options.Json = False,
) -> None:
    """Measure every piece of MODEL, or a list of layers, and write a latency table.

    Run the same command again to resume an interrupted run.
    """
    options.warn_of_plain_tcp(scheduler)
    if layers is not None or grid is not None:
        _profile_layers(context, layer_context=layer_context)
        return
    from dshrink.cli.payloads.tables import WrittenTable
    from dshrink.network.references import ModelChoice
    from dshrink.operations.profile import profile_network
    from profiler.target import Target

    if model is None:
        raise DshrinkError("give a MODEL, or layers with --layers FILE.csv or --grid TEXT")
    if options.was_given(context, "layer_context"):
        raise DshrinkError("--context is for --layers and --grid")
    target = options.call(context, Target)
    choice = options.call(context, ModelChoice)
    result = options.run(
        context, profile_network, f"profile {choice.name}", network=choice, target=target
    )
    files = f"table: {folder / 'table.csv'} (and .json); raw samples: {folder}/journal.jsonl"
    show_result(
        WrittenTable.of(result.table, folder=str(folder)),
        (*summary_lines(result.table), files),
        as_json=json,
    )
    also_write(report, folder)
    _exit_if_nothing([row.latency_ms for row in result.table.rows], result.table.rows[0].reason)


def _profile_layers(context: typer.Context, *, layer_context: str) -> None:
    from dshrink.cli.payloads.layers import WrittenLayers
    from dshrink.operations.profile_layers import layers_of, measure_layers
    from profiler.target import Target

    given = context.params
    if given["model"] is not None:
        raise DshrinkError("--layers and --grid measure layers of no network: leave MODEL out")
    for name in _OF_NETWORKS:
        if options.was_given(context, name):
            option = {"model_args": "model-arg"}.get(name, name.replace("_", "-"))
            raise DshrinkError(f"--{option} is for a network: leave it out with --layers or --grid")
    folder = given["folder"]
    result = options.run(
        context,
        measure_layers,
        "profile layers",
        layers=layers_of(given["layers"], given["grid"]),
        target=options.call(context, Target),
        layer_context=layer_context,
    )
    files = f"table: {folder / 'layers.csv'} (and .json); raw samples: {folder}/journal.jsonl"
    show_result(
        WrittenLayers.of(result.table, folder=str(folder)),
        (*layer_summary(result.table), files),
        as_json=given["json"],
    )
    also_write(given["report"], folder)
    _exit_if_nothing([row.latency_ms for row in result.table.rows], result.table.rows[0].reason)


def _exit_if_nothing(latencies: list[float | None], reason: str) -> None:
    if all(latency is None for latency in latencies):
        err.print(f"dshrink: nothing could be measured: {reason}", style="red", soft_wrap=True)
        raise typer.Exit(1)
