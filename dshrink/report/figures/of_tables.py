"""Figures of a latency table: blocks, what merging saves, predictions beside measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bokeh.plotting import figure

from dshrink.report.content import Drawing, Value
from dshrink.report.figures import chart
from latency_tables.hold_out import HoldOut
from latency_tables.places import BLOCK_KINDS
from latency_tables.predictor import Prediction
from latency_tables.schema import Row
from latency_tables.table import LatencyTable

KIND_LABELS = {
    "original": "as it is",
    "merged": "merged",
    "merged_bias_map": "merged, with bias map",
    "dense": "dense, equal MACs",
}
_COLOURS = dict(
    zip(KIND_LABELS, (chart.BLUE, chart.ORANGE, chart.VERMILLION, chart.GREEN), strict=True)
)
_DOUBTFUL_ALPHA = 0.35


def block_costs(table: LatencyTable, name: str) -> Drawing | None:
    """A group of bars a block, with 95 % intervals; None for a table without blocks."""
    kinds = [kind for kind in BLOCK_KINDS if any(row.kind == kind for row in table.rows)]
    if not kinds:
        return None
    drawn = chart.chart("block, from input to output", "latency [ms]", height=340)
    width = 0.84 / len(kinds)
    rows: list[tuple[Value, ...]] = []
    for place, kind in enumerate(kinds):
        found = [row for row in table.rows if row.kind == kind and row.cost_ms is not None]
        offset = (place - (len(kinds) - 1) / 2) * width
        columns = _bars(table, found, offset)
        bar = chart.bars(drawn, columns, _COLOURS[kind], KIND_LABELS[kind], 0.92 * width)
        said = [("block", "@block (@name)"), (KIND_LABELS[kind], "@cost"), ("95 %", "@interval")]
        chart.hover(drawn, bar, [*said, ("alone", "@alone"), ("verdict", "@verdict")])
        rows += [(row.block, *_names(table, row), kind, *_numbers(row)) for row in found]
    drawn.y_range.start = min(0.0, *(float(row[3] or 0) for row in rows))
    _block_axis(drawn, table)
    chart.legend_above(drawn, 3 if len(kinds) < 4 else 2)
    titles = ("block", "name", "form", "cost_ms", "low_ms", "high_ms", "alone_ms", "verdict")
    return Drawing(
        name=name,
        title="Latency of each block, as it is and merged",
        told="Bars of the latency of each block, as it is and merged, with 95 % intervals; "
        "the same numbers are in the table below.",
        model=drawn,
        titles=titles,
        rows=tuple(rows),
    )


def _bars(table: LatencyTable, rows: Sequence[Row], offset: float) -> chart.Columns:
    lows, highs = zip(*(_interval(row) for row in rows), strict=True)
    return {
        "x": [(row.block or 0) + offset for row in rows],
        "top": [row.cost_ms for row in rows],
        "low": lows,
        "high": highs,
        "alpha": [1.0 if row.verdict in ("ok", "published") else _DOUBTFUL_ALPHA for row in rows],
        "block": [str(row.block) for row in rows],
        "name": [_names(table, row)[0] for row in rows],
        "cost": [f"{row.cost_ms:.4f} ms" for row in rows],
        "interval": [f"{low:.4f} to {high:.4f} ms" for low, high in map(_interval, rows)],
        "alone": ["" if row.latency_ms is None else f"{row.latency_ms:.4f} ms" for row in rows],
        "verdict": [row.verdict for row in rows],
    }


def _names(table: LatencyTable, row: Row) -> tuple[str]:
    return (table.block_names[row.block] if row.block is not None else row.piece,)


def _numbers(row: Row) -> tuple[Value, ...]:
    return (row.cost_ms, *row.cost_interval_ms, row.latency_ms, row.verdict)


def _interval(row: Row) -> tuple[float, float]:
    low, high = row.cost_interval_ms
    cost = row.cost_ms or 0.0
    return cost if low is None else low, cost if high is None else high


def _block_axis(drawn: figure, table: LatencyTable) -> None:
    count = table.block_count
    step = 1 if count <= 20 else 2 if count <= 40 else 5
    drawn.xaxis.ticker = list(range(0, count, step))
    drawn.x_range.start, drawn.x_range.end = -0.6, count - 0.4
    drawn.xgrid.grid_line_color = None


def savings(table: LatencyTable, saved_ms: dict[int, float], name: str) -> Drawing | None:
    """What merging each block saves, above 0, or costs, below; None where nothing can merge."""
    if not saved_ms:
        return None
    drawn = chart.chart("block, from input to output", "saves [ms]", height=230)
    for label, colour, chosen in (
        ("merging saves", chart.GREEN, [b for b, ms in saved_ms.items() if ms > 0]),
        ("merging costs", chart.VERMILLION, [b for b, ms in saved_ms.items() if ms <= 0]),
    ):
        if not chosen:
            continue
        data = chart.source(
            {
                "x": chosen,
                "top": [saved_ms[block] for block in chosen],
                "name": [f"{block} ({table.block_names[block]})" for block in chosen],
                "saves": [f"{saved_ms[block]:+.4f} ms" for block in chosen],
            }
        )
        bar = drawn.vbar(x="x", top="top", width=0.7, source=data, color=colour, legend_label=label)
        chart.hover(drawn, bar, [("block", "@name"), ("saves", "@saves")])
    chart.zero_line(drawn)
    _block_axis(drawn, table)
    chart.legend_above(drawn)
    return Drawing(
        name=name,
        title="What merging each block saves",
        told="Bars of the milliseconds that merging each block saves; below 0 it costs.",
        model=drawn,
        titles=("block", "name", "saves_ms"),
        rows=tuple((block, table.block_names[block], ms) for block, ms in saved_ms.items()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A network that was predicted and measured, in ms, with intervals where they are known."""

    name: str
    series: str
    measured: tuple[float, float, float]
    predicted: tuple[float, float, float]

    @property
    def error_percent(self) -> float:
        return 100 * (self.predicted[1] / self.measured[1] - 1)


