"""What a file of weights that ``dshrink`` wrote says of itself, in its safetensors metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dshrink.errors import NetworkError
from latency_tables.masks import check_padding
from latency_tables.records import convert_record, parse_record

WEIGHTS_KEY = "dshrink"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsAbout:
    """The network that was trained, and the plan that it merges by.

    ``padding`` is empty where nothing was removed: such weights fit any plan. ``expanded`` are the
    layers that were trained expanded, by ``ratio`` (DepthShrinker+).
    """

    model: str
    resolution: tuple[int, int]
    classes: int
    segments: Literal["", "blocks", "spans"]
    mask: str
    free_activation: bool
    padding: str
    accuracy_percent: float | None = None
    expanded: tuple[str, ...] | None = None
    ratio: int | None = None

    def __post_init__(self) -> None:
        if self.padding:
            check_padding(self.padding)
        if min(*self.resolution, self.classes) < 1:
            raise NetworkError("resolution and classes count from 1")


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
