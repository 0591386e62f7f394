"""Tables of layers: what each layer of a list or a grid takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from dshrink.report.content import Block, Column, Drawing, Grid, Section, Text, number, word
from dshrink.report.figures import chart
from dshrink.report.folder import Contents
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.wording import counted

_COLUMNS = (
    Column(title="name"),
    Column(title="layer"),
    Column(title="latency ms", hint="alone, a batch", is_number=True),
    Column(title="±", hint="half of the 95 % interval", is_number=True),
    Column(title="beside ms", hint="what it adds behind a pointwise convolution", is_number=True),
    Column(title="95 % from", is_number=True),
    Column(title="to", is_number=True),
    Column(title="MMAC", hint="millions of multiply-accumulates", is_number=True),
    Column(title="GMAC/s", is_number=True),
    Column(title="parameters", is_number=True),
    Column(title="verdict"),
    Column(title="note"),
)


def section(contents: Contents) -> Section | None:
    """A figure and a table a table of layers."""
    blocks: list[Block] = []
    for held in contents.layers:
        table, name = held.value, held.file.removesuffix(".json").replace("/", "_")
        blocks.append(Text(text=_summary(table)))
        if len(table.measured) > 1:
            blocks.append(_figure(table, f"{name}_figure"))
        rows = tuple(
            (
                word(", ".join(row.names)),
                word(row.layer.name),
                number(row.latency_ms, ".4f"),
                number(row.half_width_percent, ".1f", " %"),
                number(row.beside_ms, ".4f"),
                number(row.beside_low_ms, ".4f"),
                number(row.beside_high_ms, ".4f"),
                number(row.macs / 1e6 or None, ".3g"),
                number(_speed(row, table.conditions.batch), ".1f"),
                number(row.parameters or None),
                word(row.verdict),
                word(row.reason),
            )
            for row in table.rows
        )
        grid = Grid(name=name, caption=f"Layers of {held.file}", columns=_COLUMNS, rows=rows)
        blocks.append(grid)
    if not blocks:
        return None
    return Section(anchor="layers", title="Layers", blocks=tuple(blocks))


def _summary(table: LayerTable) -> str:
    count = counted(len(table.rows), "layer")
    if table.origin is not None:
        return f"{count}, published by others: {table.origin.source}."
    return (
        f"{count} on {table.conditions.device}: {table.within_target} known within "
        f"{table.target_percent:g} %."
    )


def _speed(row: LayerRow, batch: int) -> float | None:
    return row.macs * batch / row.latency_ms / 1e6 if row.macs and row.latency_ms else None


def _series(row: LayerRow, named: Collection[str]) -> str:
    """What the legend calls it: as many families have a name as there are colours."""
    return row.layer.family if row.layer.family in named else "others"


def _figure(table: LayerTable, name: str) -> Drawing:
    """Latency against multiply-accumulates, both in powers of ten, a series a family of layers."""
    scales = {"x_axis_type": "log", "y_axis_type": "log"}
    drawn = chart.chart("multiply-accumulates [M]", "latency [ms]", height=380, **scales)
    rows = [row for row in table.measured if row.macs]
    common = Counter(row.layer.family for row in rows).most_common(len(chart.SERIES) - 1)
    names = dict(common)
    for at, family in enumerate(dict.fromkeys(_series(row, names) for row in rows)):
        members = [row for row in rows if _series(row, names) == family]
        data = chart.source(
            {
                "x": [row.macs / 1e6 for row in members],
                "y": [row.latency_ms for row in members],
                "y0": [row.low_ms or row.latency_ms for row in members],
                "y1": [row.high_ms or row.latency_ms for row in members],
                "name": [row.name for row in members],
                "layer": [row.layer.name for row in members],
            }
        )
        colour = chart.SERIES[at % len(chart.SERIES)]
        drawn.segment("x", "y0", "x", "y1", source=data, color=colour, alpha=0.5)
        mark = drawn.scatter(
            "x", "y", size=7, source=data, color=colour, alpha=0.7, legend_label=family,
            marker=chart.MARKERS[at % len(chart.MARKERS)],
        )  # fmt: skip
        said = [("layer", "@layer"), ("latency", "@y{0.0000} ms"), ("MMAC", "@x{0.000}")]
        chart.hover(drawn, mark, [("name", "@name"), *said])
    chart.legend_above(drawn)
    return Drawing(
        name=name,
        title="Latency against multiply-accumulates",
        told="Points of the latency of each layer against its multiply-accumulates.",
        model=drawn,
        titles=("layer", "macs", "low_ms", "latency_ms", "high_ms"),
        rows=tuple((row.name, row.macs, row.low_ms, row.latency_ms, row.high_ms) for row in rows),
    )