def predicted_measured(networks: Sequence[Checked], name: str) -> Drawing | None:
    """Predictions against measurements with the diagonal that exact ones are on."""
    if not networks:
        return None
    drawn = chart.chart("measured [ms]", "predicted [ms]", height=360)
    ends = [end for one in networks for end in (one.measured[1], one.predicted[1])]
    low, high = min(ends), max(ends)
    drawn.line([low, high], [low, high], line_color=chart.GREY, line_dash="dashed")
    for at, series in enumerate(dict.fromkeys(one.series for one in networks)):
        members = [one for one in networks if one.series == series]
        data = chart.source(
            {
                "x": [one.measured[1] for one in members],
                "y": [one.predicted[1] for one in members],
                **_ends("x", [one.measured for one in members]),
                **_ends("y", [one.predicted for one in members]),
                "name": [one.name for one in members],
                "measured": [_ms(one.measured) for one in members],
                "predicted": [_ms(one.predicted) for one in members],
                "error": [f"{one.error_percent:+.2f} %" for one in members],
            }
        )
        colour = chart.SERIES[at % len(chart.SERIES)]
        drawn.segment("x0", "y", "x1", "y", source=data, color=colour, alpha=0.5)
        drawn.segment("x", "y0", "x", "y1", source=data, color=colour, alpha=0.5)
        mark = drawn.scatter(
            "x", "y", size=8, source=data, color=colour, marker=chart.MARKERS[at % 7],
            legend_label=series,
        )  # fmt: skip
        said = [("network", "@name"), ("measured", "@measured"), ("predicted", "@predicted")]
        chart.hover(drawn, mark, [*said, ("error", "@error")])
    chart.legend_above(drawn, 2)
    return Drawing(
        name=name,
        title="Predicted against measured latency",
        told="Points of predicted against measured latency; exact predictions are on the dashed "
        "diagonal. The same numbers are in the table below.",
        model=drawn,
        titles=(
            *("network", "series", "measured_low_ms", "measured_ms", "measured_high_ms"),
            *("predicted_low_ms", "predicted_ms", "predicted_high_ms", "error_percent"),
        ),
        rows=tuple(
            (one.name, one.series, *one.measured, *one.predicted, one.error_percent)
            for one in networks
        ),
    )


