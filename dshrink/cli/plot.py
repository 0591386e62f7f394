"""``dshrink plot``: draw tables, plans and results as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import show_result
from latency_tables.files import require_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

app = typer.Typer(no_args_is_help=True, help="Draw tables, plans and results as PNG and SVG.")

TableArgument = Annotated[
    Path, typer.Argument(metavar="TABLE_DIR", help="folder (or file) of a latency table")
]


def require_pictures(file: Path) -> None:
    """Both files of a picture."""
    from dshrink.plots import picture_files

    for one in picture_files(file):
        require_writable(one)


OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        help="FILE.png; FILE.svg is written as well",
        metavar="FILE",
        callback=outputs.checked_by(require_pictures),
    ),
]


@app.command()
def batches(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.csv", help="from `dshrink bench`")],
    file: OutOption = Path("batches.png"),
    json: options.Json = False,
) -> None:
    """Throughput and latency against the batch size, and where throughput saturates."""
    from dshrink.operations.figures import plot_batches

    _write(plot_batches(results), file, json)


@app.command()
def blocks(
    table: TableArgument,
    file: OutOption = Path("blocks.png"),
    padding: options.Padding = "bias_map",
    json: options.Json = False,
) -> None:
    """Latency of each block before and after merging, and what merging saves."""
    from dshrink.operations.figures import plot_blocks

    _write(plot_blocks(table, padding=padding), file, json)


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
    from dshrink.operations.figures import plot_frontier

    _write(plot_frontier(frontiers, budgets_ms=budget_ms or (), table=table), file, json)


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
    padding: options.PlanPadding = None,
    json: options.Json = False,
) -> None:
    """Which blocks, or convolutions, keep their activations: one row for each plan."""
    from dshrink.network.references import ModelChoice
    from dshrink.operations.figures import plot_kept

    network = options.call(context, ModelChoice) if model else None
    _write(plot_kept(plans, network=network, table=table, padding=padding), file, json)


@app.command()
def memory(
    table: TableArgument, file: OutOption = Path("memory.png"), json: options.Json = False
) -> None:
    """Weights and peak activations of each block at 16 bit, before and after merging."""
    from dshrink.operations.figures import plot_memory

    _write(plot_memory(table), file, json)


@app.command()
def predicted(
    table: TableArgument, file: OutOption = Path("predicted.png"), json: options.Json = False
) -> None:
    """Predicted against measured latency of the table's held-out networks."""
    from dshrink.operations.figures import plot_predicted

    _write(plot_predicted(table), file, json)


@app.command()
def throughput(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.csv", help="from `dshrink bench`")],
    file: OutOption = Path("throughput.png"),
    json: options.Json = False,
) -> None:
    """Measured frames per second against the number of kept blocks, with predictions."""
    from dshrink.operations.figures import plot_throughput

    _write(plot_throughput(results), file, json)


@app.command()
def front(
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RESULTS.csv", help="from `dshrink bench` or `dshrink run`"),
    ] = None,
    file: OutOption = Path("front.png"),
    csv: Annotated[
        Path | None,
        outputs.file_option("--csv", help="write the points, and which are on the front"),
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
    from dshrink.front_results import front_rows, save_fronts
    from dshrink.operations.figures import found_fronts
    from dshrink.plots import PlotError, front_figure
    from latency_tables.published_accuracy import points_on

    if csv and not results:
        raise PlotError("--csv writes measured points: give RESULTS.csv")
    points = points_on(published or [], model)
    loaded = found_fronts(results or [], model=model, reference=reference)
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
    from dshrink.cli.payloads.networks import PlotData
    from dshrink.operations.figures import plot_mask
    from dshrink.plots import load_mask_history, mask_history_line

    loaded = load_mask_history(history)
    if loaded.epochs < 2:
        line = f"{history}: {mask_history_line(loaded)}"
        show_result(PlotData(files=()), [line], as_json=json)
        return
    _write(plot_mask(history), file, json)


def _write(
    figure: Figure,
    file: Path,
    as_json: bool,
    beside: Sequence[Path] = (),
    points: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """``points`` are rows of the CSV of a front."""
    from dshrink.cli.payloads.networks import FrontData, FrontPointData, PlotData
    from dshrink.plots import save_figure

    files = [str(path) for path in (*save_figure(figure, file), *beside)]
    wrote = f"wrote {', '.join(files[:-1])} and {files[-1]}"
    data: PlotData | FrontData = PlotData(files=tuple(files))
    if points is not None:
        data = FrontData(files=tuple(files), points=tuple(map(FrontPointData.of, points)))
    show_result(data, [wrote], as_json=as_json)
