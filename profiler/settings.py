"""How thorough a profile is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from devices.agent.protocol import Rule
from latency_tables.schema import Conditions
from profiler.errors import InvalidJobError
from profiler.measurement import HALF_WIDTH
from profiler.planning.jobs import PROFILE_RULE
from profiler.runtimes import GPU_HALF_WIDTH, GPU_RULE, processor_of, traits_of

#: Share of an anchor's latency by which it may move.
DRIFT_LIMIT = 0.01
#: About what TensorRT takes to build a piece on a large GPU.
BUILD_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """``rounds`` for every job, then up to ``extra_rounds`` for those that have not converged.

    Everything measured again, because of drift or noise, takes at most ``extra_share`` of the time
    of the plan; what is measured again because of drift, at most ``drift_share``. ``build_s`` is
    about what building an engine takes, for the estimate alone.
    """

    rounds: int = 3
    extra_rounds: int = 12
    anchor_every: int = 20
    drift_limit: float = DRIFT_LIMIT
    repeats: int = 2
    extra_share: float = 0.3
    drift_share: float = 0.15
    half_width: float = HALF_WIDTH
    seed: int = 0
    rule: Rule = PROFILE_RULE
    build_s: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.anchor_every < 1:
            raise InvalidJobError(
                f"rounds ({self.rounds}) and anchor_every ({self.anchor_every}) must be 1 or more"
            )
        shares = (self.extra_share, self.drift_share, self.drift_limit)
        if min(self.extra_rounds, self.repeats, *shares) < 0:
            raise InvalidJobError(
                "extra_rounds, repeats, extra_share, drift_share and drift_limit must be 0 or more"
            )


def settings_for(conditions: Conditions, **chosen: Any) -> ProfileSettings:
    """The settings that suit what does the work; ``chosen`` are fields that are set otherwise."""
    if processor_of(conditions) == "gpu":
        # A discrete GPU's power mode begins with "gpu ", a Jetson's is a name of nvpmodel.
        is_jetson = not conditions.power_mode.startswith("gpu ")
        half_width = HALF_WIDTH if is_jetson else GPU_HALF_WIDTH
        chosen = {"rule": GPU_RULE, "half_width": half_width, **chosen}
    if traits_of(conditions).builds:
        chosen = {"build_s": BUILD_S, **chosen}
    return ProfileSettings(**chosen)
