"""Whether a merged network tells every validation image what the unmerged one tells it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dshrink.train.feed import Feed
from dshrink.train.tuning import prepared, without_tf32


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of all validation images that can be read; accuracies in percent.

    ``differing`` counts the images to which the two networks give another class.
    """

    images: int
    unmerged_accuracy: float
    merged_accuracy: float
    differing: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def agreement(unmerged: nn.Module, merged: nn.Module, feed: Feed) -> Agreement:
    """Compare the two on every validation image, on their device, in their weights' precision."""
    unmerged.eval()
    merged.eval()
    with without_tf32():  # else what the two differ by is its rounding
        return _compared(unmerged, merged, feed)


def _compared(unmerged: nn.Module, merged: nn.Module, feed: Feed) -> Agreement:
    kind = next(merged.parameters())
    images = right = right_merged = differing = 0
    for pictures, labels in prepared(feed.validation(0, 1), feed.look, kind.device):
        if not len(labels):
            continue
        pictures = pictures.to(kind.dtype)
        before, after = unmerged(pictures).argmax(dim=1), merged(pictures).argmax(dim=1)
        images += len(labels)
        right += int((before == labels).sum())
        right_merged += int((after == labels).sum())
        differing += int((before != after).sum())
    return Agreement(
        images=images,
        unmerged_accuracy=100 * right / max(images, 1),
        merged_accuracy=100 * right_merged / max(images, 1),
        differing=differing,
    )
