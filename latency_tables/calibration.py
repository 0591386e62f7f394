"""From the sum of isolated pieces to the latency of a whole network.

Isolated pieces pay layout changes at their ends and find their weights in the cache, so their plain
sum is off by a few per cent, by nearly the same factor in every shrunk network. Two networks
measured end to end beside the pieces, the original and the all-merged one, fix that line.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from latency_tables.errors import CalibrationError
from latency_tables.json_fields import JsonObject

TWO_POINT = "two-point"
#: Outside of this range the pieces and the networks were hardly measured in the same state.
SLOPE_RANGE = (0.9, 1.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """``base_ms + slope * (sum - base_sum_ms)``, through the original and the all-merged network.

    ``base_ms`` and ``merged_ms`` were measured end to end; ``base_sum_ms`` and ``merged_sum_ms``
    are the sums of the same networks' rows.
    """

    base_ms: float
    base_sum_ms: float
    merged_ms: float
    merged_sum_ms: float
    method: str = TWO_POINT

    def __post_init__(self) -> None:
        if self.method != TWO_POINT:
            raise CalibrationError(
                f"calibration: method {self.method!r} is not known; known: {TWO_POINT}"
            )
        for name in ("base_ms", "base_sum_ms", "merged_ms", "merged_sum_ms"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise CalibrationError(f"calibration: {name} must be above 0, got {value}")
        if not self.slope > 0 or not math.isfinite(self.slope):
            raise CalibrationError(
                f"calibration: merging changes the pieces' sum from {self.base_sum_ms:.4g} to "
                f"{self.merged_sum_ms:.4g} ms but the whole network from {self.base_ms:.4g} to "
                f"{self.merged_ms:.4g} ms: these contradict each other; measure again on a "
                "quiet machine"
            )

    @property
    def slope(self) -> float:
        """Milliseconds of a network a millisecond of pieces; 1 where no block can merge."""
        if self.merged_sum_ms == self.base_sum_ms:
            return 1.0
        return (self.merged_ms - self.base_ms) / (self.merged_sum_ms - self.base_sum_ms)

    @property
    def warning(self) -> str:
        """What is suspicious about the slope, or an empty text."""
        low, high = SLOPE_RANGE
        if low <= self.slope <= high:
            return ""
        return (
            f"the calibration's slope is {self.slope:.3f}, outside {low} to {high}: pieces and "
            "networks were hardly measured in the same state; measure again on a quiet machine"
        )

    def predict_ms(self, sum_ms: float) -> float:
        """The latency of a network whose rows add up to ``sum_ms``."""
        return self.base_ms + self.slope * (sum_ms - self.base_sum_ms)

    def to_json(self) -> dict[str, Any]:
        """The fields, and the slope for readers; ``from_json`` derives it again."""
        return {**asdict(self), "slope": self.slope}

    @classmethod
    def from_json(cls, source: JsonObject) -> Calibration:
        names = ("base_ms", "base_sum_ms", "merged_ms", "merged_sum_ms")
        source.check_fields(["method", *names, "slope"])
        numbers = {name: source.number(name) for name in names}
        return cls(method=source.text("method"), **numbers)
