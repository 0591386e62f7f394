"""The rounds of a profile: pieces alone a few times, whole networks until predictions are right.

Every round is a process (a build of each engine, where the runtime builds). Rounds go on until
predictions should be off by no more than the target; where more networks would make them better,
more are chosen. While rounds are few, each network is measured until it is known to a share of the
target: after the first rounds those that are not, with some others that tell the level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from profiler.errors import InvalidJobError
from profiler.measurement import Measurement
from profiler.planning.bounds import too_slow
from profiler.planning.network_choice import choose_networks, expected_error
from profiler.planning.profile_plan import PlannedNetwork, ProfilePlan
from profiler.schedule import Known
from profiler.table.evidence import Evidence

#: Rounds in which pieces are measured alone: they are only what networks are judged by first.
PIECE_ROUNDS = 2
#: Profiles of its layers that a network gets, a process each.
PROFILES = 3
#: Networks that are chosen at a time.
BATCH = 8
#: The standard error that networks are measured to while rounds are few, as a share of the error
#: that predictions are to have.
NETWORK_SHARE = 0.57
#: So many networks at least are in a process, so that its level is known.
LEVEL_NETWORKS = 12
TARGET_PERCENT = 0.7
#: A network that joins late is in so many rounds before another one joins, or the profile ends.
LEAST_ROUNDS = 3

#: What is known once these measurements are there; None where they are too few.
Weigh = Callable[[Mapping[str, Measurement]], Evidence | None]


@dataclass(frozen=True, kw_only=True)
class ProfileSchedule:
    """``target_percent`` is the mean error that predictions are to have.

    ``time_limit_s`` is how long measuring may take (the round that is begun is ended, and two are
    made in any case). Between ``least_rounds`` and ``most_rounds`` are made, after
    ``enough_rounds`` none for the precision of networks alone.
    """

    plan: ProfilePlan
    weigh: Weigh
    target_percent: float = TARGET_PERCENT
    time_limit_s: float = math.inf
    least_rounds: int = 6
    enough_rounds: int = 10
    most_rounds: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.target_percent < 100:
            raise InvalidJobError(
                f"the target error ({self.target_percent:g} %) must be between 0 and 100 %"
            )
        if not self.time_limit_s > 0:
            raise InvalidJobError(f"the time limit ({self.time_limit_s:g} s) must be above 0")

    def next_round(self, number: int, known: Known) -> Collection[str]:
        """Pieces in the first rounds, all networks that are in use, and their profiles."""
        measured = known.measurements
        if number == 0:
            first = self.plan.networks_of("start", "check")
            return [*self.plan.piece_ids, *self._jobs(first, measured)]
        evidence = self.weigh(measured)
        if number > 1 and self._is_over(number, known, evidence):
            return []
        used = self._used(measured)
        if evidence and not self._has_late(known):
            missing = self._missing(number, evidence, used)
            places = {name: self.plan.places(network) for name, network in missing.items()}
            count = 2 * BATCH if number == 1 else BATCH
            used += [missing[one] for one in choose_networks(evidence.costs, places, count)]
        if evidence and number >= self.least_rounds:
            used = self._worth_it(number, known, evidence, used)
        pieces = self._pieces(measured) if number < PIECE_ROUNDS else []
        return [*pieces, *self._jobs(used, measured)]

    def _worth_it(
        self, number: int, known: Known, evidence: Evidence, used: Sequence[PlannedNetwork]
    ) -> list[PlannedNetwork]:
        """Those that are not known well enough, and the best known ones beside them."""
        unsure = self._unsure(min(number, self.enough_rounds - 1), known, evidence, used)
        others = sorted(
            (one for one in used if one not in unsure),
            key=lambda one: evidence.errors.get(one.job_id, math.inf),
        )
        return [*unsure, *others[: max(0, LEVEL_NETWORKS - len(unsure))]]

    def _unsure(
        self, number: int, known: Known, evidence: Evidence, used: Sequence[PlannedNetwork]
    ) -> list[PlannedNetwork]:
        if number >= self.enough_rounds:
            return [one for one in used if self._is_late(one, known)]
        limit = NETWORK_SHARE * self.target_percent / 100.0
        return [
            one
            for one in used
            if not known.measurements[one.job_id].given_up
            and (self._is_late(one, known) or evidence.errors.get(one.job_id, 1.0) > limit)
        ]

    def estimate(self, number: int, known: Known) -> tuple[int, str]:
        """The rounds that are left at least, and the error that predictions should have now."""
        each = len(self.plan.networks_of("start", "check")) + 2 * BATCH
        rounds = max(1, self.least_rounds - number)
        pieces = len(self.plan.piece_ids) * max(0, PIECE_ROUNDS - number)
        left = pieces + rounds * each + self._profiles_left(number)
        evidence = self.weigh(known.measurements) if number > LEAST_ROUNDS else None
        return left, f"error {self.error_percent(evidence):.2f} %" if evidence else ""

    def error_percent(self, evidence: Evidence) -> float:
        """The mean error that predictions of what a search may ask for should have."""
        networks = [self.plan.places(one) for one in self.plan.networks]
        known = [places for places in networks if evidence.knows(places)]
        return 100.0 * expected_error(evidence.costs, known) if known else math.inf

    def _profiles_left(self, number: int) -> int:
        has_profiles = any(network.profile_id for network in self.plan.networks)
        return 2 * BATCH * max(0, PROFILES + 1 - number) if has_profiles else 0

    def _is_over(self, number: int, known: Known, evidence: Evidence | None) -> bool:
        if number >= self.most_rounds or known.spent_s >= self.time_limit_s:
            return True
        if number < self.least_rounds:
            return False
        if evidence is None:
            return True
        used = self._used(known.measurements)
        is_right = not self._missing(number, evidence, used)
        return is_right and not self._unsure(number, known, evidence, used)

    def _has_late(self, known: Known) -> bool:
        """Whether a network that joined was in too few rounds yet."""
        return any(self._is_late(one, known) for one in self._chosen(known.measurements))

    def _is_late(self, network: PlannedNetwork, known: Known) -> bool:
        one = known.measurements[network.job_id]
        return not one.given_up and len(one.replies) - len(one.failures) < LEAST_ROUNDS

    def _chosen(self, measured: Mapping[str, Measurement]) -> list[PlannedNetwork]:
        """The candidates that earlier rounds measured."""
        candidates = self.plan.networks_of("candidate")
        return [one for one in candidates if measured[one.job_id].replies]

    def _used(self, measured: Mapping[str, Measurement]) -> list[PlannedNetwork]:
        return [*self.plan.networks_of("start", "check"), *self._chosen(measured)]

    def _missing(
        self, number: int, evidence: Evidence, used: Sequence[PlannedNetwork]
    ) -> dict[str, PlannedNetwork]:
        """The candidates that may join; none where predictions are right or the end is near."""
        is_right = number > 1 and self.error_percent(evidence) <= self.target_percent
        if is_right or number + LEAST_ROUNDS > self.most_rounds:
            return {}
        taken = {network.job_id for network in used}
        return {
            network.job_id: network
            for network in self.plan.networks_of("candidate")
            if network.job_id not in taken and evidence.knows(self.plan.places(network))
        }

    def _jobs(
        self, networks: Sequence[PlannedNetwork], measured: Mapping[str, Measurement]
    ) -> list[str]:
        """Their jobs that are worth a round more."""
        wanted = {network.job_id: None for network in networks}
        for network in networks if self._can_profile(measured) else ():
            if network.profile_id and len(measured[network.profile_id].replies) < PROFILES:
                wanted[network.profile_id] = None
        return [name for name in wanted if not measured[name].given_up]

    def _can_profile(self, measured: Mapping[str, Measurement]) -> bool:
        """Whether the runtime gives profiles of layers here, as far as is known."""
        tried = [measured[one.profile_id] for one in self.plan.networks if one.profile_id]
        return any(one.layers for one in tried) or not any(one.failures for one in tried)

    def _pieces(self, measured: Mapping[str, Measurement]) -> list[str]:
        """All pieces but spans that one round has shown to be too slow for any search.

        A piece at several places is one job; it is too slow if it is at all of them.
        """
        pieces = self.plan.pieces
        slow = too_slow(pieces, measured, self.plan.in_networks)
        needed = {piece.spec.digest for piece in pieces.pieces if piece.place not in slow}
        return [
            name for name in self.plan.piece_ids if name in needed and not measured[name].given_up
        ]


def building(schedule: ProfileSchedule) -> ProfileSchedule:
    """The schedule for a runtime that builds an engine a round, which takes long."""
    return replace(schedule, least_rounds=3, enough_rounds=3, most_rounds=5)
