"""One check of a self-test and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from dshrink.errors import DshrinkError

#: "noted": it works, and there is something to know. "skipped": it does not apply here.
State = Literal["passed", "noted", "failed", "skipped"]
STATES: tuple[State, ...] = get_args(State)


class SelfTestError(DshrinkError):
    """A device that cannot be tested, or an answer of it that makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``of`` is what was checked ("tensorrt fp16"), ``finding`` a sentence with the figures.

    ``figures`` are those numbers, by names with their units.
    """

    name: str
    of: str
    state: State
    finding: str
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """The state as it is shown: a failure stands out without colours."""
        return "FAILED" if self.state == "failed" else self.state
