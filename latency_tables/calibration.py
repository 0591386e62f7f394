"""From the sum of isolated pieces to the latency of a whole network.

Isolated pieces pay layout changes at their ends and find their weights in the cache, so their plain
sum is off by a few per cent, by nearly the same factor in every shrunk network. Networks measured
end to end in the same rounds fix that line: the original, the all-merged ones, and a few between
them. The two forms of a merged block (with and without a bias map) get a slope each: a map costs
layout changes in a network that it does not cost alone.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from latency_tables.errors import CalibrationError
from latency_tables.masks import check_padding

#: Outside of this range the pieces and the networks were hardly measured in the same state.
SLOPE_RANGE = (0.9, 1.1)
#: The padding mode with a bias map; the other modes share the plain form.
MAP_PADDING = "bias_map"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNetwork:
    """A network measured end to end, for one purpose; what ends in ``_ms`` is above 0."""

    purpose: ClassVar[str]

    keep_mask: str
    padding: str
    measured_ms: float

    def __post_init__(self) -> None:
        check_padding(self.padding)
        for name, value in asdict(self).items():
            if name.endswith("_ms") and not (math.isfinite(value) and value > 0):
                raise CalibrationError(
                    f"{self.purpose} network {self.keep_mask}: {name} must be above 0, got {value}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationNetwork(MeasuredNetwork):
    """A network that the calibration is fitted to, and the plain sum of its rows."""

    purpose = "calibration"

    sum_ms: float

    @property
    def is_base(self) -> bool:
        """Whether this is the original network."""
        return "0" not in self.keep_mask


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """``intercept_ms + slope * (sum - base_sum_ms)``, fitted to the networks by least squares.

    Residuals are relative, the intercept is the fitted latency of the original network, and each
    form of a merged block has its slope. Only the networks are facts; the line is derived.
    """

    DERIVED: ClassVar = ("intercept_ms", "base_sum_ms", "slope", "slope_bias_map")

    networks: tuple[CalibrationNetwork, ...]
    method: Literal["least-squares"] = "least-squares"

    def __post_init__(self) -> None:
        if not any(network.is_base for network in self.networks):
            raise CalibrationError("calibration: needs the original network, measured end to end")
        for slope in self.slopes.values():
            if not (slope > 0 and math.isfinite(slope)):
                raise CalibrationError(
                    f"calibration: the slope is {slope:.3g}, which is not positive: networks and "
                    "pieces contradict each other; measure again on an idle machine"
                )

    @cached_property
    def _base(self) -> CalibrationNetwork:
        return next(network for network in self.networks if network.is_base)

    @property
    def base_ms(self) -> float:
        """The original network, measured end to end."""
        return self._base.measured_ms

    @property
    def base_sum_ms(self) -> float:
        """The sum of the original network's rows."""
        return self._base.sum_ms

    @cached_property
    def _fit(self) -> tuple[float, dict[bool, float]]:
        changes = [network.sum_ms - self.base_sum_ms for network in self.networks]
        moved = {
            _has_map(network.padding)
            for network, change in zip(self.networks, changes, strict=True)
            if change
        }
        forms = sorted(moved)
        rows = [
            [1.0, *(change if _has_map(network.padding) == form else 0.0 for form in forms)]
            for network, change in zip(self.networks, changes, strict=True)
        ]
        measured = np.array([network.measured_ms for network in self.networks])
        solution = np.linalg.lstsq(np.array(rows) / measured[:, None], np.ones(len(rows)))[0]
        return float(solution[0]), {f: float(s) for f, s in zip(forms, solution[1:], strict=True)}

    @property
    def intercept_ms(self) -> float:
        """The fitted latency of the original network."""
        return self._fit[0]

    @cached_property
    def slopes(self) -> dict[bool, float]:
        """Milliseconds of a network a millisecond of pieces, without (False) and with bias maps.

        A form that no network showed takes the other's slope; 1 where no block can merge.
        """
        known = self._fit[1]
        return {form: known.get(form, known.get(not form, 1.0)) for form in (False, True)}

    @property
    def slope(self) -> float:
        """That of the form without bias maps."""
        return self.slopes[False]

    @property
    def slope_bias_map(self) -> float:
        return self.slopes[True]

    @property
    def warning(self) -> str:
        """What is suspicious about the slopes, or an empty text."""
        low, high = SLOPE_RANGE
        outside = [
            slope for slope in dict.fromkeys(self.slopes.values()) if not low <= slope <= high
        ]
        if not outside:
            return ""
        return (
            f"the calibration's slope is {', '.join(f'{slope:.3f}' for slope in outside)}, outside "
            f"{low} to {high}: the pieces cost more or less alone than in the network, or "
            "other work ran on the machine"
        )

    def predict_ms(self, sum_ms: float, padding: str) -> float:
        """The latency of a network whose rows add up to ``sum_ms``."""
        return self.intercept_ms + self.slopes[_has_map(padding)] * (sum_ms - self.base_sum_ms)


def _has_map(padding: str) -> bool:
    return padding == MAP_PADDING
