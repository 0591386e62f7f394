"""Prediction errors on networks that took no part in the estimate.

Nothing here is stored: it follows from a table's rows and networks, so a saved table cannot claim
an accuracy that its networks do not show. Errors are relative to the measured latency.

The posterior's own interval is tried on these networks. Where it held improbably few of them, it is
widened to what does: split-conformal prediction with normalised scores (Lei et al., Distribution-
Free Predictive Inference for Regression, JASA 2018, Sec. 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import mul
from statistics import fmean
from typing import ClassVar, Literal

from latency_tables.errors import CalibrationError
from latency_tables.estimator import NORMAL_95, NORMAL_MEAN
from latency_tables.ranks import kendall_tau

IntervalMethod = Literal["posterior", "conformal"]

#: With fewer networks nothing is said against the posterior's interval.
CONFORMAL_MINIMUM = 8
#: A coverage is improbably low where 95 % intervals would have so little with less probability.
IMPROBABLE = 0.025


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOutNetwork:
    """A network of role "check", measured end to end and predicted four ways; all above 0.

    ``predicted_ms`` is the table's prediction with its standard deviation ``predicted_sd_ms``,
    ``plain_sum_ms`` the sum of the pieces alone, ``line_ms`` the line through such sums that fits
    the other networks best (None where there are none), and ``scaled_macs_ms`` the original
    network's latency times the share of its MACs.
    """

    keep_mask: str
    padding: str
    measured_ms: float
    measured_low_ms: float
    measured_high_ms: float
    predicted_ms: float
    predicted_sd_ms: float
    plain_sum_ms: float
    line_ms: float | None
    scaled_macs_ms: float

    @property
    def error_percent(self) -> float:
        """Signed error of the prediction; positive where it is too slow."""
        return 100 * (self.predicted_ms / self.measured_ms - 1)

    @property
    def measured_sd_ms(self) -> float:
        return (self.measured_high_ms - self.measured_low_ms) / 2 / NORMAL_95

    @property
    def score(self) -> float:
        """The error, in standard deviations of the prediction and of the measurement together."""
        expected_ms = math.hypot(self.predicted_sd_ms, self.measured_sd_ms)
        error_ms = abs(self.measured_ms - self.predicted_ms)
        return error_ms / expected_ms if expected_ms else math.inf if error_ms else 0.0


@dataclass(frozen=True)
class HoldOut:
    """The held-out networks, and what they say about the table's predictions."""

    DERIVED: ClassVar = (
        "mape_percent",
        "max_error_percent",
        "measuring_percent",
        "within_5_percent",
        "within_10_percent",
        "kendall_tau",
        "coverage_percent",
        "interval_percent",
        "interval_method",
        "plain_sum_mape_percent",
        "plain_sum_max_error_percent",
        "line_mape_percent",
        "line_max_error_percent",
        "scaled_macs_mape_percent",
        "scaled_macs_max_error_percent",
    )

    networks: tuple[HoldOutNetwork, ...]

    def __post_init__(self) -> None:
        if not self.networks:
            raise CalibrationError("hold-out: needs at least one network")

    def _errors(self, predicted: Callable[[HoldOutNetwork], float]) -> list[float]:
        return [abs(100 * (predicted(n) / n.measured_ms - 1)) for n in self.networks]

    @property
    def mape_percent(self) -> float:
        """Mean absolute percentage error of the prediction."""
        return fmean(self._errors(lambda n: n.predicted_ms))

    @property
    def max_error_percent(self) -> float:
        return max(self._errors(lambda n: n.predicted_ms))

    @property
    def measuring_percent(self) -> float:
        """The mean error that a perfect prediction would have: these networks' own measurement."""
        return fmean(100 * NORMAL_MEAN * n.measured_sd_ms / n.measured_ms for n in self.networks)

    def _share_within(self, percent: float) -> float:
        errors = self._errors(lambda n: n.predicted_ms)
        return 100 * sum(error <= percent for error in errors) / len(errors)

    @property
    def within_5_percent(self) -> float:
        """Percentage of the networks whose error is at most 5 %."""
        return self._share_within(5)

    @property
    def within_10_percent(self) -> float:
        """Percentage of the networks whose error is at most 10 %."""
        return self._share_within(10)

    @property
    def plain_sum_mape_percent(self) -> float:
        return fmean(self._errors(lambda n: n.plain_sum_ms))

    @property
    def plain_sum_max_error_percent(self) -> float:
        return max(self._errors(lambda n: n.plain_sum_ms))

    @property
    def _line_errors(self) -> list[float]:
        lines = [(n.line_ms, n.measured_ms) for n in self.networks]
        return [abs(100 * (line_ms / ms - 1)) for line_ms, ms in lines if line_ms is not None]

    @property
    def line_mape_percent(self) -> float | None:
        """Of the line through plain sums; None without networks to fit it to."""
        return fmean(errors) if (errors := self._line_errors) else None

    @property
    def line_max_error_percent(self) -> float | None:
        return max(self._line_errors, default=None)

    @property
    def scaled_macs_mape_percent(self) -> float:
        return fmean(self._errors(lambda n: n.scaled_macs_ms))

    @property
    def scaled_macs_max_error_percent(self) -> float:
        return max(self._errors(lambda n: n.scaled_macs_ms))

    @property
    def kendall_tau(self) -> float | None:
        """Rank correlation of prediction and measurement; None where all are equal."""
        return kendall_tau(
            [n.predicted_ms for n in self.networks], [n.measured_ms for n in self.networks]
        )

    @property
    def _covered(self) -> int:
        return sum(network.score <= NORMAL_95 for network in self.networks)

    @property
    def coverage_percent(self) -> float:
        """Percentage of the networks inside the posterior's own 95 % interval.

        A network's own interval counts too: what is measured is not exactly what it takes.
        """
        return 100 * self._covered / len(self.networks)

    @cached_property
    def interval_method(self) -> IntervalMethod:
        """ "conformal" where the posterior's own interval held improbably few networks."""
        count = len(self.networks)
        if count < CONFORMAL_MINIMUM or _tail(self._covered, count) >= IMPROBABLE:
            return "posterior"
        return "conformal"

    @cached_property
    def interval_factor(self) -> float:
        """By how much the posterior's own interval is widened; 1 where it is good as it is."""
        if self.interval_method == "posterior":
            return 1.0
        # ceil((n + 1) * 0.95) in integers: in floats some n would round up by one.
        rank = -(-(len(self.networks) + 1) * 95 // 100)
        scores = sorted(network.score for network in self.networks)
        return scores[min(rank, len(scores)) - 1] / NORMAL_95

    @property
    def interval_percent(self) -> float:
        """Half the width of a 95 % prediction interval, mean of the networks."""
        width = 100 * NORMAL_95 * self.interval_factor
        return fmean(width * n.predicted_sd_ms / n.measured_ms for n in self.networks)


def _tail(covered: int, count: int) -> float:
    """The probability that of ``count`` intervals of 95 % no more than ``covered`` hold."""
    return math.fsum(
        math.comb(count, hit) * 0.95**hit * 0.05 ** (count - hit) for hit in range(covered + 1)
    )


def fitted_line(sums_ms: Sequence[float], measured_ms: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of the line through sums (one or more), of least relative squares.

    The slope is 1 where all sums are equal.
    """
    weights = [1 / ms**2 for ms in measured_ms]

    def mean(values: Sequence[float]) -> float:
        return math.fsum(map(mul, weights, values)) / math.fsum(weights)

    sum_ms, ms = mean(sums_ms), mean(measured_ms)
    changes = [one - sum_ms for one in sums_ms]
    variance = mean([change**2 for change in changes])
    if variance <= (1e-9 * sum_ms) ** 2:
        return 1.0, ms - sum_ms
    slope = mean([c * (y - ms) for c, y in zip(changes, measured_ms, strict=True)]) / variance
    return slope, ms - slope * sum_ms