def _ends(axis: str, values: Sequence[tuple[float, float, float]]) -> dict[str, list[float]]:
    return {f"{axis}0": [low for low, _, _ in values], f"{axis}1": [high for _, _, high in values]}


def _ms(value: tuple[float, float, float]) -> str:
    low, middle, high = value
    return f"{middle:.3f} ms ({low:.3f} to {high:.3f})" if low < high else f"{middle:.3f} ms"


def held_out(check: HoldOut, series: str) -> list[Checked]:
    """The networks that a table tried its predictions on."""
    found = []
    for one in check.networks:
        half = 1.96 * check.interval_factor * one.predicted_sd_ms
        predicted = (one.predicted_ms - half, one.predicted_ms, one.predicted_ms + half)
        measured = (one.measured_low_ms, one.measured_ms, one.measured_high_ms)
        found.append(
            Checked(name=one.keep_mask, series=series, measured=measured, predicted=predicted)
        )
    return found


def kept_counts(
    predictions: Sequence[tuple[int, Prediction]],
    measured: Sequence[tuple[int, str, tuple[float, float, float]]],
    name: str,
) -> Drawing:
    """Predicted latency for each number of kept blocks, with its interval, beside measurements."""
    drawn = chart.chart("blocks that stay as they are", "latency [ms]", height=320)
    known = sorted(predictions, key=lambda one: one[0])
    columns: chart.Columns = {
        "x": [kept for kept, _ in known],
        "y": [p.latency_ms for _, p in known],
        "low": [p.latency_ms if p.low_ms is None else p.low_ms for _, p in known],
        "high": [p.latency_ms if p.high_ms is None else p.high_ms for _, p in known],
        "predicted": [_prediction(p) for _, p in known],
        "mask": [p.keep_mask for _, p in known],
    }
    data = chart.source(columns)
    drawn.varea(
        x="x", y1="low", y2="high", source=data, fill_color=chart.BLUE, fill_alpha=0.2,
        legend_label="95 % interval",
    )  # fmt: skip
    drawn.line("x", "y", source=data, color=chart.BLUE, line_width=2, legend_label="predicted")
    mark = drawn.scatter("x", "y", source=data, size=7, color=chart.BLUE)
    said = [("keeps", "@x blocks"), ("predicted", "@predicted"), ("mask", "@mask")]
    chart.hover(drawn, mark, said)
    if measured:
        data = chart.source(
            {
                "x": [kept for kept, _, _ in measured],
                "y": [value[1] for _, _, value in measured],
                **_ends("y", [value for _, _, value in measured]),
                "name": [network for _, network, _ in measured],
                "measured": [_ms(value) for _, _, value in measured],
            }
        )
        drawn.segment("x", "y0", "x", "y1", source=data, color=chart.VERMILLION)
        mark = drawn.scatter(
            "x", "y", source=data, size=9, color=chart.VERMILLION, marker="diamond",
            legend_label="measured",
        )  # fmt: skip
        chart.hover(drawn, mark, [("network", "@name"), ("measured", "@measured")])
    chart.legend_above(drawn)
    return Drawing(
        name=name,
        title="Latency against the number of blocks that stay",
        told="Predicted latency falls as fewer blocks stay; measured networks are diamonds.",
        model=drawn,
        titles=("kept", "source", "low_ms", "latency_ms", "high_ms"),
        rows=(
            *((k, p.keep_mask, p.low_ms, p.latency_ms, p.high_ms) for k, p in known),
            *((kept, network, *value) for kept, network, value in measured),
        ),
    )


def _prediction(one: Prediction) -> str:
    if one.low_ms is None or one.high_ms is None:
        return f"{one.latency_ms:.3f} ms"
    return _ms((one.low_ms, one.latency_ms, one.high_ms))
