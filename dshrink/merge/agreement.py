"""Top-1 agreement of a merged network with the unmerged one, and with the original."""

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
    ``validation_on`` a device are batches of images as a network reads them, and their labels,
    which mean something where they are ``labelled``.
    """

    @property
    def digest(self) -> str: ...

    @property
    def labelled(self) -> bool: ...

    @property
    def unreadable_files(self) -> Mapping[str, str]: ...

    def validation_on(self, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of all validation images that can be read; accuracies are top-1, in percent.

    ``differing`` counts the images that the two networks classify differently; ``as_original``
    those that the merged one classifies as the original with all of its activations does, None
    where no original was compared. Accuracies are None without labels.
    """

    images: int
    unmerged_accuracy_percent: float | None
    merged_accuracy_percent: float | None
    differing: int
    original_accuracy_percent: float | None = None
    as_original: int | None = None


@torch.inference_mode()
def top1_agreement(
    unmerged: nn.Module,
    merged: nn.Module,
    images: ValidationImages,
    original: nn.Module | None = None,
) -> Agreement:
    """Compare the two, and the ``original``, on every image, in the precision of their weights.

    Moves all to the GPU where there is one.
    """
    device = best_device()
    dtype = weights_dtype(merged)
    networks = {"unmerged": unmerged, "merged": merged}
    if original is not None:
        networks["original"] = original
    for module in networks.values():
        module.to(device).eval()
    count = differing = as_original = 0
    correct = dict.fromkeys(networks, 0)
    with exact_float32():  # else what they differ by is rounding
        for batch, labels in images.validation_on(device):
            if not len(labels):
                continue
            batch = batch.to(dtype)
            found = {name: module(batch).argmax(dim=1) for name, module in networks.items()}
            count += len(labels)
            for name, classes in found.items():
                correct[name] += int((classes == labels).sum())
            differing += int((found["unmerged"] != found["merged"]).sum())
            if original is not None:
                as_original += int((found["original"] == found["merged"]).sum())
    accuracy = {
        name: 100 * number / max(count, 1) if images.labelled else None
        for name, number in correct.items()
    }
    return Agreement(
        images=count,
        unmerged_accuracy_percent=accuracy["unmerged"],
        merged_accuracy_percent=accuracy["merged"],
        differing=differing,
        original_accuracy_percent=accuracy.get("original"),
        as_original=None if original is None else as_original,
    )
