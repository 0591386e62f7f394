"""Measured throughput against the number of blocks that keep their activations."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dshrink.errors import PlotError
from dshrink.plots import style
from dshrink.plots.point_labels import PointLabel, label_points, network_label
from dshrink.results import BenchmarkResult
from latency_tables.wording import counted

#: What was measured: networks that agree in all of these form one series.
SERIES_COLUMNS = (
    *("model", "device", "runtime", "precision", "batch", "threads", "clock"),
    *("launch", "cache_mode", "resolution"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P")


def throughput_figure(results: Sequence[BenchmarkResult]) -> Figure:
    """Frames per second with 95 % intervals, predictions as hollow marks.

    One series a set of conditions; what all series share is in the subtitle. Networks that
    failed, and those whose blocks are not known, cannot be drawn: the picture gives their number.
    Raises PlotError if no network is left, or if there are more series than colours.
    """
    drawn = [r for r in results if r.throughput_fps is not None and r.kept_blocks is not None]
    if not drawn:
        failed = sum(r.throughput_fps is None for r in results)
        raise PlotError(
            f"none of the {len(results)} results can be drawn: {failed} have no throughput "
            "(failed), the others no kept_blocks; bench a network with `--plan`"
        )
    series = list(dict.fromkeys(map(_series, drawn)))
    if len(series) > len(style.SERIES_COLOURS):
        raise PlotError(
            f"{len(series)} sets of conditions are too many for one picture (at most "
            f"{len(style.SERIES_COLOURS)}): split the file by model, device or batch"
        )
    labels, shared = style.series_labels(SERIES_COLUMNS, series)
    title = "Throughput by the number of kept blocks, with 95 % intervals"
    with style.new_figure(4.4, title, ", ".join(shared)) as figure:
        axes = figure.subplots()
        for key, label, colour, marker in zip(
            series, labels, style.SERIES_COLOURS, _MARKERS, strict=False
        ):
            of_series = [r for r in drawn if _series(r) == key]
            _draw_series(axes, of_series, label or "measured", colour, marker)
        _dress(axes, drawn, len(results) - len(drawn))
    places = [(r.kept_blocks or 0, r.throughput_fps or 0.0) for r in drawn]
    predicted = [(r.kept_blocks or 0, fps) for r in drawn if (fps := _predicted_fps(r))]
    if len(series) == 1:
        # Networks of one name in one column, such as seeds, are named once.
        fastest = sorted(zip(places, drawn, strict=True), key=lambda one: -one[0][1])
        named = {(place[0], network_label(r.network)): place for place, r in reversed(fastest)}
        names = [PointLabel(*place, text) for (_, text), place in named.items()]
        with style.house_style():
            label_points(figure, axes, names, [*places, *predicted])
    return figure


def _series(result: BenchmarkResult) -> tuple[str, ...]:
    return tuple(str(getattr(result, name)) for name in SERIES_COLUMNS)


def _draw_series(
    axes: Axes, results: Sequence[BenchmarkResult], label: str, colour: str, marker: str
) -> None:
    axes.errorbar(
        [r.kept_blocks or 0 for r in results],
        [r.throughput_fps or 0.0 for r in results],
        yerr=style.error_lengths(map(throughput_interval, results)),
        fmt=marker,
        color=colour,
        markersize=5,
        elinewidth=1.0,
        capsize=2.5,
        label=label,
        zorder=3,
    )
    predicted = [r for r in results if r.predicted_ms]
    if not predicted:
        return
    for r in predicted:
        if r.predicted_low_ms and r.predicted_high_ms:
            # The slowest latency is the smallest throughput.
            low, high = (1000 * r.batch / ms for ms in (r.predicted_high_ms, r.predicted_low_ms))
            axes.vlines(r.kept_blocks or 0, low, high, colors=colour, alpha=0.25, linewidths=7)
    axes.scatter(
        [r.kept_blocks or 0 for r in predicted],
        [_predicted_fps(r) or 0.0 for r in predicted],
        s=95,
        marker=marker,
        facecolors="none",
        edgecolors=colour,
        linewidths=1.1,
        # The underscore keeps it out of the legend, which has one entry for all predictions.
        label=f"_predicted, {label}",
        zorder=4,
    )


def _predicted_fps(r: BenchmarkResult) -> float | None:
    return 1000 * r.batch / r.predicted_ms if r.predicted_ms else None


def throughput_interval(r: BenchmarkResult) -> tuple[float, float, float]:
    """Low, middle and high, in frames per second."""
    fps = r.throughput_fps or 0.0
    return r.throughput_low_fps or fps, fps, r.throughput_high_fps or fps


def _dress(axes: Axes, drawn: Sequence[BenchmarkResult], left_out: int) -> None:
    counts = {len(r.keep_mask) for r in drawn}
    of_all = f" (of {counts.copy().pop()})" if len(counts) == 1 and 0 not in counts else ""
    note = (
        f"; {counted(left_out, 'network')} failed or of unknown blocks: not drawn"
        if left_out
        else ""
    )
    axes.set_xlabel(f"Blocks that keep their activations{of_all}{note}")
    axes.set_ylabel("Throughput [frames/s]")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.08)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.grid()
    handles = axes.get_legend_handles_labels()[0]
    if any(r.predicted_ms is not None for r in drawn):
        mark = style.legend_mark("o", "predicted", "none", edge=style.GREY, size=9, width=1.0)
        handles.append(mark)
    style.legend_above(axes, columns=3, handles=handles)
