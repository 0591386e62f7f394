"""Figures of what was measured: networks, fronts of accuracy, frontiers, the paper's speed-ups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

from bokeh.plotting import figure

from dshrink.fronts import Front, FrontPoint, staircase
from dshrink.plots.frontier import FrontierCurve
from dshrink.report.content import Drawing, Value
from dshrink.report.figures import chart
from dshrink.results import BenchmarkResult


def latencies(results: Sequence[BenchmarkResult], name: str) -> Drawing:
    """A row a network: its measured latency with its interval, beside what was predicted."""
    known = [one for one in results if one.latency_ms is not None]
    labels = unique_names([one.network for one in known])
    drawn = chart.chart("latency [ms]", "", rows=labels[::-1], height=chart.row_height(len(known)))
    columns: chart.Columns = {
        "y": labels,
        "name": [one.network for one in known],
        "x": [one.latency_ms for one in known],
        "low": [one.low_ms or one.latency_ms for one in known],
        "high": [one.high_ms or one.latency_ms for one in known],
        "measured": [_interval(one.latency_ms, one.low_ms, one.high_ms, "ms") for one in known],
        "speed": [_interval(one.speedup, one.speedup_low, one.speedup_high, "x") for one in known],
        "verdict": [one.verdict for one in known],
    }
    data = chart.source(columns)
    bar = drawn.hbar(
        y="y", right="x", height=0.62, source=data, fill_color=chart.BLUE, fill_alpha=0.75,
        line_color=None, legend_label="measured",
    )  # fmt: skip
    drawn.segment("low", "y", "high", "y", source=data, color=chart.GREY, line_width=2)
    said = [("network", "@name"), ("measured", "@measured"), ("speed-up", "@speed")]
    chart.hover(drawn, bar, [*said, ("verdict", "@verdict")])
    _predictions(drawn, known, labels)
    drawn.x_range.start = 0
    chart.legend_above(drawn)
    return Drawing(
        name=name,
        title="Latency of each network",
        told="Bars of the measured latency of each network, with predictions where there are any.",
        model=drawn,
        titles=("network", "low_ms", "latency_ms", "high_ms", "predicted_ms", "speedup"),
        rows=tuple(
            (one.network, one.low_ms, one.latency_ms, one.high_ms, one.predicted_ms, one.speedup)
            for one in known
        ),
    )


def _predictions(drawn: figure, known: Sequence[BenchmarkResult], labels: Sequence[str]) -> None:
    pairs = [pair for pair in zip(labels, known, strict=True) if pair[1].predicted_ms is not None]
    if not pairs:
        return
    data = chart.source(
        {
            "y": [label for label, _ in pairs],
            "x": [one.predicted_ms for _, one in pairs],
            "low": [one.predicted_low_ms or one.predicted_ms for _, one in pairs],
            "high": [one.predicted_high_ms or one.predicted_ms for _, one in pairs],
            "said": [
                _interval(one.predicted_ms, one.predicted_low_ms, one.predicted_high_ms, "ms")
                for _, one in pairs
            ],
            "error": [_percent(one.error_percent) for _, one in pairs],
        }
    )
    drawn.segment("low", "y", "high", "y", source=data, color=chart.ORANGE, line_width=2)
    mark = drawn.scatter(
        "x", "y", source=data, size=11, color=chart.ORANGE, marker="diamond",
        legend_label="predicted",
    )  # fmt: skip
    said = [("network", "@y"), ("predicted", "@said"), ("error", "@error")]
    chart.hover(drawn, mark, said)


#: Longer names leave no room for the figure on a phone.
_MOST_CHARACTERS = 26


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, shortened, numbered where one comes twice: an axis of names wants them unique."""
    names = [shortened(name) for name in names]
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def shortened(name: str) -> str:
    """Without the middle of a long name: files differ at their ends, masks at both."""
    if len(name) <= _MOST_CHARACTERS:
        return name
    half = (_MOST_CHARACTERS - 3) // 2
    return f"{name[:half]}...{name[-half:]}"


def front_figure(front: Front, name: str, title: str) -> Drawing:
    """Accuracy against throughput, a series a method, and the steps of what is within reach."""
    drawn = chart.chart("throughput [frames/s]", "accuracy [%]", height=400)
    best = [point.mean for point in compress(front.points, front.on_front)]
    if len(best) > 1:
        corners = staircase(best)
        drawn.step(
            [x for x, _ in corners], [y for _, y in corners], mode="before",
            line_color=chart.GREY, line_dash="dashed", legend_label="Pareto front",
        )  # fmt: skip
    for at, series in enumerate(front.series):
        members = [
            (point, on)
            for point, on in zip(front.points, front.on_front, strict=True)
            if point.series == series
        ]
        _draw_series(drawn, members, at, series[0] or "networks")
    chart.legend_above(drawn, 3)
    return Drawing(
        name=name,
        title=title,
        told="Points of accuracy against throughput, one a network; further up and to the right is "
        "better. The same numbers are in the table below.",
        model=drawn,
        titles=(
            *("network", "method", "kept", "seeds", "fps_low", "fps", "fps_high"),
            *("accuracy_low", "accuracy", "accuracy_high", "on_front"),
        ),
        rows=tuple(
            (
                *(point.network, point.method, point.kept_blocks, len(point.of_seeds)),
                *point.throughput_fps.ends,
                *_accuracy_ends(point),
                int(on),
            )
            for point, on in zip(front.points, front.on_front, strict=True)
        ),
    )


