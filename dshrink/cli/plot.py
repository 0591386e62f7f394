"""``dshrink plot``: draw tables, plans and results as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.console import out, print_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dshrink.search.plan import Plan

app = typer.Typer(no_args_is_help=True)

TableArgument = Annotated[
    Path, typer.Argument(metavar="TABLE_DIR", help="Folder (or file) of a latency table.")
]
OutOption = Annotated[
    Path, typer.Option("--out", help="FILE.png; FILE.svg is written beside it.", metavar="FILE")
]


@app.command()
def blocks(
    table: TableArgument,
    file: OutOption = Path("blocks.png"),
    padding: options.Padding = "bias_map",
    json: options.Json = False,
) -> None:
    """Latency of each block before and after merging, and what merging saves."""
    from dshrink.plots import blocks_figure
    from latency_tables.io import load_table

    _write(blocks_figure(load_table(table), padding=padding), file, json)


@app.command()
def kept(
    plans: Annotated[
        list[str],
        typer.Argument(metavar="PLAN...", help="A plan's file, mask:0011..., paper:MBV2-1.4-DS-A."),
    ],
    file: OutOption = Path("kept.png"),
    model: Annotated[str | None, typer.Option(help="Name the blocks as this network does.")] = None,
    table: Annotated[
        Path | None, typer.Option(help="Show block latency and predictions of this table.")
    ] = None,
    padding: options.Padding = "bias_map",
    json: options.Json = False,
) -> None:
    """Which blocks keep their activations: a strip a plan."""
    from dshrink.plots import PlotError, kept_figure, plan_labels
    from dshrink.search.binding import bind
    from dshrink.search.plan import parse_plan
    from latency_tables.io import load_table

    if model and table:
        raise PlotError("--model and --table exclude each other: a table names its network")
    labelled = dict(zip(plan_labels(plans), map(parse_plan, plans), strict=True))
    if table:
        found = load_table(table)
        bound = {
            label: bind(
                plan,
                model=found.model,
                block_names=found.block_names,
                unmergeable=found.unmergeable,
            )
            for label, plan in labelled.items()
        }
        figure = kept_figure(bound, table=found, padding=padding)
    elif model:
        figure = _kept_of_model(labelled, model)
    else:
        figure = kept_figure(labelled)
    _write(figure, file, json)


def _kept_of_model(plans: dict[str, Plan], model: str) -> Figure:
    from dshrink.blocks import find_blocks
    from dshrink.models import load_network
    from dshrink.plots import kept_figure
    from dshrink.search.binding import bind

    network = load_network(model)
    found = find_blocks(network.spec, network.lowered.layers)
    names = tuple(block.name for block in found)
    unmergeable = {block.index: block.unmergeable for block in found if block.unmergeable}
    bound = {
        label: bind(plan, model=model, block_names=names, unmergeable=unmergeable)
        for label, plan in plans.items()
    }
    return kept_figure(bound, block_names=names)


@app.command()
def memory(
    table: TableArgument, file: OutOption = Path("memory.png"), json: options.Json = False
) -> None:
    """Weights and peak activations of each block at 16 bit, before and after merging."""
    from dshrink.plots import memory_figure
    from latency_tables.io import load_table

    _write(memory_figure(load_table(table)), file, json)


@app.command()
def predicted(
    table: TableArgument, file: OutOption = Path("predicted.png"), json: options.Json = False
) -> None:
    """Predicted against measured latency of the table's held-out networks."""
    from dshrink.plots import predicted_figure
    from latency_tables.io import load_table

    _write(predicted_figure(load_table(table)), file, json)


@app.command()
def throughput(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.csv", help="From `dshrink bench`.")],
    file: OutOption = Path("throughput.png"),
    json: options.Json = False,
) -> None:
    """Measured frames per second against the number of kept blocks, with predictions."""
    from dshrink.plots import load_results, throughput_figure

    _write(throughput_figure(load_results(results)), file, json)


def _write(figure: Figure, file: Path, as_json: bool) -> None:
    from dshrink.plots import save_figure

    files = [str(path) for path in save_figure(figure, file)]
    if as_json:
        print_json({"files": files})
    else:
        out.print(f"wrote {files[0]} and {files[1]}", markup=False, soft_wrap=True)
