"""How a network is trained: everything that the result depends on, as plain data.

The defaults are the paper's (DepthShrinker, Sec. 5.1) where it states them; it follows AlphaNet
(Wang et al., 2021) for the rest. Names and units are the field's: learning rates per step of SGD,
probabilities from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dshrink.limits import MOST_LOADERS
from dshrink.train.errors import TrainError
from latency_tables.records import plain

#: Above, no setting makes sense: sums of them overflow what optimisers compute in.
MOST = 1_000_000
PRECISIONS = ("fp32", "fp16", "bf16")
#: These change how fast a run is, or how much of it a crash can cost, not what comes out.
_WITHOUT_EFFECT = ("loaders", "checkpoint_steps", "log_with")
#: What only a network has that is trained without activations which its weights know, and the value
#: of each that means no such thing. Identities name the others alone, and so equal older ones.
OF_SHRINKING: Mapping[str, Any] = {"fade_epochs": 0, "block_distillation": 0.0}


class SettingsError(TrainError):
    """A setting that makes no sense, or is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What happens to an image before a network trains on it; timm's transforms.

    ``auto_augment`` is timm's text of a policy, empty for none. ``crop_scale`` is the share of the
    area that a random crop keeps; (1, 1) keeps the whole image. ``flip`` is the probability of a
    horizontal flip.
    """

    auto_augment: str = "rand-m5-mstd0.5-inc1"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        _require(self, 0 < low <= high <= 1, "crop_scale", "[LOW, HIGH] with 0 < LOW <= HIGH <= 1")
        _require(self, 0 <= self.flip <= 1, "flip", "a probability from 0 to 1")
        _require(self, 0 <= self.color_jitter <= 1, "color_jitter", "a strength from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Settings of one training run: SGD along a cosine, label smoothing, RandAugment.

    ``batch`` is what one step of SGD sees, over all processes and all ``accumulate`` parts.
    ``fade_epochs``: removed activations fade out over so many epochs, 0 removes them at once.
    ``distillation`` is the weight w of ``(1 - w) * CE + w * KL`` (docs/methods.md), 0 for none;
    ``block_distillation`` that of the difference of block outputs, which is added.
    ``ema`` is the decay of an average of the weights, which is then what is validated and kept.
    ``precision`` is that of training; validation is always in float32.
    ``checkpoint_steps``: a checkpoint after so many steps, in addition to the one after each epoch.
    ``log_with`` names Accelerate's trackers that are told of it (``trackers``).
    """

    epochs: int = 180
    batch: int = 256
    accumulate: int = 1
    learning_rate: float = 0.1
    min_learning_rate: float = 0.0
    warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    fade_epochs: int = 0
    distillation: float = 0.0
    block_distillation: float = 0.0
    temperature: float = 1.0
    ema: float | None = None
    precision: str = "fp32"
    clip: float | None = None
    seed: int = 0
    loaders: int = 0
    checkpoint_steps: int | None = None
    log_with: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "checkpoint_steps"):
            value = getattr(self, name)
            _require(self, value is None or 1 <= value <= MOST, name, f"1 or more, up to {MOST}")
        for name in (
            *("warmup_epochs", "fade_epochs", "loaders"),
            *("min_learning_rate", "weight_decay", "block_distillation"),
        ):
            _require(self, 0 <= getattr(self, name) <= MOST, name, f"0 or more, up to {MOST}")
        _require(
            self, self.batch % self.accumulate == 0, "batch", f"a multiple of {self.accumulate}"
        )
        _require(self, self.warmup_epochs < self.epochs, "warmup_epochs", "fewer than the epochs")
        what = f"no more than the epochs ({self.epochs})"
        _require(self, self.fade_epochs <= self.epochs, "fade_epochs", what)
        _require(self, 0 < self.learning_rate <= MOST, "learning_rate", f"above 0, up to {MOST}")
        _require(self, self.loaders <= MOST_LOADERS, "loaders", f"from 0 to {MOST_LOADERS}")
        _require(self, -(2**63) <= self.seed < 2**63, "seed", "an integer of up to 64 bits")
        _require(self, 0 <= self.momentum < 1, "momentum", "from 0 to below 1")
        _require(self, 0 <= self.label_smoothing < 1, "label_smoothing", "from 0 to below 1")
        _require(self, 0 <= self.distillation <= 1, "distillation", "a weight from 0 to 1")
        _require(self, 0 < self.temperature <= MOST, "temperature", f"above 0, up to {MOST}")
        _require(self, self.ema is None or 0 < self.ema < 1, "ema", "a decay between 0 and 1")
        _require(self, self.clip is None or self.clip > 0, "clip", "a largest norm above 0")
        _require(self, self.precision in PRECISIONS, "precision", " or ".join(PRECISIONS))

    @property
    def identity(self) -> dict[str, Any]:
        """What the result depends on, as JSON has it."""
        found = plain(self)
        unused = [name for name, none in OF_SHRINKING.items() if found[name] == none]
        left_out = (*_WITHOUT_EFFECT, *unused)
        return {name: value for name, value in found.items() if name not in left_out}


def _require(record: object, holds: bool, name: str, what: str) -> None:
    if not holds:
        raise SettingsError(f"{name} must be {what}, got {getattr(record, name)!r}")
