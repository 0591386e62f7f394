"""``dshrink table``: import, export, show, check, predict, compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dshrink.cli import options, table_compare, table_export, table_import
from dshrink.cli.console import out, print_json, show_result
from dshrink.cli.render import print_rows, summary_lines
from dshrink.cli.render_layers import layer_summary, prediction_lines, print_layers
from dshrink.errors import DshrinkError

app = typer.Typer(no_args_is_help=True, help="Show, check, compare tables; predict from them.")
app.command(name="import")(table_import.command)
app.command(name="export")(table_export.command)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="folder of a latency table")]


@app.command()
def show(folder: Folder, wide: options.Wide = False, json: options.Json = False) -> None:
    """Print what each piece costs in the network and alone, and how well that is known."""
    from dshrink.cli.payloads.layers import LayersData
    from dshrink.cli.payloads.tables import TableData
    from latency_tables.io import load_table
    from latency_tables.layers.io import is_layer_table, load_layer_table

    if is_layer_table(folder):
        layers = load_layer_table(folder)
        if json:
            print_json(LayersData.of(layers))
            return
        print_layers(layers, wide=wide)
        out.print("\n".join(layer_summary(layers)))
        return
    table = load_table(folder)
    if json:
        print_json(TableData.of(table))
        return
    print_rows(table, wide=wide)
    out.print("\n".join(summary_lines(table)))


@app.command()
def check(folder: Folder, json: options.Json = False) -> None:
    """Validate a table and report its prediction error; exit 1 if not fit for search.

    A table of layers is fit if each layer is known as well as was asked for.
    """
    from dshrink.cli.payloads.layers import LayersSummary
    from dshrink.cli.payloads.tables import TableSummary
    from latency_tables.io import load_table
    from latency_tables.layers.io import is_layer_table, load_layer_table

    if is_layer_table(folder):
        layers = load_layer_table(folder)
        show_result(LayersSummary.of(layers), layer_summary(layers), as_json=json)
        if not layers.is_fit:
            raise typer.Exit(1)
        return
    table = load_table(folder)
    show_result(TableSummary.of(table), summary_lines(table), as_json=json)
    if not table.fit_for_search:
        raise typer.Exit(1)


@app.command()
def predict(
    folder: Folder,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            help="keep mask (1 keeps a block, 0 merges it), span mask of a table of spans, or a "
            "plan: a file, mask:..., spans:... or paper:NAME",
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="TEXT",
            help='of a table of layers: "cin=48 cout=80 k=3 hw=28"; repeatable',
        ),
    ] = None,
    padding: options.TablePadding = None,
    json: options.Json = False,
) -> None:
    """Predict the latency of a network with a mask, or of a layer, with its 95 % interval.

    A layer that was not measured has to lie between measured ones.
    """
    if layers:
        if keep or padding:
            raise DshrinkError(
                "--keep and --padding are for the table of a network, --layer for one of layers"
            )
        _predict_layers(folder, layers, json)
        return
    if keep is None:
        raise DshrinkError(
            "give --keep MASK for the table of a network, or --layer TEXT for one of layers"
        )
    from dshrink.operations.tables import predict_latency

    prediction = predict_latency(folder, keep, padding)
    interval = ""
    if prediction.low_ms is not None:
        interval = f" (95 %: {prediction.low_ms:.3f} to {prediction.high_ms:.3f})"
    lines = [
        f"{prediction.latency_ms:.3f} ms{interval}, {prediction.throughput_fps:.1f} FPS",
        f"plain sum of the pieces alone {prediction.plain_sum_ms:.3f} ms, "
        f"scaled MACs {prediction.scaled_macs_ms:.3f} ms",
    ]
    if not prediction.calibrated:
        lines.append("no whole network was measured: this is the plain sum, its error is unknown")
    show_result(prediction, lines, as_json=json)


def _predict_layers(folder: Path, texts: Sequence[str], json: bool) -> None:
    from dshrink.cli.payloads.layers import LayerPredictions, NamedPrediction
    from dshrink.operations.tables import predict_layers

    found = predict_layers(folder, texts)
    data = LayerPredictions(predictions=tuple(map(NamedPrediction.of, found)))
    show_result(data, prediction_lines(found), as_json=json)


app.command(name="compare")(table_compare.command)
