"""The rounds of a table of layers: all of them a few times, then those that are not known well.

In each process further layers that are known well are measured too: one layer alone would say
nothing of how fast the machine was for its process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from profiler.errors import InvalidJobError
from profiler.levels import JobLatency
from profiler.measurement import Measurement
from profiler.schedule import Known

#: So many layers at least are in a process, so that its level is known.
LEVEL_LAYERS = 12

#: The latencies that follow from measurements, by job; empty where nothing was measured.
Weigh = Callable[[Mapping[str, Measurement]], Mapping[str, JobLatency]]


@dataclass(frozen=True, kw_only=True)
class LayerSchedule:
    """Rounds until half of each layer's interval is at most ``target_percent`` of its latency.

    ``time_limit_s`` is how long measuring may take: the round that is begun is ended, and
    ``least_rounds`` are made in any case.
    """

    weigh: Weigh
    target_percent: float
    time_limit_s: float
    least_rounds: int
    most_rounds: int

    def __post_init__(self) -> None:
        if not 0 < self.target_percent < 100:
            raise InvalidJobError(
                f"the target error ({self.target_percent:g} %) must be between 0 and 100 %"
            )
        if not self.time_limit_s > 0:
            raise InvalidJobError(f"the time limit ({self.time_limit_s:g} s) must be above 0")

    def next_round(self, number: int, known: Known) -> Collection[str]:
        """All layers, later those that are not known well and some beside them."""
        measured = known.measurements
        able = [name for name, one in measured.items() if not one.given_up]
        if number < self.least_rounds:
            return able
        if number >= self.most_rounds or known.spent_s >= self.time_limit_s:
            return []
        widths = self._widths(measured)
        unsure = [name for name in able if self._is_unsure(name, measured, widths)]
        if not unsure:
            return []
        chosen = set(unsure)
        others = sorted(chosen.symmetric_difference(able), key=lambda name: widths[name])
        return [*unsure, *others[: max(0, LEVEL_LAYERS - len(unsure))]]

    def estimate(self, number: int, known: Known) -> tuple[int, str]:
        """The rounds for all, then one at a time; how many layers are known well enough."""
        measured = known.measurements
        if number < self.least_rounds:
            able = sum(not one.given_up for one in measured.values())
            return able * (self.least_rounds - number), ""
        widths = self._widths(measured)
        unsure = sum(self._is_unsure(name, measured, widths) for name in measured)
        return len(self.next_round(number, known)), f"{len(measured) - unsure} known well"

    def _widths(self, measured: Mapping[str, Measurement]) -> dict[str, float]:
        found = {name: one.half_width for name, one in self.weigh(measured).items()}
        return {name: found.get(name, math.inf) for name in measured}

    def _is_unsure(
        self, name: str, measured: Mapping[str, Measurement], widths: Mapping[str, float]
    ) -> bool:
        one = measured[name]
        is_wide = widths[name] > self.target_percent / 100.0
        return not one.given_up and (is_wide or one.rounds < one.rounds_wanted)
