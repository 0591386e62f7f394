"""``dshrink table compare``: two tables of one network, or of layers, row by row and as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options
from dshrink.cli.console import err, out, print_json
from dshrink.cli.grids import Column, number, print_grid
from latency_tables.wording import counted

if TYPE_CHECKING:
    from latency_tables.compare import RowComparison, WholeComparison
    from latency_tables.layers.compare import AllLayersComparison, LayerComparison
    from latency_tables.ratios import Ratio, SideBySide, Verdict

#: Of rows that are in one table only.
_NAMED = 6


def _percent(text: str) -> float:
    number = text.strip().removesuffix("%").strip()
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", number):
        raise typer.BadParameter(f"{text!r} is no share such as 5% or 2.5%")
    return float(number)


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="folder of a latency table")],
    b: Annotated[Path, typer.Argument(metavar="B", help="folder of the other one")],
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail-above",
            parser=_percent,
            metavar="PERCENT",
            help="exit with status 1 where whole networks of B, or all layers together, are slower "
            "than A's by more than this, such as 5%",
        ),
    ] = None,
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Compare two tables of one network: each piece, and the whole networks that both measured.

    Of two tables of layers each layer is compared, and the geometric mean of their ratios.
    Exit with status 0 whatever the difference, unless --fail-above says which one is too large.
    """
    from dshrink.operations.tables import compare_tables
    from latency_tables.layers.compare import LayersComparison

    result = compare_tables(a, b)
    if json:
        print_json(result)
    elif isinstance(result, LayersComparison):
        print_grid(_LAYERS, result.rows, wide=wide)
        last = _layers_line(result.whole, result.identical)
        out.print("\n".join([*_common_lines(result), last]))
    else:
        print_grid(_PIECES, result.rows, wide=wide)
        last = _network_line(result.whole, result.identical)
        out.print("\n".join([*_common_lines(result), last]))
    if fail_above is not None and result.whole.is_above(fail_above):
        slower = 100 * (result.whole.ratio - 1)
        err.print(
            f"dshrink: B is {slower:.1f} % slower than A, above the limit of {fail_above:g} %",
            style="red",
            soft_wrap=True,
        )
        raise typer.Exit(1)


_LATENCIES: list[Column[Any]] = [
    number("A ms", lambda row: row.a_ms, ".4f"),
    number("B ms", lambda row: row.b_ms, ".4f"),
    number("B / A", lambda row: row.ratio, ".3f"),
    Column("95 %", lambda row: _interval(row, " - "), rank=2, is_number=True),
    Column("B is", lambda row: row.verdict),
]
_PIECES: list[Column[RowComparison]] = [
    Column("piece", lambda row: row.piece),
    *_LATENCIES,
    Column("compared", lambda row: row.cost.replace("_", " "), rank=1),
]
_LAYERS: list[Column[LayerComparison]] = [
    Column("layer", lambda row: row.name, least=24),
    *_LATENCIES,
]


def _interval(one: Ratio, to: str) -> str:
    if one.ratio_low is None or one.ratio_high is None:
        return ""
    return f"{one.ratio_low:.3f}{to}{one.ratio_high:.3f}"


def _common_lines(result: SideBySide) -> Iterator[str]:
    for label, names in (("only in A", result.only_a), ("only in B", result.only_b)):
        if names:
            yield f"{label}: {_named(names)}"
    if result.failed:
        yield f"not compared, failed in one: {_named(result.failed)}"
    if result.differing_conditions:
        yield f"conditions differ: {'; '.join(result.differing_conditions)}"
    tau, rho = (
        "undefined" if v is None else f"{v:.3f}" for v in (result.kendall_tau, result.spearman_rho)
    )
    rows = counted(len(result.rows), "row")
    yield f"rank correlation over {rows}: Kendall {tau}, Spearman {rho}"
    words: dict[Verdict, str] = {
        "slower": "slower",
        "faster": "faster",
        "equal": "equal within 2 %",
        "unclear": "not known well enough to tell",
        "unknown": "published without an interval",
    }
    counts = [f"{n} {said}" for name, said in words.items() if (n := result.count(name))]
    yield f"rows: B / A {result.median_ratio:.3f} in the median; B's are {', '.join(counts)}"


def _named(names: Sequence[str]) -> str:
    """Names may hold commas; a grid has hundreds of them, which --json lists."""
    more = f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    between = "; " if any("," in name for name in names) else ", "
    return between.join(names[:_NAMED]) + more


def _network_line(whole: WholeComparison, identical: bool) -> str:
    if not whole.networks and not identical:
        return f"sum of these rows: B / A {whole.ratio:.3f}; no network was measured in both"
    return _whole_line("whole networks", whole, f"{whole.networks} measured in both", identical)


def _layers_line(whole: AllLayersComparison, identical: bool) -> str:
    count = counted(whole.layers, "layer")
    return _whole_line("geometric mean", whole, f"{count} measured in both", identical)


def _whole_line(label: str, whole: Ratio, what: str, identical: bool) -> str:
    if identical:
        return "A and B hold the same measurements"
    said = {
        "equal": "B is equal to A within 2 %",
        "unclear": "which of them is faster is not known well enough to tell",
        "unknown": "published without intervals, so it may be chance",
    }.get(whole.verdict, f"B is {whole.verdict} than A")
    interval = f"95 %: {known}; " if (known := _interval(whole, " to ")) else ""
    return f"{label}: B / A {whole.ratio:.3f} ({interval}{what}): {said}"
