"""What is known of a table's pieces before whole networks are, and what networks make of that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from latency_tables.errors import CalibrationError
from latency_tables.estimator import (
    Costs,
    Expected,
    Observation,
    Scales,
    fit_scales,
    prior_costs,
)
from latency_tables.forms import Forms
from latency_tables.networks import MeasuredNetwork
from latency_tables.places import Place
from latency_tables.schema import Row

Prior = Literal["alone", "profile"]
PRIORS: tuple[Prior, ...] = get_args(Prior)

#: Fewer profiled rows of a kind say nothing about the others of the kind.
LEAST_PROFILED = 3
#: What a piece costs at least by a profile, which counts whole microseconds or less.
LEAST_MS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How in-network costs are estimated: what is expected of a piece, and how far it may be off.

    ``prior`` "alone": what the piece costs alone; "profile": what the runtime's own profile of
    whole networks says. The others are those of ``Scales``.
    """

    prior: Prior
    spread: float
    floor: float
    pairs: float
    noise: float

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise CalibrationError(
                f"estimate: prior {self.prior!r} is not one of {', '.join(PRIORS)}"
            )
        _ = self.scales

    @property
    def scales(self) -> Scales:
        return Scales(spread=self.spread, floor=self.floor, pairs=self.pairs, noise=self.noise)


def expected_costs(rows: Iterable[Row], prior: Prior = "alone") -> dict[Place, Expected]:
    """What each row that a network may contain is expected to cost.

    A row that a profile does not show costs what it costs alone times the ratio of the profile to
    that of the rows of its kind, or of all rows where the profile shows none of its kind. It is as
    unsure as such a guess about the other rows is wrong.
    """
    known = [row for row in rows if row.in_networks]
    if prior == "alone":
        return {row.place: Expected(cost_ms=row.latency_ms or 0.0) for row in known}
    every = _ProfileRatio.of(known)
    ratios = {
        kind: _ProfileRatio.of([row for row in known if row.kind == kind], every)
        for kind in {row.kind for row in known}
    }
    return {row.place: ratios[row.kind].expected(row) for row in known}


@dataclass(frozen=True, slots=True)
class _ProfileRatio:
    """What rows cost in the profile, as a multiple of alone, and how far single ones are off."""

    ratio: float
    off: float

    @classmethod
    def of(cls, rows: Sequence[Row], other: _ProfileRatio | None = None) -> _ProfileRatio:
        both = [
            (row.latency_ms, row.profiled_ms)
            for row in rows
            if row.latency_ms is not None and row.profiled_ms is not None
        ]
        if len(both) < LEAST_PROFILED:
            return other or cls(1.0, 1.0)
        alone_ms = math.fsum(alone for alone, _ in both)
        ratio = math.fsum(profiled for _, profiled in both) / alone_ms
        off = math.fsum((profiled - ratio * alone) ** 2 for alone, profiled in both)
        size = math.fsum((ratio * alone) ** 2 for alone, _ in both)
        return cls(ratio, math.sqrt(off / size) if size else 1.0)

    def expected(self, row: Row) -> Expected:
        if row.profiled_ms is not None:
            return Expected(cost_ms=max(row.profiled_ms, LEAST_MS))
        guess_ms = max(self.ratio * (row.latency_ms or 0.0), LEAST_MS)
        return Expected(cost_ms=guess_ms, unsure_ms=self.off * guess_ms)


def known_networks(
    networks: Iterable[MeasuredNetwork], rows: Iterable[Row], forms: Forms
) -> tuple[MeasuredNetwork, ...]:
    """Those whose pieces all have a latency: the others say nothing about any row."""
    known = {row.place for row in rows if row.in_networks}
    return tuple(
        one for one in networks if known.issuperset(forms.places(one.keep_mask, one.padding))
    )


def observations(networks: Iterable[MeasuredNetwork], forms: Forms) -> tuple[Observation, ...]:
    """Those to fit, as the estimator takes them."""
    return tuple(
        Observation(
            places=forms.places(network.keep_mask, network.padding),
            latency_ms=network.measured_ms,
            error_ms=network.error_ms,
        )
        for network in networks
        if network.role == "fit"
    )


def network_costs(
    rows: Iterable[Row], seen: Sequence[Observation], estimate: Estimate
) -> Costs | None:
    """The costs of the rows once the networks are known; None where no row has any."""
    prior = expected_costs(rows, estimate.prior)
    return prior_costs(prior, estimate.scales).after(seen) if prior else None


def fit_estimate(rows: Sequence[Row], seen: Sequence[Observation]) -> Estimate | None:
    """The prior and the scales that the networks speak for most; None where no row has a cost.

    A profile is tried where some row has one.
    """
    tried: list[tuple[float, Estimate]] = []
    for prior in PRIORS:
        expected = expected_costs(rows, prior)
        is_known = prior == "alone" or any(row.profiled_ms for row in rows if row.in_networks)
        if expected and is_known:
            scales, evidence = fit_scales(expected, seen)
            tried.append((evidence, Estimate(prior=prior, **asdict(scales))))
    return max(tried, key=lambda one: one[0])[1] if tried else None
