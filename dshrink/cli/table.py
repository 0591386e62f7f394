"""``dshrink table``: import, export, show, check, predict, compare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options, table_export, table_import
from dshrink.cli.console import err, out, print_json, show_result
from dshrink.cli.grids import Column, number, print_grid
from dshrink.cli.render import print_rows, summary_lines
from dshrink.cli.render_layers import layer_summary, prediction_lines, print_layers
from dshrink.errors import DshrinkError

if TYPE_CHECKING:
    from latency_tables.compare import Comparison, RowComparison, Verdict

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
        if layers.within_target < len(layers.rows):
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


def _percent(text: str) -> float:
    number = text.strip().removesuffix("%").strip()
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", number):
        raise typer.BadParameter(f"{text!r} is no share such as 5% or 2.5%")
    return float(number)


def _predict_layers(folder: Path, texts: Sequence[str], json: bool) -> None:
    from dshrink.cli.payloads.layers import LayerPredictions, NamedPrediction
    from latency_tables.layers.io import load_layer_table
    from latency_tables.layers.prediction import predict_layers
    from latency_tables.layers.texts import parse_layer

    table = load_layer_table(folder)
    found = predict_layers(table, [parse_layer(text) for text in texts])
    data = LayerPredictions(predictions=tuple(map(NamedPrediction.of, found)))
    show_result(data, prediction_lines(found), as_json=json)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="folder of a latency table")],
    b: Annotated[Path, typer.Argument(metavar="B", help="folder of the other one")],
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail-above",
            parser=_percent,
            metavar="PERCENT",
            help="exit with status 1 where whole networks of B are slower than A's by more than "
            "this, such as 5%",
        ),
    ] = None,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Compare two tables of one network: each piece, and the whole networks that both measured.

    Exit with status 0 whatever the difference, unless --fail-above says which one is too large.
    """
    from dshrink.operations.tables import compare_tables

    result = compare_tables(a, b)
    if json:
        print_json(result)
    else:
        print_grid(_COMPARED, result.rows, wide=wide)
        out.print("\n".join(_compared_lines(result)))
    if fail_above is not None and result.whole.is_above(fail_above):
        slower = 100 * (result.whole.ratio - 1)
        err.print(
            f"dshrink: B is {slower:.1f} % slower than A, above the limit of {fail_above:g} %",
            style="red",
            soft_wrap=True,
        )
        raise typer.Exit(1)


_COMPARED: list[Column[RowComparison]] = [
    Column("piece", lambda row: row.piece),
    number("A ms", lambda row: row.a_ms, ".4f"),
    number("B ms", lambda row: row.b_ms, ".4f"),
    number("B / A", lambda row: row.ratio, ".3f"),
    Column("95 %", lambda row: _interval(row.ratio_low, row.ratio_high), rank=2, is_number=True),
    Column("B is", lambda row: row.verdict),
    Column("compared", lambda row: row.cost.replace("_", " "), rank=1),
]


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} - {high:.3f}"


def _compared_lines(result: Comparison) -> Iterator[str]:
    for label, names in (("only in A", result.only_a), ("only in B", result.only_b)):
        if names:
            yield f"{label}: {', '.join(names)}"
    if result.failed:
        yield f"not compared, failed in one: {', '.join(result.failed)}"
    if result.differing_conditions:
        yield f"conditions differ: {'; '.join(result.differing_conditions)}"
    tau, rho = (
        "undefined" if v is None else f"{v:.3f}" for v in (result.kendall_tau, result.spearman_rho)
    )
    yield f"rank correlation over {len(result.rows)} rows: Kendall {tau}, Spearman {rho}"
    words: dict[Verdict, str] = {
        "slower": "slower",
        "faster": "faster",
        "equal": "equal within 2 %",
        "unclear": "not known well enough to tell",
        "unknown": "published without an interval",
    }
    counts = [f"{n} {said}" for name, said in words.items() if (n := result.count(name))]
    yield f"rows: B / A {result.median_ratio:.3f} in the median; B's are {', '.join(counts)}"
    if result.identical:
        yield "A and B hold the same measurements"
        return
    whole = result.whole
    if not whole.networks:
        yield f"sum of these rows: B / A {whole.ratio:.3f}; no network was measured in both"
        return
    said = {
        "equal": "B is equal to A within 2 %",
        "unclear": "which of them is faster is not known well enough to tell",
    }.get(whole.verdict, f"B is {whole.verdict} than A")
    yield (
        f"whole networks: B / A {whole.ratio:.3f} (95 %: "
        f"{_interval(whole.ratio_low, whole.ratio_high).replace(' - ', ' to ')}; {whole.networks} "
        f"measured in both): {said}"
    )
