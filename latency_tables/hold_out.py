"""Prediction errors on networks that took no part in the calibration.

Only the networks' own numbers are facts; every statistic is derived from them, so a saved table
cannot claim an accuracy that its networks do not show. Errors (MAPE and the like) are relative to
the measured latency; the prediction interval is relative to the predicted one, because that is all
that is known when a prediction is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import ClassVar

from latency_tables.calibration import MeasuredNetwork
from latency_tables.errors import CalibrationError
from latency_tables.ranks import kendall_tau

CONFORMAL = "split-conformal"
STUDENT_T = "student-t"

#: Fewest networks for which the conformal interval exists at 95 %.
CONFORMAL_MINIMUM = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOutNetwork(MeasuredNetwork):
    """A shrunk network, measured end to end and predicted three ways.

    ``predicted_ms`` is the calibrated prediction, ``plain_sum_ms`` the sum of the rows, and
    ``scaled_macs_ms`` the original network's latency times the share of its MACs.
    """

    purpose = "hold-out"

    measured_low_ms: float
    measured_high_ms: float
    predicted_ms: float
    plain_sum_ms: float
    scaled_macs_ms: float

    def __post_init__(self) -> None:
        MeasuredNetwork.__post_init__(self)  # super() does not work in a class with slots
        if not self.measured_low_ms <= self.measured_ms <= self.measured_high_ms:
            raise CalibrationError(
                f"hold-out network {self.keep_mask}: measured_ms {self.measured_ms} lies outside "
                f"its interval {self.measured_low_ms} to {self.measured_high_ms}"
            )

    @property
    def error_percent(self) -> float:
        """Signed error of the prediction; positive where it is too slow."""
        return 100 * (self.predicted_ms / self.measured_ms - 1)


@dataclass(frozen=True, slots=True)
class HoldOut:
    """The held-out networks, and what they say about the table's predictions."""

    DERIVED: ClassVar = (
        "mape_percent",
        "max_error_percent",
        "within_5_percent",
        "within_10_percent",
        "kendall_tau",
        "interval_percent",
        "interval_method",
        "leave_one_out_coverage_percent",
        "plain_sum_mape_percent",
        "plain_sum_max_error_percent",
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
        """Mean absolute percentage error of the calibrated prediction."""
        return fmean(self._errors(lambda n: n.predicted_ms))

    @property
    def max_error_percent(self) -> float:
        return max(self._errors(lambda n: n.predicted_ms))

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

    def _residuals(self) -> list[float]:
        return [100 * (n.measured_ms / n.predicted_ms - 1) for n in self.networks]

    @property
    def interval_percent(self) -> float | None:
        """Half-width, in per cent of the prediction, of a 95 % prediction interval.

        None with fewer than two networks.
        """
        return _half_width(self._residuals())

    @property
    def interval_method(self) -> str:
        return CONFORMAL if len(self.networks) >= CONFORMAL_MINIMUM else STUDENT_T

    @property
    def leave_one_out_coverage_percent(self) -> float | None:
        """Percentage of the networks inside the interval that the others give.

        None with fewer than three networks.
        """
        residuals = self._residuals()
        if len(residuals) < 3:
            return None
        covered = 0
        for number, residual in enumerate(residuals):
            width = _half_width(residuals[:number] + residuals[number + 1 :])
            covered += width is not None and abs(residual) <= width
        return 100 * covered / len(residuals)


def _half_width(residuals: Sequence[float]) -> float | None:
    count = len(residuals)
    if count < 2:
        return None
    if count >= CONFORMAL_MINIMUM:
        # ceil((n + 1) * 0.95) in integers: in floats some n would round up by one.
        rank = -(-(count + 1) * 95 // 100)
        return sorted(abs(residual) for residual in residuals)[rank - 1]
    # Too few networks for a rank: assume normal errors, and add the bias so that the interval
    # can stay symmetric around the prediction.
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    quantile = float(stdtrit(count - 1, 0.975))
    return abs(fmean(residuals)) + quantile * stdev(residuals) * math.sqrt(1 + 1 / count)
