"""Whole networks measured end to end, and what they say about the machine itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from latency_tables.errors import CalibrationError
from latency_tables.estimator import NORMAL_95
from latency_tables.masks import check_padding

#: No network is known better than to this share of its latency.
LEAST_ERROR = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNetwork:
    """A whole network, measured end to end; ``measured_ms`` is what its processes expect of it.

    ``low_ms`` to ``high_ms`` is the 95 % interval of that over processes (engine builds, boards),
    of which there were ``processes``, 0 where that is not known. From networks of role "fit" the
    costs of pieces in the network are estimated; those of role "check" only try the predictions.
    """

    keep_mask: str
    padding: str
    role: Literal["fit", "check"]
    measured_ms: float
    low_ms: float
    high_ms: float
    processes: int = 0

    def __post_init__(self) -> None:
        check_padding(self.padding)
        for name in ("measured_ms", "low_ms", "high_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise CalibrationError(f"{self.name}: {name} must be above 0, got {value}")
        if not self.low_ms <= self.measured_ms <= self.high_ms:
            raise CalibrationError(
                f"{self.name}: measured_ms {self.measured_ms} lies outside its interval "
                f"{self.low_ms} to {self.high_ms}"
            )
        if self.processes < 0:
            raise CalibrationError(
                f"{self.name}: processes must be 0 or more, got {self.processes}"
            )

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.role} network {self.keep_mask} ({self.padding})"

    @property
    def error_ms(self) -> float:
        """The standard error of ``measured_ms``."""
        half_ms = (self.high_ms - self.low_ms) / 2
        return max(half_ms / NORMAL_95, LEAST_ERROR * self.measured_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What all networks of one process have in common: how fast the machine was for it.

    ``level_percent_low`` to ``level_percent_high`` is the 95 % interval of the machine's own level
    over the run, in per cent of the table's (so around 100). 95 % of all visits, each in a process
    of its own, were within ``spread_percent`` of the table's numbers; ``disturbed_percent`` of them
    were more than 5 % slower. ``moved_percent`` is by how much the level moved between the slowest
    and the fastest of the ``processes``.
    """

    level_percent_low: float
    level_percent_high: float
    spread_percent: float
    moved_percent: float
    processes: int
    disturbed_percent: float = 0.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (math.isfinite(value) and value >= 0):
                raise CalibrationError(f"level: {one.name} must be 0 or more, got {value}")
        if self.level_percent_low > self.level_percent_high:
            raise CalibrationError(
                f"level: expected level_percent_low <= level_percent_high, got "
                f"{self.level_percent_low} and {self.level_percent_high}"
            )

    @property
    def known_percent(self) -> float:
        """Half the width of the interval of the level."""
        return (self.level_percent_high - self.level_percent_low) / 2
