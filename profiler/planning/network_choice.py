"""Which whole networks are worth measuring next.

The variance of a prediction follows from which networks were measured, not from what they took. So
the next one is where the posterior is least sure, then the one after that, as if the first had been
measured already (sequential design for a Gaussian process; MacKay, Neural Computation 4, 1992).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latency_tables.estimator import NORMAL_MEAN, Costs, Observation
from latency_tables.places import Place

#: The standard error that a network will be known to, as a share of its latency.
EXPECTED_ERROR = 0.004

Candidates = Mapping[str, tuple[Place, ...]]


def choose_networks(costs: Costs, candidates: Candidates, count: int) -> tuple[str, ...]:
    """``count`` of the candidates (pieces by name), or all; the least sure first."""
    left = dict(candidates)
    chosen: list[str] = []
    while left and len(chosen) < count:
        sure = {name: costs.predict(places) for name, places in left.items()}
        name = max(sure, key=lambda one: sure[one][1] / sure[one][0])
        latency_ms = sure[name][0]
        observation = Observation(
            places=left.pop(name), latency_ms=latency_ms, error_ms=EXPECTED_ERROR * latency_ms
        )
        costs = costs.after([observation])
        chosen.append(name)
    return tuple(chosen)


def expected_error(costs: Costs, networks: Sequence[tuple[Place, ...]]) -> float:
    """The mean error that predictions of these networks should have, as a share."""
    sure = [costs.predict(places) for places in networks]
    return NORMAL_MEAN * sum(sd_ms / latency_ms for latency_ms, sd_ms in sure) / len(sure)
