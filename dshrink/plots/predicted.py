"""Predicted against measured latency of the networks that took no part in the calibration."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.errors import PlotError
from dshrink.plots import style
from latency_tables.hold_out import HoldOut
from latency_tables.table import LatencyTable


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
    _Method("calibrated table", "predicted_ms", "mape_percent", style.BLUE, "o", 30, 1.0),
)


def predicted_figure(table: LatencyTable) -> Figure:
    """Latency above, the errors in percent below; a network's marks are in one column.

    The band is where predictions lie whose 95 % prediction interval holds the measurement. Raises
    PlotError for a table without held-out networks.
    """
    hold_out = table.hold_out
    if hold_out is None:
        raise PlotError(
            f"the table of {table.model} on {table.conditions.device} holds no held-out networks "
            f"to compare predictions with; measure them: {table.profile_command}"
        )
    count = len(hold_out.networks)
    plural = "" if count == 1 else "s"
    title = f"Predicted and measured latency of {count} held-out shrunk network{plural}"
    with style.new_figure(6.2, title, style.describe_table(table)) as figure:
        latency, errors = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
        _draw_bands(latency, errors, hold_out)
        for method in _METHODS:
            _draw_method(latency, errors, hold_out, method)
        _draw_measured(latency, hold_out)
        for axes in (latency, errors):
            axes.grid()
        latency.set_ylabel("Predicted latency [ms]")
        handles, labels = latency.get_legend_handles_labels()
        style.legend_above(latency, columns=3, handles=handles[::-1], labels=labels[::-1])
        errors.set_xlabel("Measured latency, with 95 % interval [ms]")
        errors.set_ylabel("Error of the prediction [%]")
    return figure


def _draw_bands(latency: Axes, errors: Axes, hold_out: HoldOut) -> None:
    measured = [network.measured_ms for network in hold_out.networks]
    margin = 0.04 * (max(measured) - min(measured)) or 0.02 * max(measured)
    ends = [min(measured) - margin, max(measured) + margin]
    latency.set_xlim(*ends)
    latency.plot(ends, ends, color=style.GREY, linewidth=0.9, label="predicted = measured")
    errors.axhline(0, color=style.GREY, linewidth=0.9)
    percent = hold_out.interval_percent
    if percent is None or percent >= 100:
        return
    # The interval is relative to the prediction, so seen from the measurement it is not symmetric.
    low, high = 1 / (1 + percent / 100), 1 / (1 - percent / 100)
    band: dict[str, Any] = {"color": style.BLUE, "alpha": 0.15, "linewidth": 0}
    latency.fill_between(
        ends,
        [low * end for end in ends],
        [high * end for end in ends],
        label=f"95 % prediction interval (± {percent:.2f} %)",
        **band,
    )
    errors.axhspan(100 * (low - 1), 100 * (high - 1), **band)


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


def _draw_measured(axes: Axes, hold_out: HoldOut) -> None:
    """The intervals of the measurements, on the marks of the calibrated table."""
    networks = hold_out.networks
    axes.errorbar(
        [network.measured_ms for network in networks],
        [network.predicted_ms for network in networks],
        xerr=style.error_lengths(
            (one.measured_low_ms, one.measured_ms, one.measured_high_ms) for one in networks
        ),
        fmt="none",
        ecolor=style.BLACK,
        elinewidth=0.8,
        zorder=2,
    )
