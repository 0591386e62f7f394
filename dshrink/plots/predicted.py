"""Predicted against measured latency of the networks that took no part in the calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dshrink.plots.errors import PlotError
from dshrink.plots.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    describe_table,
    house_style,
    legend_above,
    new_figure,
    set_titles,
)
from latency_tables.hold_out import HoldOut, HoldOutNetwork
from latency_tables.table import LatencyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """A way to predict, and how its marks look; the fainter ones are there to compare with."""

    name: str
    predicted_ms: Callable[[HoldOutNetwork], float]
    mape_percent: Callable[[HoldOut], float]
    colour: str
    marker: str
    size: float
    alpha: float


_METHODS = (
    _Method(
        name="scaled MACs",
        predicted_ms=lambda network: network.scaled_macs_ms,
        mape_percent=lambda hold_out: hold_out.scaled_macs_mape_percent,
        colour=PURPLE,
        marker="^",
        size=22,
        alpha=0.55,
    ),
    _Method(
        name="plain sum of rows",
        predicted_ms=lambda network: network.plain_sum_ms,
        mape_percent=lambda hold_out: hold_out.plain_sum_mape_percent,
        colour=ORANGE,
        marker="s",
        size=20,
        alpha=0.65,
    ),
    _Method(
        name="calibrated table",
        predicted_ms=lambda network: network.predicted_ms,
        mape_percent=lambda hold_out: hold_out.mape_percent,
        colour=BLUE,
        marker="o",
        size=30,
        alpha=1.0,
    ),
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
    with house_style():
        figure = new_figure(6.2)
        latency, errors = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": (1.5, 1)}
        )
        _draw_bands(latency, errors, hold_out)
        _draw_latencies(latency, hold_out)
        _draw_errors(errors, hold_out)
        count = len(hold_out.networks)
        set_titles(
            figure,
            f"Predicted and measured latency of {count} held-out shrunk "
            f"network{'' if count == 1 else 's'}",
            describe_table(table),
        )
        return figure


def _draw_bands(latency: Axes, errors: Axes, hold_out: HoldOut) -> None:
    measured = [network.measured_ms for network in hold_out.networks]
    margin = 0.04 * (max(measured) - min(measured)) or 0.02 * max(measured)
    ends = [min(measured) - margin, max(measured) + margin]
    latency.set_xlim(*ends)
    latency.plot(ends, ends, color=GREY, linewidth=0.9, label="predicted = measured")
    errors.axhline(0, color=GREY, linewidth=0.9)
    percent = hold_out.interval_percent
    if percent is None or percent >= 100:
        return
    # The interval is relative to the prediction, so seen from the measurement it is not symmetric.
    low, high = 1 / (1 + percent / 100), 1 / (1 - percent / 100)
    band: dict[str, Any] = {"color": BLUE, "alpha": 0.15, "linewidth": 0}
    latency.fill_between(
        ends,
        [low * end for end in ends],
        [high * end for end in ends],
        label=f"95 % prediction interval (± {percent:.2f} %)",
        **band,
    )
    errors.axhspan(100 * (low - 1), 100 * (high - 1), **band)


def _draw_latencies(axes: Axes, hold_out: HoldOut) -> None:
    networks = hold_out.networks
    for method in _METHODS:
        axes.scatter(
            [network.measured_ms for network in networks],
            [method.predicted_ms(network) for network in networks],
            s=method.size,
            marker=method.marker,
            color=method.colour,
            alpha=method.alpha,
            linewidths=0,
            label=f"{method.name}, MAPE {method.mape_percent(hold_out):.2f} %",
            zorder=3,
        )
    axes.errorbar(
        [network.measured_ms for network in networks],
        [network.predicted_ms for network in networks],
        xerr=(
            [network.measured_ms - network.measured_low_ms for network in networks],
            [network.measured_high_ms - network.measured_ms for network in networks],
        ),
        fmt="none",
        ecolor=BLACK,
        elinewidth=0.8,
        zorder=2,
    )
    axes.set_ylabel("Predicted latency [ms]")
    axes.grid()
    handles, labels = axes.get_legend_handles_labels()
    legend_above(axes, columns=3, handles=handles[::-1], labels=labels[::-1])


def _draw_errors(axes: Axes, hold_out: HoldOut) -> None:
    for method in _METHODS:
        axes.scatter(
            [network.measured_ms for network in hold_out.networks],
            [100 * (method.predicted_ms(n) / n.measured_ms - 1) for n in hold_out.networks],
            s=method.size,
            marker=method.marker,
            color=method.colour,
            alpha=method.alpha,
            linewidths=0,
            label=method.name,
            zorder=3,
        )
    axes.set_xlabel("Measured latency, with 95 % interval [ms]")
    axes.set_ylabel("Error of the prediction [%]")
    axes.grid()
