"""What becomes of images that cannot be read: named, counted, and left out.

Workers that read images send what they could not read along with a batch; it is collected here, in
the process that trains. Commands import this for an option, so it needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dshrink.train.errors import DataError
from latency_tables.wording import counted

#: So many images are named, the others counted.
NAMED = 3


class UnreadableError(DataError):
    """One image that cannot be read; the text is the reason alone."""


class Unreadable(StrEnum):
    """What to do about an image that cannot be read."""

    SKIP = "skip"
    STOP = "stop"


@dataclass
class UnreadableImages:
    """The images that could not be read: ``reasons`` maps each file to the reason."""

    on: Unreadable = Unreadable.SKIP
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, found: Mapping[str, str]) -> None:
        """Note them, each once. Raises DataError where the run is to stop at the first."""
        for file, reason in found.items():
            if self.on is Unreadable.STOP:
                raise DataError(
                    f"{file}: not a readable image ({reason}); repair it, remove it, or leave it "
                    "out: --unreadable skip"
                )
            self.reasons.setdefault(file, reason)

    @property
    def line(self) -> str:
        """What there is to say about them; empty where all could be read."""
        count = len(self.reasons)
        if not count:
            return ""
        named = [f"{file} ({reason})" for file, reason in list(self.reasons.items())[:NAMED]]
        more = f" and {count - NAMED} more" if count > NAMED else ""
        return (
            f"{counted(count, 'image')} could not be read, and the run continued without: "
            f"{', '.join(named)}{more}"
        )
