"""``dshrink plot``: draw tables, plans and results as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options
from dshrink.cli.console import show_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


app = typer.Typer(no_args_is_help=True, help="Draw tables, plans and results as PNG and SVG.")

TableArgument = Annotated[
    Path, typer.Argument(metavar="TABLE_DIR", help="folder (or file) of a latency table")
]
OutOption = Annotated[
    Path, typer.Option("--out", help="FILE.png; FILE.svg is written as well", metavar="FILE")
]


@app.command()
def batches(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.csv", help="from `dshrink bench`")],
    file: OutOption = Path("batches.png"),
    json: options.Json = False,
) -> None:
    """Throughput and latency against the batch size, and where throughput saturates."""
    from dshrink.plots import batches_figure
    from dshrink.results import load_results

    _write(batches_figure(load_results(results).results), file, json)


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
def frontier(
    frontiers: Annotated[
        list[Path],
        typer.Argument(metavar="FRONTIER.csv", help="from `dshrink search dp --frontier`"),
    ],
    file: OutOption = Path("frontier.png"),
    budget_ms: Annotated[
        list[float] | None,
        typer.Option("--budget-ms", help="mark this budget and draw its plan; repeatable"),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="the span table searched: draws the original network and its blocks"),
    ] = None,
    json: options.Json = False,
) -> None:
    """Importance against latency: the best network for every budget, with chosen plans."""
    from dshrink.plots import frontier_figure, load_frontier, plan_labels
    from dshrink.plots.style import describe_table
    from latency_tables.io import load_table

    labels = plan_labels([str(path) for path in frontiers])
    loaded = [load_frontier(path, label) for path, label in zip(frontiers, labels, strict=True)]
    searched = load_table(table) if table else None
    figure = frontier_figure(
        loaded,
        budgets_ms=budget_ms or (),
        chain=searched.chain if searched else None,
        source=describe_table(searched) if searched else "",
    )
    _write(figure, file, json)


@app.command()
def kept(
    context: typer.Context,
    plans: Annotated[
        list[str],
        typer.Argument(
            metavar="PLAN", help="a plan file, mask:0011..., spans:1|01..., or paper:NAME"
        ),
    ],
    file: OutOption = Path("kept.png"),
    model: Annotated[
        str | None, typer.Option(help="name the blocks, or convolutions, as this network does")
    ] = None,
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    table: Annotated[
        Path | None, typer.Option(help="show block latency and predictions of this table")
    ] = None,
    padding: options.TablePadding = None,
    json: options.Json = False,
) -> None:
    """Which blocks, or convolutions, keep their activations: one row for each plan."""
    from dshrink.plots import PlotError, kept_figure, plan_labels
    from dshrink.search.plan import parse_plan
    from latency_tables.io import load_table

    if model and table:
        raise PlotError("--model and --table exclude each other: a table names its network")
    labelled = dict(zip(plan_labels(plans), map(parse_plan, plans), strict=True))
    if table:
        from dshrink.search.binding import bind_to_table

        found = load_table(table)
        bound = {label: bind_to_table(plan, found) for label, plan in labelled.items()}
        figure = kept_figure(bound, table=found, padding=padding)
    elif model:
        from dshrink.network.chain import span_chain
        from dshrink.network.models import load
        from dshrink.network.references import ModelChoice
        from dshrink.operations.known import known_of_plans
        from dshrink.pieces.plan_binding import bind_to_network

        network = load(
            options.call(context, ModelChoice).knowing(known_of_plans([*labelled.values()]))
        )
        bound = {label: bind_to_network(plan, network) for label, plan in labelled.items()}
        names, chain = [block.name for block in network.blocks], span_chain(network.chain)
        figure = kept_figure(bound, block_names=names, chain=chain)
    else:
        figure = kept_figure(labelled)
    _write(figure, file, json)


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
    results: Annotated[Path, typer.Argument(metavar="RESULTS.csv", help="from `dshrink bench`")],
    file: OutOption = Path("throughput.png"),
    json: options.Json = False,
) -> None:
    """Measured frames per second against the number of kept blocks, with predictions."""
    from dshrink.operations.result_masks import check_masks
    from dshrink.plots import throughput_figure
    from dshrink.results import load_results

    stored = load_results(results)
    check_masks(stored)
    _write(throughput_figure(stored.results), file, json)


@app.command()
def front(
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RESULTS.csv", help="from `dshrink bench` or `dshrink run`"),
    ] = None,
    file: OutOption = Path("front.png"),
    csv: Annotated[
        Path | None, typer.Option("--csv", help="write the points, and which are on the front")
    ] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(help="add what DepthShrinker published for this device, or all; repeatable"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="only networks made from this one")] = None,
    reference: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="reference accuracy in percent for the hypervolume (such as chance level); "
            "default: a front's lowest",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Accuracy against measured throughput, with the Pareto front of each set of conditions."""
    from dshrink.front_results import front_rows, load_fronts, save_fronts
    from dshrink.plots import PlotError, front_figure
    from latency_tables.published_accuracy import points_on

    if csv and not results:
        raise PlotError("--csv writes measured points: give RESULTS.csv")
    points = points_on(published or [], model)
    loaded = load_fronts(results or [], model=model, reference_percent=reference)
    figure = front_figure(loaded.fronts, published=points, left_out=loaded.left_out)
    if csv:
        save_fronts(loaded.fronts, csv)
    rows = [row for one in loaded.fronts for row in front_rows(one)]
    _write(figure, file, json, beside=[csv] if csv else [], points=rows)


@app.command()
def mask(
    history: Annotated[
        Path,
        typer.Argument(metavar="HISTORY.csv", help="PLAN.history.csv of `dshrink search mask`"),
    ],
    file: OutOption = Path("mask.png"),
    json: options.Json = False,
) -> None:
    """History of a mask search: each block's value, and the kept blocks."""
    from dshrink.plots import load_mask_history, mask_history_figure

    _write(mask_history_figure(load_mask_history(history), history.name), file, json)


def _write(
    figure: Figure, file: Path, as_json: bool, beside: Sequence[Path] = (), **facts: Any
) -> None:
    from dshrink.plots import save_figure

    files = [str(path) for path in (*save_figure(figure, file), *beside)]
    wrote = f"wrote {', '.join(files[:-1])} and {files[-1]}"
    show_result({"files": files, **facts}, [wrote], as_json=as_json)
