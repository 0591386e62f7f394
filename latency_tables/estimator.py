"""What each piece costs inside a network: pieces alone are the prior, whole networks the data.

A network of the pieces ``p`` takes y = sum of u_p + e. The in-network costs ``u`` are Gaussian
before anything is measured whole:

    u_p = scale * c_p + ends_kind(p) + d_p

``c_p`` is what the piece costs by itself (alone, or in the runtime's own profile). ``scale``, about
1, is common to all pieces; ``ends`` is what a piece of a kind pays alone for its ends (layout
changes, an addition that is not fused) and not in a network; ``d_p`` is how far one piece differs
from that. Two merged blocks in a row have a term of their own, as a merged block hands its
successor another tensor than the original does. ``e`` is what no sum explains, and how well the
network was measured. So the
posterior of ``u`` has a closed form: ridge regression, or a Gaussian process with a linear kernel
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, Eqs. 2.8 to 2.12 and 5.8).
Its scales maximise the marginal likelihood (Sec. 5.4) under weak priors of their own, which decide
where networks are few. All times are in ms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from latency_tables.errors import CalibrationError
from latency_tables.places import MERGED_KINDS, Place

Floats = npt.NDArray[np.float64]

#: Standard deviation of ``scale``, and of ``ends`` as a share of the mean cost of the kind.
SCALE_SD = 0.3
ENDS_SD = 0.3
#: Medians and log standard deviations of what the scales are before anything is known.
SCALES_PRIOR = {
    "spread": (0.08, 1.0),
    "floor": (0.02, 1.0),
    "pairs": (0.02, 1.5),
    "noise": (0.004, 0.7),
}
PAIRS_AT = list(SCALES_PRIOR).index("pairs")
#: A smaller share of the evidence is not worth another step.
ENOUGH = 1e-5
#: The bounds of all scales.
BOUNDS = (1e-4, 0.5)
#: Half the width of a normal distribution's 95 % interval, in standard deviations.
NORMAL_95 = 1.959964
#: The mean absolute value of a normal distribution, in standard deviations.
NORMAL_MEAN = math.sqrt(2.0 / math.pi)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """How far costs in the network are expected from costs alone, as shares.

    ``spread``: of a piece's own cost. ``floor``: the same as a share of the mean cost of all
    pieces, whatever the piece costs. ``pairs``: of the mean cost as well, the term of two merged
    blocks in a row. ``noise``: of a network's latency, what no sum of pieces explains.
    """

    spread: float
    floor: float
    pairs: float
    noise: float

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (math.isfinite(value) and 0 < value < 1):
                raise CalibrationError(f"estimate: {one.name} must be between 0 and 1, got {value}")


#: What is assumed where no network was measured.
USUAL_SCALES = Scales(**{name: median for name, (median, _) in SCALES_PRIOR.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a piece costs by itself (above 0), and how much less sure that is than of other pieces.

    ``unsure_ms`` is a standard deviation, for a cost that is itself a guess.
    """

    cost_ms: float
    unsure_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A whole network: its pieces, its latency, and the standard error of that."""

    places: tuple[Place, ...]
    latency_ms: float
    error_ms: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The in-network costs of pieces, jointly Gaussian: ``mean_ms`` (P,), ``covariance`` (P, P).

    Behind the pieces ``places`` has the pairs of ``pairs_of``.
    """

    places: tuple[Place, ...]
    mean_ms: Floats
    covariance: Floats
    noise: float

    @cached_property
    def _number(self) -> Mapping[Place, int]:
        return {place: number for number, place in enumerate(self.places)}

    def _pick(self, places: Sequence[Place]) -> Floats:
        picked = np.zeros(len(self.places))
        for place in (*places, *pairs_of(places)):
            picked[self._number[place]] += 1.0
        return picked

    def of(self, place: Place) -> tuple[float, float]:
        """What a piece costs, and the standard deviation of that. Raises KeyError."""
        number = self._number[place]
        return float(self.mean_ms[number]), math.sqrt(max(0.0, self.covariance[number, number]))

    def predict(self, places: Sequence[Place]) -> tuple[float, float]:
        """The latency of the network of these pieces, and the standard deviation of that."""
        picked = self._pick(places)
        latency_ms = float(picked @ self.mean_ms)
        variance = float(picked @ self.covariance @ picked) + (self.noise * latency_ms) ** 2
        return latency_ms, math.sqrt(max(0.0, variance))

    def after(self, observations: Sequence[Observation]) -> Costs:
        """The costs once these networks are known as well."""
        if not observations:
            return self
        x = np.array([self._pick(one.places) for one in observations])
        y = np.array([one.latency_ms for one in observations])
        gain = np.linalg.solve(_covariance(self.covariance, x, observations, self.noise), x)
        gain = self.covariance @ gain.T
        return Costs(
            places=self.places,
            mean_ms=self.mean_ms + gain @ (y - x @ self.mean_ms),
            covariance=self.covariance - gain @ x @ self.covariance,
            noise=self.noise,
        )


