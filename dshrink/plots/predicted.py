"""Predicted against measured latency of the networks that took no part in the estimate."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.errors import PlotError
from dshrink.plots import style
from latency_tables.estimator import NORMAL_95
from latency_tables.hold_out import HoldOut
from latency_tables.table import LatencyTable
from latency_tables.wording import counted


class _Method(NamedTuple):
    """A way to predict: fields of a hold-out network and of the hold-out, and how its marks look.

    The fainter ones are there to compare with.
    """

    name: str
    latency: str
    mape: str
    colour: str
    marker: str
    size: float
    alpha: float


_SCALED, _SUM = "scaled_macs", "plain_sum"
_METHODS = (
    _Method("scaled MACs", f"{_SCALED}_ms", f"{_SCALED}_mape_percent", style.PURPLE, "^", 22, 0.55),
    _Method("plain sum of rows", f"{_SUM}_ms", f"{_SUM}_mape_percent", style.ORANGE, "s", 20, 0.65),
    _Method("latency table", "predicted_ms", "mape_percent", style.BLUE, "o", 30, 1.0),
)


def predicted_figure(table: LatencyTable) -> Figure:
    """Latency above, the errors in percent below; a network's marks are in one column.

    Bars are the 95 % intervals: of the table's predictions, and of the measurements. Raises
    PlotError for a table without held-out networks.
    """
    hold_out = table.hold_out
    if hold_out is None:
        raise PlotError(
            f"the table of {table.model} on {table.conditions.device} holds no held-out networks "
            f"to compare predictions with; measure them: {table.profile_command}"
        )
    count = len(hold_out.networks)
    title = f"Predicted and measured latency of {counted(count, 'held-out shrunk network')}"
    with style.new_figure(6.2, title, style.describe_table(table)) as figure:
        latency, errors = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
        _draw_perfect(latency, errors, hold_out)
        for method in _METHODS:
            _draw_method(latency, errors, hold_out, method)
        _draw_intervals(latency, errors, hold_out)
        for axes in (latency, errors):
            axes.grid()
        latency.set_ylabel("Predicted latency [ms]")
        handles, labels = latency.get_legend_handles_labels()
        style.legend_above(latency, columns=3, handles=handles[::-1], labels=labels[::-1])
        errors.set_xlabel("Measured latency, with 95 % interval [ms]")
        errors.set_ylabel("Error of the prediction [%]")
    return figure


def _draw_perfect(latency: Axes, errors: Axes, hold_out: HoldOut) -> None:
    measured = [network.measured_ms for network in hold_out.networks]
    margin = 0.04 * (max(measured) - min(measured)) or 0.02 * max(measured)
    ends = [min(measured) - margin, max(measured) + margin]
    latency.set_xlim(*ends)
    latency.plot(ends, ends, color=style.GREY, linewidth=0.9, label="predicted = measured")
    errors.axhline(0, color=style.GREY, linewidth=0.9)


def _draw_method(latency: Axes, errors: Axes, hold_out: HoldOut, method: _Method) -> None:
    measured = [network.measured_ms for network in hold_out.networks]
    predicted = [getattr(network, method.latency) for network in hold_out.networks]
    percent = [100 * (p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    mape = f"{method.name}, MAPE {getattr(hold_out, method.mape):.2f} %"
    for axes, heights, label in ((latency, predicted, mape), (errors, percent, method.name)):
        axes.scatter(
            measured,
            heights,
            s=method.size,
            marker=method.marker,
            color=method.colour,
            alpha=method.alpha,
            linewidths=0,
            label=label,
            zorder=3,
        )


def _draw_intervals(latency: Axes, errors: Axes, hold_out: HoldOut) -> None:
    """On the marks of the table: up and down of the prediction, across of the measurement."""
    networks = hold_out.networks
    measured = [one.measured_ms for one in networks]
    across = style.error_lengths(
        (one.measured_low_ms, one.measured_ms, one.measured_high_ms) for one in networks
    )
    width = NORMAL_95 * hold_out.interval_factor
    half_ms = [width * one.predicted_sd_ms for one in networks]
    half_percent = [100 * half / ms for half, ms in zip(half_ms, measured, strict=True)]
    bars: dict[str, Any] = {"fmt": "none", "elinewidth": 0.8, "zorder": 2}
    predicted = [one.predicted_ms for one in networks]
    label = f"95 % prediction interval (± {hold_out.interval_percent:.2f} % on average)"
    latency.errorbar(measured, predicted, half_ms, ecolor=style.BLUE, label=label, **bars)
    latency.errorbar(measured, predicted, xerr=across, ecolor=style.BLACK, **bars)
    percent = [one.error_percent for one in networks]
    errors.errorbar(measured, percent, half_percent, ecolor=style.BLUE, **bars)
