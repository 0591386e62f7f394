"""What became of one network: its scores, or the reason why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dshrink.importance.settings import Candidate


class Origin(NamedTuple):
    """What computed a score: "cpu" or the GPU's name, and the versions of torch and dshrink."""

    device: str
    torch: str
    dshrink: str

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Origin:
        """Of a journal's line; "unknown" in one written before lines said so."""
        return cls(*(str(line.get(name, "unknown")) for name in cls._fields))

    def __str__(self) -> str:
        return f"{self.device} with torch {self.torch}, dshrink {self.dshrink}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Losses are mean cross-entropies, accuracies in percent. With a ``reason`` there are none.

    "train" is what was seen while the network was tuned or recalibrated; of the original, the same
    images as it is. ``unreadable`` counts the images that had been left out by then. ``origin`` is
    None where no machine lived to say so.
    """

    candidate: Candidate
    seconds: float
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    reason: str = ""
    unreadable: int = 0
    origin: Origin | None = None

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
        return {
            "line": "evaluation",
            "mask": self.candidate.mask,
            "reinitialised": self.candidate.reinitialised,
            "tuned": self.candidate.tuned,
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "val_loss": self.val_loss,
            "val_accuracy": self.val_accuracy,
            "reason": self.reason,
            "seconds": self.seconds,
            **({"unreadable": self.unreadable} if self.unreadable else {}),
            **(self.origin._asdict() if self.origin else {}),
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Evaluation:
        """Raises KeyError, TypeError or ValueError for a line that is none."""
        if line["line"] != "evaluation":
            raise ValueError(f"unknown line {line['line']!r}")
        return cls(
            candidate=Candidate(str(line["mask"]), int(line["reinitialised"]), bool(line["tuned"])),
            seconds=float(line["seconds"]),
            train_loss=line["train_loss"],
            train_accuracy=line["train_accuracy"],
            val_loss=line["val_loss"],
            val_accuracy=line["val_accuracy"],
            reason=str(line["reason"]),
            unreadable=int(line.get("unreadable", 0)),
            origin=Origin.from_json(line),
        )