def pairs_of(places: Iterable[Place]) -> tuple[Place, ...]:
    """The pairs of merged blocks in a row among these pieces, as places of their own."""
    merged = {at for kind, at in places if kind in MERGED_KINDS and isinstance(at, int)}
    return tuple(("pair", (block, block + 1)) for block in sorted(merged) if block + 1 in merged)


def prior_costs(expected: Mapping[Place, Expected], scales: Scales = USUAL_SCALES) -> Costs:
    """What pieces are expected to cost in a network, from what each costs by itself."""
    mean = np.array([one.cost_ms for one in expected.values()])
    kinds = np.array([place[0] for place in expected])
    covariance = SCALE_SD**2 * np.outer(mean, mean)
    for kind in dict.fromkeys(kinds.tolist()):
        members = kinds == kind
        covariance += (ENDS_SD * mean[members].mean()) ** 2 * np.outer(members, members)
    unsure = np.array([one.unsure_ms for one in expected.values()])
    own = (scales.spread * mean) ** 2 + (scales.floor * mean.mean()) ** 2 + unsure**2
    pairs = pairs_of(expected)
    whole = np.diag([*own, *[(scales.pairs * mean.mean()) ** 2] * len(pairs)])
    whole[: len(mean), : len(mean)] += covariance
    return Costs(
        places=(*expected, *pairs),
        mean_ms=np.array([*mean, *[0.0] * len(pairs)]),
        covariance=whole,
        noise=scales.noise,
    )


def _covariance(
    prior: Floats, x: Floats, observations: Sequence[Observation], noise: float
) -> Floats:
    """Of the observations, (N, N)."""
    own = [(noise * one.latency_ms) ** 2 + one.error_ms**2 for one in observations]
    return np.asarray(x @ prior @ x.T + np.diag(own))


def log_evidence(
    expected: Mapping[Place, Expected], observations: Sequence[Observation], scales: Scales
) -> float:
    """The log marginal likelihood of the networks, with that of the scales themselves."""
    total = _log_prior(scales)
    if not observations:
        return total
    prior = prior_costs(expected, scales)
    x = np.array([prior._pick(one.places) for one in observations])
    rest = np.array([one.latency_ms for one in observations]) - x @ prior.mean_ms
    factor = np.linalg.cholesky(_covariance(prior.covariance, x, observations, scales.noise))
    white = np.linalg.solve(factor, rest)
    return total - 0.5 * float(white @ white) - float(np.log(np.diag(factor)).sum())


def _log_prior(scales: Scales) -> float:
    def one(name: str) -> float:
        median, width = SCALES_PRIOR[name]
        return -0.5 * (math.log(getattr(scales, name) / median) / width) ** 2

    return math.fsum(one(name) for name in SCALES_PRIOR)


def fit_scales(
    expected: Mapping[Place, Expected], observations: Sequence[Observation]
) -> tuple[Scales, float]:
    """The scales of the largest evidence, and its logarithm."""
    from scipy.optimize import minimize  # takes a third of a second to import

    def loss(logs: Floats) -> float:
        return -log_evidence(expected, observations, _scales(logs))

    usual = np.log([getattr(USUAL_SCALES, name) for name in SCALES_PRIOR])
    low, high = map(math.log, BOUNDS)
    # Where there are pairs, the evidence may have two maxima: with their terms, and nearly without.
    shifts = (-1.5, 1.5) if pairs_of(expected) else (0.0,)
    starts = [usual + np.eye(len(usual))[PAIRS_AT] * shift for shift in shifts]
    found = [
        minimize(
            loss,
            start,
            method="L-BFGS-B",
            bounds=[(low, high)] * len(usual),
            options={"ftol": ENOUGH},
        )
        for start in starts
    ]
    best = min(found, key=lambda one: float(one.fun))
    return _scales(best.x), -float(best.fun)


def _scales(logs: Floats) -> Scales:
    return Scales(**dict(zip(SCALES_PRIOR, map(float, np.exp(logs)), strict=True)))