def _accuracy_ends(point: FrontPoint) -> tuple[float, float, float]:
    mean = point.accuracy_percent.mean
    return point.accuracy_percent.ends if point.has_accuracy_interval else (mean, mean, mean)


def _draw_series(
    drawn: figure, members: Sequence[tuple[FrontPoint, bool]], at: int, label: str
) -> None:
    fps = [point.throughput_fps for point, _ in members]
    accuracy = [_accuracy_ends(point) for point, _ in members]
    data = chart.source(
        {
            "x": [one.mean for one in fps],
            "x0": [one.low for one in fps],
            "x1": [one.high for one in fps],
            "y": [mean for _, mean, _ in accuracy],
            "y0": [low for low, _, _ in accuracy],
            "y1": [high for _, _, high in accuracy],
            "alpha": [0.9 if on else 0.25 for _, on in members],
            "name": [point.network for point, _ in members],
            "kept": ["" if p.kept_blocks is None else str(p.kept_blocks) for p, _ in members],
            "fps": [_interval(*_middle_first(one.ends), "frames/s", ".1f") for one in fps],
            "accuracy": [_interval(*_middle_first(one), "%", ".2f") for one in accuracy],
            "runs": [str(len(point.of_seeds)) for point, _ in members],
        }
    )
    colour = chart.SERIES[at % len(chart.SERIES)]
    line = {"source": data, "color": colour, "alpha": 0.35}
    drawn.segment("x0", "y", "x1", "y", **line)
    drawn.segment("x", "y0", "x", "y1", **line)
    mark = drawn.scatter(
        "x", "y", source=data, size=10, line_color=colour, fill_color=colour, fill_alpha="alpha",
        marker=chart.MARKERS[at % len(chart.MARKERS)], legend_label=label,
    )  # fmt: skip
    said = [("network", "@name"), ("blocks kept", "@kept"), ("throughput", "@fps")]
    chart.hover(drawn, mark, [*said, ("accuracy", "@accuracy"), ("runs", "@runs")])


def _middle_first(ends: tuple[float, float, float]) -> tuple[float, float, float]:
    return ends[1], ends[0], ends[2]


def frontier_figure(curves: Sequence[tuple[str, FrontierCurve]], name: str) -> Drawing:
    """Importance against latency: the best plan for every budget, a line a search."""
    drawn = chart.chart("latency [ms]", "importance (expected accuracy)", height=340)
    rows: list[tuple[Value, ...]] = []
    for at, (label, curve) in enumerate(curves):
        data = chart.source(
            {
                "x": [point.time_ms for point in curve.points],
                "y": [point.importance for point in curve.points],
                "mask": [point.mask for point in curve.points],
            }
        )
        colour = chart.SERIES[at % len(chart.SERIES)]
        drawn.step("x", "y", source=data, mode="after", color=colour, legend_label=label)
        mark = drawn.scatter("x", "y", source=data, size=6, color=colour)
        said = [("latency", "@x{0.0000} ms"), ("importance", "@y{0.00}"), ("plan", "@mask")]
        chart.hover(drawn, mark, said)
        rows += [(label, one.time_ms, one.importance, one.mask) for one in curve.points]
    chart.legend_above(drawn, 2)
    return Drawing(
        name=name,
        title="The best plan for every budget",
        told="A stair of importance against latency: more latency allows more importance.",
        model=drawn,
        titles=("search", "time_ms", "importance", "mask"),
        rows=tuple(rows),
    )


def ours_and_published(
    rows: Sequence[tuple[str, float | None, float | None]],
    name: str,
    *,
    title: str,
    axis: str,
    published: str,
    nothing: float,
) -> Drawing:
    """A row a network or block: what was measured here beside what was published for it.

    ``nothing`` is the value of one that neither gains nor loses.
    """
    labels = unique_names([label for label, _, _ in rows])
    drawn = chart.chart(axis, "", rows=labels[::-1], height=chart.row_height(len(rows)))
    chart.line_at(drawn, nothing)
    for at, (label, colour, marker) in enumerate(
        (("measured here", chart.BLUE, "circle"), (published, chart.ORANGE, "diamond"))
    ):
        known = [
            (y, row[at + 1]) for y, row in zip(labels, rows, strict=True) if row[at + 1] is not None
        ]
        if known:
            data = chart.source({"y": [y for y, _ in known], "x": [x for _, x in known]})
            mark = drawn.scatter(
                "x", "y", source=data, size=10, color=colour, marker=marker, legend_label=label
            )
            chart.hover(drawn, mark, [("", "@y"), (label, "@x{0.00}")])
    chart.legend_above(drawn, 1)
    return Drawing(
        name=name,
        title=title,
        told=f"{axis} of each row, measured here and published ({published}).",
        model=drawn,
        titles=("row", "measured_here", "published"),
        rows=tuple(rows),
    )


def _interval(
    middle: float | None, low: float | None, high: float | None, unit: str, form: str = ".3f"
) -> str:
    if middle is None:
        return ""
    ends = "" if low is None or high is None or low >= high else f" ({low:{form}} to {high:{form}})"
    return f"{middle:{form}} {unit}{ends}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"
