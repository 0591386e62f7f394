"""Top-1 agreement of a merged network with the unmerged one, on all validation images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dshrink.network.layers import weights_dtype
from dshrink.network.precision import exact_float32
from dshrink.network.torch_device import best_device


class ValidationImages(Protocol):
    """Where the images come from (``train.feed.Feed``).

    ``digest`` is that of the data set; ``unreadable_files`` are those so far, with the reasons.
    ``validation_on`` a device are batches of images as a network reads them, and their labels.
    """

    @property
    def digest(self) -> str: ...

    @property
    def unreadable_files(self) -> Mapping[str, str]: ...

    def validation_on(self, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of all validation images that can be read; accuracies are top-1, in percent.

    ``differing`` counts the images that the two networks classify differently.
    """

    images: int
    unmerged_accuracy: float
    merged_accuracy: float
    differing: int


@torch.inference_mode()
def top1_agreement(unmerged: nn.Module, merged: nn.Module, images: ValidationImages) -> Agreement:
    """Compare the two on every validation image, in their weights' precision.

    Moves both to the GPU where there is one.
    """
    device = best_device()
    dtype = weights_dtype(merged)
    unmerged.to(device).eval()
    merged.to(device).eval()
    count = correct = correct_merged = differing = 0
    with exact_float32():  # else what the two differ by is rounding
        for batch, labels in images.validation_on(device):
            if not len(labels):
                continue
            batch = batch.to(dtype)
            before, after = unmerged(batch).argmax(dim=1), merged(batch).argmax(dim=1)
            count += len(labels)
            correct += int((before == labels).sum())
            correct_merged += int((after == labels).sum())
            differing += int((before != after).sum())
    return Agreement(
        images=count,
        unmerged_accuracy=100 * correct / max(count, 1),
        merged_accuracy=100 * correct_merged / max(count, 1),
        differing=differing,
    )
