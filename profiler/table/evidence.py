"""What the measurements so far say: pieces alone, whole networks, and the costs that follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from latency_tables.estimator import Costs
from latency_tables.networks import Level, MeasuredNetwork
from latency_tables.places import Place
from latency_tables.priors import (
    Estimate,
    fit_estimate,
    known_networks,
    network_costs,
    observations,
)
from latency_tables.schema import Conditions, Row
from profiler.levels import JobLatency, Levelled, visits_of, without_levels
from profiler.measurement import Measurement
from profiler.planning.profile_plan import PlannedNetwork, ProfilePlan
from profiler.table.layer_profile import profiled_ms, share_out
from profiler.table.rows import piece_rows

#: A network is learned from once it was in so many processes, or in as many as any.
LEAST_PROCESSES = 3

Measurements = Mapping[str, Measurement]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Rows of pieces alone, the networks measured whole, and what they make of each other.

    ``errors`` are the standard errors of the networks by job, as shares of their latency;
    ``missing`` says which networks have no latency, and why.
    """

    rows: tuple[Row, ...]
    networks: tuple[MeasuredNetwork, ...]
    estimate: Estimate
    costs: Costs
    level: Level
    errors: Mapping[str, float]
    unnamed_percent: float
    missing: tuple[str, ...]

    def knows(self, places: Sequence[Place]) -> bool:
        """Whether a network of these pieces can be predicted."""
        return set(places) <= set(self.costs.places)


def weigh(plan: ProfilePlan, conditions: Conditions, measurements: Measurements) -> Evidence | None:
    """What these measurements say; None where no piece, or no whole network, was measured."""
    used = [one for one in plan.networks if measurements[one.job_id].replies]
    visits = visits_of((measurements[one.job_id] for one in _distinct(used)), conditions)
    if not visits:
        return None
    whole = without_levels(visits)
    profiles, unnamed_percent = _profiles(plan, used, whole, measurements)
    networks = tuple(_networks(plan, used, whole.jobs))
    held = {
        place
        for network in networks
        for place in plan.pieces.forms.places(network.keep_mask, network.padding)
        if network.role == "fit"
    }
    rows = piece_rows(plan, measurements, conditions, profiles, held)
    forms = plan.pieces.forms
    seen = observations(known_networks(networks, rows, forms), forms)
    estimate = fit_estimate(rows, seen)
    costs = network_costs(rows, seen, estimate) if estimate else None
    if estimate is None or costs is None:
        return None
    return Evidence(
        rows=rows,
        networks=networks,
        estimate=estimate,
        costs=costs,
        level=whole.level,
        errors={name: one.error_ms / one.latency_ms for name, one in whole.jobs.items()},
        unnamed_percent=unnamed_percent,
        missing=tuple(
            f"network {one.keep_mask} failed: {measurements[one.job_id].reason}"
            for one in used
            if one.job_id not in whole.jobs
        ),
    )


class Weigher:
    """``weigh`` for a schedule, which asks about the same measurements more than once."""

    def __init__(self, plan: ProfilePlan, conditions: Conditions) -> None:
        self._plan, self._conditions = plan, conditions
        self._known: dict[frozenset[tuple[str, int, int]], Evidence | None] = {}

    def __call__(self, measurements: Measurements) -> Evidence | None:
        replies = (reply for one in measurements.values() for reply in one.replies)
        said = frozenset((reply.job_id, reply.round, reply.attempt) for reply in replies)
        if said not in self._known:
            self._known[said] = weigh(self._plan, self._conditions, measurements)
        return self._known[said]


def _distinct(networks: Sequence[PlannedNetwork]) -> Iterator[PlannedNetwork]:
    return iter({network.job_id: network for network in networks}.values())


def _networks(
    plan: ProfilePlan, used: Sequence[PlannedNetwork], jobs: Mapping[str, JobLatency]
) -> Iterator[MeasuredNetwork]:
    known = [(network, jobs[network.job_id]) for network in used if network.job_id in jobs]
    most = max((one.processes for _, one in known), default=0)
    for network, one in known:
        # A single visit may be disturbed, and nothing shows that without others.
        if network.role != "candidate" or one.processes >= min(LEAST_PROCESSES, most):
            yield MeasuredNetwork(
                keep_mask=network.keep_mask,
                padding=network.padding,
                role="check" if network.role == "check" else "fit",
                measured_ms=one.latency_ms,
                low_ms=one.low_ms,
                high_ms=one.high_ms,
                processes=one.processes,
            )


def _profiles(
    plan: ProfilePlan,
    used: Sequence[PlannedNetwork],
    whole: Levelled,
    measurements: Measurements,
) -> tuple[Mapping[Place, float], float]:
    """What the runtime's own profiles say of each piece, and the share of time they do not name."""
    profiles, unnamed = [], [0.0]
    for network in _distinct(used):
        if not network.profile_id or network.job_id not in whole.jobs:
            continue
        owners = plan.operators(network.keep_mask, network.padding)
        spec = plan.by_id[network.job_id].spec
        for layers in measurements[network.profile_id].layers:
            times = share_out(layers, spec, owners)
            profiles.append((times, whole.jobs[network.job_id].latency_ms))
            unnamed.append(times.unnamed_percent)
    return profiled_ms(profiles), max(unnamed)
