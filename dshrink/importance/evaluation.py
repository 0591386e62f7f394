"""What became of one network: its scores, or the reason why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dshrink.importance.settings import Candidate
from latency_tables.records import plain


class Platform(NamedTuple):
    """What computed a score: "cpu" or the GPU's name, and the versions of torch and dshrink."""

    device: str
    torch: str
    dshrink: str

    def __str__(self) -> str:
        return f"{self.device} with torch {self.torch}, dshrink {self.dshrink}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Losses are mean cross-entropies, accuracies in percent. With a ``reason`` there are none.

    "train" is what was seen while the network was tuned or recalibrated; of the original, the same
    images as it is. ``unreadable`` counts the images that had been left out by then. ``platform``
    is None where every machine died of it.
    """

    candidate: Candidate
    seconds: float
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    reason: str = ""
    unreadable: int = 0
    platform: Platform | None = None

    def __post_init__(self) -> None:
        if not self.reason and not all(
            isinstance(value, int | float) and math.isfinite(value) for value in self.scores
        ):
            raise ValueError("an evaluation needs four finite scores, or a reason")

    @property
    def scores(self) -> tuple[float | None, ...]:
        """In the order of the published columns."""
        return self.train_loss, self.train_accuracy, self.val_loss, self.val_accuracy

    def changes(self, original: Evaluation) -> tuple[float, ...]:
        """The scores less the original's: nats and percentage points."""
        pairs = zip(self.scores, original.scores, strict=True)
        return tuple(
            now - before for now, before in pairs if now is not None and before is not None
        )

    def to_json(self) -> dict[str, Any]:
        """A journal's line."""
        own = plain(self)
        del own["candidate"], own["platform"]
        platform = self.platform._asdict() if self.platform else {}
        return {"line": "evaluation", **self.candidate._asdict(), **own, **platform}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Evaluation:
        """Raises KeyError, TypeError or ValueError for a line that is none."""
        own = dict(line)
        if (kind := own.pop("line")) != "evaluation":
            raise ValueError(f"unknown line {kind!r}")
        candidate = Candidate(*(own.pop(name) for name in Candidate._fields))
        platform = None
        if "device" in own:
            platform = Platform(*(str(own.pop(name)) for name in Platform._fields))
        return cls(candidate=candidate, platform=platform, **own)
