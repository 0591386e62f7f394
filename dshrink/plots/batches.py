"""Throughput and latency against the batch size, and where throughput saturates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from dshrink.errors import PlotError
from dshrink.plots import style
from dshrink.plots.throughput import SERIES_COLUMNS, throughput_interval
from dshrink.results import BenchmarkResult
from dshrink.saturation import saturated_from
from latency_tables.wording import counted

#: What is measured under one set of conditions but for the batch, by which network.
_COLUMNS = ("network", *(name for name in SERIES_COLUMNS if name not in ("batch", "model")))
#: Each with all colours in turn: more networks than that are no picture.
_LINES = ("-", "--", ":")
_LEGEND_COLUMNS = 3
_LEGEND_LINE_INCHES = 0.17


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """A network at its batch sizes, in their order."""

    label: str
    colour: str
    line: str
    results: tuple[BenchmarkResult, ...]

    @property
    def saturated(self) -> BenchmarkResult | None:
        """The result from whose batch on throughput hardly grows."""
        batch = saturated_from({r.batch: r.throughput_fps or 0.0 for r in self.results})
        return next((r for r in self.results if r.batch == batch), None)


def batches_figure(results: Sequence[BenchmarkResult]) -> Figure:
    """Frames per second and latency with 95 % intervals against the batch; a series a network.

    A ring marks the batch from which four times as many images bring less than 5 % more throughput.
    Raises PlotError where no network was measured at two batch sizes, and for more networks than
    lines can be told apart.
    """
    series, shared = _series(results)
    failed = sum(r.throughput_fps is None for r in results)
    shared += [f"{counted(failed, 'result')} without throughput not drawn"] if failed else []
    lines = -(-(len(series) + any(one.saturated for one in series)) // _LEGEND_COLUMNS)
    height = 5.6 + _LEGEND_LINE_INCHES * lines
    title = "Throughput and latency by batch size, with 95 % intervals"
    with style.new_figure(height, title, ", ".join(shared)) as figure:
        throughput, latency = figure.subplots(2, 1, sharex=True)
        for one in series:
            _draw(throughput, one, throughput_interval)
            _draw(latency, one, _latency)
        _mark_saturation(throughput, series)
        _dress(throughput, latency, series)
    return figure


def _series(results: Sequence[BenchmarkResult]) -> tuple[list[_Series], list[str]]:
    """The networks of two batch sizes or more, and what all of them share."""
    by_key: dict[tuple[str, ...], dict[int, BenchmarkResult]] = {}
    for result in results:
        if result.throughput_fps is not None and result.latency_ms is not None:
            key = tuple(str(getattr(result, name)) for name in _COLUMNS)
            by_key.setdefault(key, {})[result.batch] = result
    by_key = {key: of_key for key, of_key in by_key.items() if len(of_key) > 1}
    if not by_key:
        raise PlotError(
            f"none of the {len(results)} results is of a network at two batch sizes: measure with "
            "`dshrink bench NETWORK --batch 1,2,4` or --sweep"
        )
    marks = [(colour, line) for line, colour in product(_LINES, style.SERIES_COLOURS)]
    if len(by_key) > len(marks):
        raise PlotError(
            f"{len(by_key)} networks are too many for one picture (at most {len(marks)}): split "
            "the file by network or by conditions"
        )
    labels, shared = style.series_labels(_COLUMNS, [*by_key], always=("network",))
    found = [
        _Series(
            label=style.shortened(label),
            colour=colour,
            line=line,
            results=tuple(of_key[batch] for batch in sorted(of_key)),
        )
        for (label, of_key), (colour, line) in zip(
            zip(labels, by_key.values(), strict=True), marks, strict=False
        )
    ]
    return found, shared


#: Low, middle and high.
_Interval = tuple[float, float, float]


def _latency(r: BenchmarkResult) -> _Interval:
    ms = r.latency_ms or 0.0
    return r.low_ms or ms, ms, r.high_ms or ms


def _draw(axes: Axes, one: _Series, value: Callable[[BenchmarkResult], _Interval]) -> None:
    intervals = [value(r) for r in one.results]
    axes.errorbar(
        [r.batch for r in one.results],
        [middle for _, middle, _ in intervals],
        yerr=style.error_lengths(intervals),
        color=one.colour,
        linestyle=one.line,
        linewidth=1.3,
        marker="o",
        markersize=4,
        elinewidth=1.0,
        capsize=2.5,
        label=one.label,
        zorder=3,
    )


def _mark_saturation(axes: Axes, series: Sequence[_Series]) -> None:
    found = [(r, one.colour) for one in series if (r := one.saturated) is not None]
    if found:
        axes.scatter(
            [r.batch for r, _ in found],
            [r.throughput_fps or 0.0 for r, _ in found],
            s=110,
            facecolors="none",
            edgecolors=[colour for _, colour in found],
            linewidths=1.3,
            label="_saturated",
            zorder=4,
        )


def _dress(throughput: Axes, latency: Axes, series: Sequence[_Series]) -> None:
    batches = sorted({r.batch for one in series for r in one.results})
    latency.set_xscale("log", base=2)
    latency.xaxis.set_major_locator(FixedLocator(batches))
    latency.xaxis.set_minor_locator(NullLocator())
    latency.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    latency.set_yscale("log", base=2)
    latency.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    latency.yaxis.set_minor_formatter(NullFormatter())
    latency.set_xlabel("Batch size [images]")
    latency.set_ylabel("Latency of a batch [ms]")
    throughput.set_ylabel("Throughput [frames/s]")
    throughput.set_ylim(0, 1.1 * throughput.get_ylim()[1])
    for axes in (throughput, latency):
        axes.grid()
    handles = throughput.get_legend_handles_labels()[0]
    if any(one.saturated for one in series):
        label = "saturated: 4 times the batch, < 5 % more"
        handles.append(style.legend_mark("o", label, "none", edge=style.GREY, size=10, width=1.3))
    style.legend_above(throughput, columns=_LEGEND_COLUMNS, handles=handles)
