"""What a file of weights that ``dshrink`` wrote says of itself, in its safetensors metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dshrink.errors import NetworkError
from dshrink.network.references import (
    MOST_CHANNELS,
    MOST_CLASSES,
    Known,
    ModelChoice,
    Size,
    check_channels,
    same_model,
)
from latency_tables.masks import check_padding
from latency_tables.records import convert_record, parse_record
from latency_tables.span_masks import ACTIVE, LINEAR
from latency_tables.span_masks import MERGED as MERGED_NEXT

WEIGHTS_KEY = "dshrink"
#: ``WeightsAbout.form`` of weights of a merged network.
MERGED: Literal["merged"] = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsAbout:
    """The network that was trained, and the plan that it merges by.

    ``padding`` is empty where nothing was removed: such weights fit any plan. ``form`` is "merged"
    where they are those of the merged network, with its convolutions (``merge.merged_form``), else
    they have the original's names. ``expanded`` are the layers that were trained expanded, by
    ``ratio`` (DepthShrinker+).
    """

    model: str
    resolution: tuple[int, int]
    classes: int
    segments: Literal["", "blocks", "spans"]
    mask: str
    free_activation: bool
    padding: str
    in_channels: int | None = None
    form: Literal["", "merged"] = ""
    accuracy_percent: float | None = None
    expanded: tuple[str, ...] | None = None
    ratio: int | None = None

    def __post_init__(self) -> None:
        if self.padding:
            check_padding(self.padding)
        if set(self.mask) - {ACTIVE, LINEAR, MERGED_NEXT}:
            raise NetworkError(f"mask {self.mask[:60]!r} is none of a plan")
        if self.accuracy_percent is not None and not 0 <= self.accuracy_percent <= 100:
            raise NetworkError(f"accuracy_percent {self.accuracy_percent:g}: from 0 to 100")
        if self.ratio is not None and not 1 <= self.ratio <= MOST_CHANNELS:
            raise NetworkError(f"ratio {self.ratio}: from 1 to {MOST_CHANNELS}")
        Size.of(*self.resolution)
        if self.in_channels is not None:
            check_channels(self.in_channels)
        if not 1 <= self.classes <= MOST_CLASSES:
            raise NetworkError(f"classes {self.classes}: from 1 to {MOST_CLASSES}")

    def known(self, whose: str, choice: ModelChoice) -> Known:
        """What the file ``whose`` says of the network, where ``choice`` has not asked for it."""
        # A factory has its classes from its arguments. Other classes than asked for are a misfit of
        # shapes, which says more.
        ask = choice.reference.takes_classes and choice.classes is None
        classes = self.classes if ask else None
        return Known(whose=whose, in_channels=self.in_channels, classes=classes)


def about_weights(path: Path) -> WeightsAbout | None:
    """None for a file of others, or one that cannot be read: reading its weights says why.

    Raises NetworkError for metadata of ours that are damaged.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(WEIGHTS_KEY)
    except (OSError, SafetensorError):
        return None
    if text is None:
        return None
    where = f"{path}: metadata {WEIGHTS_KEY!r}"
    fix = "train the weights again, or save them without these metadata"
    found = parse_record(text, dict[str, Any], where=where, error=NetworkError, fix=fix)
    return convert_record(found, WeightsAbout, where=where, error=NetworkError, fix=fix)


def known_of_weights(path: Path, choice: ModelChoice) -> Known | None:
    """What a file of ours says of the network that it is for; None for a file of others.

    Raises NetworkError where that is another network.
    """
    about = about_weights(path)
    if about is None:
        return None
    if not same_model(about.model, choice.name):
        raise NetworkError(
            f"{path}: its weights are of {about.model}, the network is {choice.name}"
        )
    if about.form == MERGED:
        raise NetworkError(
            f"{path}: its weights are those of {choice.name} merged by the mask {about.mask}, "
            "which only `dshrink merge` and `dshrink finetune` take, with that plan"
        )
    return about.known(str(path), choice)
