"""How thorough a measurement is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from devices.agent.protocol import Rule
from latency_tables.schema import Conditions
from profiler.errors import InvalidJobError
from profiler.measurement import HALF_WIDTH
from profiler.planning.jobs import PROFILE_RULE
from profiler.runtimes import GPU_HALF_WIDTH, GPU_RULE, processor_of, traits_of

#: About what TensorRT takes to build a piece on a large GPU.
BUILD_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """``rounds`` are the fewest that a latency is known from, each in a process of its own.

    A visit that was disturbed is repeated in its round, up to ``repeats`` times. A job has
    converged where half its interval is at most ``half_width`` of the latency. ``build_s`` is about
    what building an engine takes, for the estimate alone. In the first ``resource_rounds`` memory
    and energy are asked for too, which takes a second or more a visit.
    """

    rounds: int = 3
    repeats: int = 2
    half_width: float = HALF_WIDTH
    seed: int = 0
    rule: Rule = PROFILE_RULE
    build_s: float = 0.0
    resource_rounds: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.repeats < 0:
            raise InvalidJobError(
                f"rounds ({self.rounds}) must be 1 or more, repeats ({self.repeats}) 0 or more"
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
