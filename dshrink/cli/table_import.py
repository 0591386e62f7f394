"""``dshrink table import``: a published latency table with its conditions, source and licence.

A file of spans or blocks is joined with its network, a file of layers stands for itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import show_result
from dshrink.cli.render import summary_lines
from dshrink.cli.render_layers import layer_summary
from dshrink.errors import DshrinkError

if TYPE_CHECKING:
    from latency_tables.pieces import NetworkPieces
    from latency_tables.published import PublishedTable


origin = partial(typer.Option, rich_help_panel="Origin")


def command(
    context: typer.Context,
    table: Annotated[
        str,
        typer.Argument(
            metavar="FILE|published:NAME",
            help="CSV of spans, blocks or layers, YAML of once-for-all, JSON of HALP, or one of "
            "dshrink's own",
        ),
    ],
    out_dir: Annotated[Path, outputs.folder_option("--out", metavar="DIR", help="folder to write")],
    model: Annotated[
        str | None, typer.Option(help="the network of spans or blocks, by its timm name")
    ] = None,
    device: Annotated[str | None, options.condition(help="what it was measured on")] = None,
    runtime: Annotated[str | None, options.condition(help="tensorrt, pytorch, ...")] = None,
    runtime_version: Annotated[str, options.condition(help="as the source states it")] = "unknown",
    precision: options.Precision = "fp32",
    batch: Annotated[int | None, options.condition(min=1, help="images a batch")] = None,
    resolution: options.Resolution = None,
    source: Annotated[str | None, origin(help="who published it, and where")] = None,
    licence: Annotated[str | None, origin(help="the licence it is published under")] = None,
    note: Annotated[str, origin(help="a remark for readers of the table")] = "",
    json: options.Json = False,
) -> None:
    """Read a published table by key, and write it as a latency table marked as published.

    A CSV with the columns st,end,time (and stdev, id) holds spans, one with the columns
    model,block,original_ms,merged_ms holds blocks, one with in_channels and latency_ms holds
    layers. A table that ships with dshrink (published:NAME) has its conditions; for a file of your
    own give them.
    """
    from dshrink.cli.payloads.tables import WrittenTable
    from dshrink.version import __version__
    from latency_tables.formats.registry import holds_layers
    from latency_tables.io import save_table
    from latency_tables.origin import Origin
    from latency_tables.published import PREFIX, PublishedTable, find_published, join_published
    from latency_tables.schema import Conditions

    shipped = table.startswith(PREFIX)
    if not shipped and holds_layers(Path(table)):
        _import_layers(context, Path(table), out_dir, as_json=json)
        return
    _check_given(table, shipped, context.params)
    if shipped:
        published = find_published(table)
    else:
        published = PublishedTable(
            name=table,
            path=Path(table),
            model=model or "",
            resolution=resolution or (224, 224),
            conditions=options.call(context, Conditions),
            origin=options.call(context, Origin),
        )
    times = published.load_times()
    imported = join_published(
        published,
        times,
        _pieces(published, times.segments),
        date=datetime.now(UTC).date().isoformat(),
        dshrink_version=__version__,
    )
    path = save_table(imported, out_dir)
    show_result(
        WrittenTable.of(imported, folder=str(out_dir)),
        (*summary_lines(imported), f"table: {path}"),
        as_json=json,
    )


_NEEDED = ("model", "device", "runtime", "batch", "source", "licence")


def _check_given(
    table: str, shipped: bool, parameters: Mapping[str, Any], needed: Collection[str] = _NEEDED
) -> None:
    given = [f"--{name}" for name in needed if parameters[name] is not None]
    lacking = [f"--{name}" for name in needed if parameters[name] is None]
    if shipped and given:
        raise DshrinkError(f"{table} has its own conditions: leave out {', '.join(given)}")
    if not shipped and lacking:
        raise DshrinkError(f"{table}: to import a file give {', '.join(lacking)} as well")


def _import_layers(context: typer.Context, path: Path, out_dir: Path, *, as_json: bool) -> None:
    from dshrink.cli.payloads.layers import WrittenLayers
    from dshrink.version import __version__
    from latency_tables.formats.published_layers import published_layer_table
    from latency_tables.formats.registry import load_published_layers
    from latency_tables.layers.io import save_layer_table
    from latency_tables.origin import Origin
    from latency_tables.schema import Conditions

    given = context.params
    published = load_published_layers(path, given["batch"])
    of_network = [f"--{name}" for name in ("model", "resolution") if given[name] is not None]
    if of_network:
        raise DshrinkError(f"{path} holds layers, of no network: leave out {', '.join(of_network)}")
    batch = published.batch or given["batch"]
    # Keys of HALP name the batch size.
    needed = [name for name in _NEEDED[1:] if name != "batch" or batch is None]
    _check_given(str(path), False, given, needed)
    table = published_layer_table(
        published,
        options.call(context, Conditions, batch=batch),
        options.call(context, Origin),
        date=datetime.now(UTC).date().isoformat(),
        dshrink_version=__version__,
    )
    file = save_layer_table(table, out_dir)
    show_result(
        WrittenLayers.of(table, folder=str(out_dir)),
        (*layer_summary(table), f"table: {file}"),
        as_json=as_json,
    )


def _pieces(published: PublishedTable, segments: str) -> NetworkPieces:
    """The network's structure, which the keys of a published table refer to."""
    from dshrink.network.models import load_network
    from dshrink.pieces.block_pieces import network_pieces
    from dshrink.pieces.span_pieces import span_pieces

    network = load_network(published.model, resolution=published.resolution)
    if segments == "blocks":
        return network_pieces(network, dense=False)
    return span_pieces(network, mode="exact")
