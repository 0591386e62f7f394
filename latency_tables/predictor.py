"""Predict the latency of a shrunk network from the table of its pieces."""

from __future__ import annotations

from dataclasses import dataclass

from latency_tables.errors import CalibrationError
from latency_tables.table import LatencyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a network of this mask should cost, for the table's batch.

    ``low_ms`` and ``high_ms`` are a 95 % prediction interval, None where the table holds no
    hold-out networks to know it from. Without a calibration ``latency_ms`` is the plain sum.
    ``scaled_macs_ms`` is what the share of the MACs alone would say.
    """

    keep_mask: str
    padding: str
    latency_ms: float
    low_ms: float | None
    high_ms: float | None
    plain_sum_ms: float
    scaled_macs_ms: float
    throughput_fps: float
    calibrated: bool


def predict(table: LatencyTable, keep_mask: str, padding: str | None = None) -> Prediction:
    """Predict the network of ``keep_mask``; without ``padding`` as its merged pieces usually are.

    Raises MaskError for a mask that does not fit, MissingPieceError for a piece without latency.
    """
    padding = padding or table.forms.padding
    plain_sum_ms = table.sum_ms(keep_mask, padding)
    original = table.forms.base
    calibration = table.calibration
    if calibration is None:
        latency_ms, base_ms = plain_sum_ms, table.sum_ms(original)
    else:
        latency_ms, base_ms = calibration.predict_ms(plain_sum_ms, padding), calibration.base_ms
    if latency_ms <= 0:
        raise CalibrationError(
            f"{table.model}: the prediction for {keep_mask} is {latency_ms:.4g} ms, which cannot "
            f"be: the calibration does not fit these rows; measure again: {table.profile_command}"
        )
    low_ms, high_ms = _interval(table, latency_ms)
    macs = table.macs(original)
    return Prediction(
        keep_mask=keep_mask,
        padding=padding,
        latency_ms=latency_ms,
        low_ms=low_ms,
        high_ms=high_ms,
        plain_sum_ms=plain_sum_ms,
        scaled_macs_ms=base_ms * table.macs(keep_mask, padding) / macs if macs else base_ms,
        throughput_fps=1000 * table.conditions.batch / latency_ms,
        calibrated=calibration is not None,
    )


def _interval(table: LatencyTable, latency_ms: float) -> tuple[float | None, float | None]:
    # The hold-out networks tested the calibrated prediction; they say nothing about a plain sum.
    if table.calibration is None or table.hold_out is None:
        return None, None
    percent = table.hold_out.interval_percent
    if percent is None:
        return None, None
    margin_ms = latency_ms * percent / 100
    return max(latency_ms - margin_ms, 0.0), latency_ms + margin_ms
