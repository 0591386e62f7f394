"""What became of one network: its scores, or the reason why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from dshrink.importance.settings import Candidate, EvaluationError
from latency_tables.records import convert_record, plain


class Platform(NamedTuple):
    """What computed a score: "cpu" or the GPU's name, and the versions of torch and dshrink."""

    device: str
    torch: str
    dshrink: str

    def __str__(self) -> str:
        return f"{self.device} with torch {self.torch}, dshrink {self.dshrink}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """What an evaluation and its line in a journal share."""

    seconds: float
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    reason: str = ""
    unreadable: int = 0

    def __post_init__(self) -> None:
        if not self.reason and not all(
            value is not None and math.isfinite(value) for value in self.scores
        ):
            raise ValueError("an evaluation needs four finite scores, or a reason")

    @property
    def scores(self) -> tuple[float | None, ...]:
        """In the order of the published columns."""
        return self.train_loss, self.train_accuracy, self.val_loss, self.val_accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line(_Scored):
    """A journal's line where every machine died of the network."""

    line: Literal["evaluation"]
    mask: str
    reinitialised: int
    tuned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlatformLine(_Line):
    device: str
    torch: str
    dshrink: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(_Scored):
    """Losses are mean cross-entropies, accuracies in percent. With a ``reason`` there are none.

    "train" is what was seen while the network was tuned or recalibrated; of the original, the same
    images as it is. ``unreadable`` counts the images that had been left out by then. ``platform``
    is None where every machine died of it.
    """

    candidate: Candidate
    platform: Platform | None = None

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
    def from_json(cls, line: Any, *, where: str, fix: str) -> Evaluation:
        """Raises EvaluationError for a line that is none."""
        kind = _PlatformLine if isinstance(line, Mapping) and "device" in line else _Line
        found = convert_record(line, kind, where=where, error=EvaluationError, fix=fix)
        platform = None
        if isinstance(found, _PlatformLine):
            platform = Platform(found.device, found.torch, found.dshrink)
        return cls(
            candidate=Candidate(found.mask, found.reinitialised, found.tuned),
            platform=platform,
            **{field.name: getattr(found, field.name) for field in fields(_Scored)},
        )
