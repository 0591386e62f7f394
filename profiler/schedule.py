"""Which jobs a round measures, and when a session ends.

A schedule decides from what the rounds before say and from nothing else, so a run that was killed
takes the same decisions when it is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from profiler.errors import InvalidJobError
from profiler.measurement import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the journal holds of the rounds before one: a measurement of each job, by its id.

    ``spent_s`` is about how long they took, visits that were taken back included.
    """

    measurements: Mapping[str, Measurement]
    spent_s: float


class Schedule(Protocol):
    """Chooses the jobs of each round; its answers follow from its arguments alone."""

    def next_round(self, number: int, known: Known) -> Collection[str]:
        """The ids of the jobs of a round, from 0; empty ends the session."""

    def estimate(self, number: int, known: Known) -> tuple[int, str]:
        """About how many (job, round) pairs are left from this round on, and a short label."""


#: Half the width of each job's interval, as a share of its latency.
HalfWidths = Callable[[Mapping[str, Measurement]], Mapping[str, float]]


def own_half_widths(measurements: Mapping[str, Measurement]) -> Mapping[str, float]:
    """What each measurement says of itself."""
    return {name: one.relative_half_width for name, one in measurements.items() if one.parts}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRounds:
    """``rounds`` for all jobs, then further ones for those that have not converged.

    There are at most ``most_rounds`` in all. The further ones take at most ``effort`` times as long
    as the others did; where that is not enough, the jobs with the widest intervals come first.
    """

    rounds: int
    most_rounds: int = 0
    effort: float = math.inf
    half_widths: HalfWidths = own_half_widths

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.effort < 0.0:
            raise InvalidJobError(
                f"rounds ({self.rounds}) must be 1 or more, effort ({self.effort:g}) 0 or more"
            )

    def next_round(self, number: int, known: Known) -> Collection[str]:
        """All jobs that are worth it, later those that have not converged."""
        if number < self.rounds:
            return [name for name, one in known.measurements.items() if not one.given_up]
        return self._not_converged(known) if number < self.most_rounds else []

    def estimate(self, number: int, known: Known) -> tuple[int, str]:
        """The rounds for all jobs; after those, one round at a time."""
        return len(self.next_round(number, known)) * max(1, self.rounds - number), ""

    def _not_converged(self, known: Known) -> list[str]:
        """The worst first, as far as there is time."""
        replies = [reply for one in known.measurements.values() for reply in one.replies]
        planned_s = math.fsum(reply.took_s for reply in replies if reply.round < self.rounds)
        further_s = math.fsum(reply.took_s for reply in replies if reply.round >= self.rounds)
        room_s = self.effort * planned_s - further_s if planned_s else math.inf
        widths = self.half_widths(known.measurements)
        chosen = []
        for name in sorted(known.measurements, key=lambda one: -widths.get(one, math.inf)):
            one = known.measurements[name]
            cost_s = max((reply.took_s for reply in one.replies), default=0.0)
            is_wide = widths.get(name, math.inf) > one.half_width
            is_unsure = is_wide or one.rounds < one.rounds_wanted
            if is_unsure and not one.given_up and cost_s <= room_s:
                chosen.append(name)
                room_s -= cost_s
        return chosen
