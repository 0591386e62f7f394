"""Predict the latency of a shrunk network from the table of its pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latency_tables.errors import CalibrationError
from latency_tables.estimator import NORMAL_95
from latency_tables.hold_out import IntervalMethod
from latency_tables.table import LatencyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a network of this mask should cost, for the table's batch.

    ``low_ms`` and ``high_ms`` are a 95 % prediction interval: the posterior's own, or one widened
    to what held-out networks showed ("conformal"). Both, and ``interval_method``, are None where no
    network was measured; then the table is not ``calibrated`` and ``latency_ms`` is the plain sum.
    ``plain_sum_ms`` is what the pieces take alone, ``scaled_macs_ms`` what the share of the MACs
    alone would say.
    """

    keep_mask: str
    padding: str
    latency_ms: float
    low_ms: float | None
    high_ms: float | None
    interval_method: IntervalMethod | None
    plain_sum_ms: float
    scaled_macs_ms: float
    throughput_fps: float
    calibrated: bool


def predict(table: LatencyTable, keep_mask: str, padding: str | None = None) -> Prediction:
    """Predict the network of ``keep_mask``; without ``padding`` as its merged pieces usually are.

    Raises MaskError for a mask that does not fit, MissingPieceError for a piece without latency.
    """
    padding = padding or table.forms.padding
    places = table.places(keep_mask, padding)
    latency_ms = plain_sum_ms = math.fsum(table.measured(*place)[1] for place in places)
    low_ms = high_ms = method = None
    if table.costs is not None:
        latency_ms, sd_ms = table.costs.predict(places)
        method, factor = _interval(table)
        margin_ms = factor * NORMAL_95 * sd_ms
        low_ms, high_ms = max(latency_ms - margin_ms, 0.0), latency_ms + margin_ms
    if latency_ms <= 0:
        raise CalibrationError(
            f"{table.model}: the prediction for {keep_mask} is {latency_ms:.4g} ms, which cannot "
            "be: the networks and the pieces contradict each other; measure again: "
            f"{table.profile_command}"
        )
    return Prediction(
        keep_mask=keep_mask,
        padding=padding,
        latency_ms=latency_ms,
        low_ms=low_ms,
        high_ms=high_ms,
        interval_method=method,
        plain_sum_ms=plain_sum_ms,
        scaled_macs_ms=table.scaled_macs_ms(keep_mask, padding),
        throughput_fps=1000 * table.conditions.batch / latency_ms,
        calibrated=table.costs is not None,
    )


def _interval(table: LatencyTable) -> tuple[IntervalMethod, float]:
    """Which interval is given, and by how much the posterior's own is widened."""
    check = table.hold_out
    return (check.interval_method, check.interval_factor) if check else ("posterior", 1.0)
