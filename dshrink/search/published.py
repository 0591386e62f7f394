"""The 18 keep masks that DepthShrinker published (Tab. 9), by the names the paper gives them."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from dshrink.search.errors import PlanError

MASKS_FILE = "data/published/depthshrinker_table9_masks.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedMask:
    """A mask of the paper; ``base_model`` is the timm name of the network it shrinks."""

    name: str
    base_model: str
    keep_mask: str


@cache
def published_masks() -> Mapping[str, PublishedMask]:
    """Name to mask, in the order of the paper's table."""
    text = files("latency_tables").joinpath(MASKS_FILE).read_text(encoding="utf-8")
    masks = (
        PublishedMask(name=line["name"], base_model=line["base_model"], keep_mask=line["keep_mask"])
        for line in csv.DictReader(text.splitlines())
    )
    return MappingProxyType({mask.name: mask for mask in masks})


def published_mask(name: str) -> PublishedMask:
    """The mask of this name, in any case. Raises PlanError with the nearest names."""
    by_lower = {known.lower(): mask for known, mask in published_masks().items()}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    names = [by_lower[key].name for key in near] or list(published_masks())
    raise PlanError(
        f"the paper has no network {name!r}; {'did you mean' if near else 'known'}: "
        f"{', '.join(names)}"
    )
