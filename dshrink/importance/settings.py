"""How importances are measured: everything that a value depends on, as plain data.

It travels to the workers of a cluster, and what identifies a measurement goes into every journal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from dshrink.errors import DshrinkError
from dshrink.limits import MOST_IMAGES, MOST_LOADERS, require_within
from dshrink.network.references import USUAL_CHANNELS, ModelChoice
from dshrink.train.unreadable import Unreadable

RECALIBRATE, REFIT, STEPS, EPOCHS = "recalibrate", "refit", "steps", "epochs"
#: Batches that the norms' statistics are taken from where no number is given.
RECALIBRATION_BATCHES = 20
#: Images that merged convolutions are fitted to where no number is given.
REFIT_IMAGES = 128
#: Above, no step of SGD stays finite.
MOST_RATE = 1_000_000


class EvaluationError(DshrinkError):
    """Importances that cannot be measured, or a journal of another measurement."""


@dataclass(frozen=True, slots=True)
class Level:
    """What is done to a network before it is evaluated.

    ``count`` is of batches, images (of a refit), steps or epochs.
    """

    kind: str
    count: int

    @classmethod
    def parse(cls, text: str) -> Level:
        """``recalibrate``, ``recalibrate:N``, ``refit``, ``refit:N``, ``steps:N``, ``epochs:N``."""
        usual = {RECALIBRATE: RECALIBRATION_BATCHES, REFIT: REFIT_IMAGES}
        match = re.fullmatch(r"(recalibrate|refit|steps|epochs)(?::([0-9]{1,9}))?", text)
        if match is None or (match[1] not in usual and not match[2]) or match[2] == "0":
            raise EvaluationError(
                f"unknown level {text!r}; give recalibrate (or recalibrate:BATCHES), refit (or "
                "refit:IMAGES), steps:N or epochs:N with N from 1"
            )
        return cls(match[1], int(match[2] or usual[match[1]]))

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}"

    def batches(self, images: int, batch: int) -> int:
        """How many batches it reads of so many training images."""
        an_epoch = images // min(batch, images)
        if self.kind == RECALIBRATE:
            return min(self.count, an_epoch)
        if self.kind == REFIT:
            return -(-self.count // min(batch, images))
        return self.count if self.kind == STEPS else self.count * an_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceSettings:
    """What a measurement of importances is asked for.

    ``images`` of the validation set evaluate a network, all of them where it is None.
    ``reinitialise``: a key of a single layer (j = i + 1) starts with that layer re-initialised.
    ``unreadable``: an image that one process can read and another cannot would look like a change
    of accuracy, so none is left out unless that is asked for.
    """

    choice: ModelChoice
    data: str
    level: Level
    batch: int = 128
    images: int | None = None
    reinitialise: bool = False
    augment: bool = True
    learning_rate: float = 0.01
    weight_decay: float = 1e-5
    span_mode: str = "kim2023"
    loaders: int = 0
    unreadable: Unreadable = Unreadable.STOP

    def __post_init__(self) -> None:
        require_within("batch", self.batch, 1, MOST_IMAGES)
        require_within("images", self.images, 1, MOST_IMAGES)
        require_within("loaders", self.loaders, 0, MOST_LOADERS)
        if not 0 < self.learning_rate <= MOST_RATE or not 0 <= self.weight_decay <= MOST_RATE:
            raise EvaluationError(
                f"--lr must be above 0, --weight-decay 0 or more, and both at most {MOST_RATE}"
            )
        if self.level.kind == REFIT and self.reinitialise:
            raise EvaluationError(
                "--reinitialise: a refit has nothing to fit in a layer that stays as it is; give "
                "--keep-single-layers, or a level that trains"
            )

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        return self.choice.seed

    @property
    def identity(self) -> dict[str, Any]:
        """What values depend on, without the places of files (their digests count instead)."""
        tuned = self.level.kind in (STEPS, EPOCHS)
        choice = self.choice
        height, width = choice.size
        usual = choice.channels == USUAL_CHANNELS
        return {
            "model": choice.name,
            "resolution": height if height == width else [height, width],
            **({} if usual else {"in_channels": choice.channels}),
            "level": str(self.level),
            "seed": self.seed,
            "batch": self.batch,
            "images": self.images,
            "augment": self.augment,
            **({"lr": self.learning_rate, "weight_decay": self.weight_decay} if tuned else {}),
        }


class Candidate(NamedTuple):
    """A network to evaluate: its span mask, the position of a re-initialised layer (0 for none).

    The original network as it is, which the others are compared with, is not ``tuned``. Keys that
    ask for the same network share one candidate.
    """

    mask: str
    reinitialised: int = 0
    tuned: bool = True
