"""How often merged networks say what their original says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dshrink.refit.distances import result_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """Of merged networks to their original on the same images, by name; all in percent but errors.

    ``agreement_percent`` is the share of images whose top-1 class is the original's,
    ``in_top5_percent`` that of images where it is among the five likeliest; ``error`` the mean
    ``result_error``. ``accuracy_percent`` holds the top-1 accuracies, the original's as "original";
    empty without labels. Networks that give no logits (N, C) have an error alone.
    """

    images: int
    agreement_percent: Mapping[str, float]
    in_top5_percent: Mapping[str, float]
    error: Mapping[str, float]
    accuracy_percent: Mapping[str, float]


@torch.inference_mode()
def compare(
    original: nn.Module,
    networks: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor | None]],
) -> Closeness:
    """Compare ``networks`` with ``original`` on batches of images and their labels, if known.

    All are in eval mode on the device of the images.
    """
    images = 0
    same, near = dict.fromkeys(networks, 0), dict.fromkeys(networks, 0)
    errors = dict.fromkeys(networks, 0.0)
    right = dict.fromkeys(("original", *networks), 0)
    classes = labelled = False
    for batch, labels in batches:
        if not len(batch):
            continue
        wanted = original(batch)
        images += len(batch)
        given = {name: module(batch) for name, module in networks.items()}
        for name, result in given.items():
            errors[name] += len(batch) * result_error(wanted, result)
        if wanted.ndim != 2:
            continue
        classes, top = True, wanted.argmax(dim=1)
        for name, result in given.items():
            likely = result.topk(min(5, result.shape[1]), dim=1).indices
            same[name] += int((likely[:, 0] == top).sum())
            near[name] += int((likely == top[:, None]).any(dim=1).sum())
        if labels is not None:
            labelled = True
            for name, result in {"original": wanted, **given}.items():
                right[name] += int((result.argmax(dim=1) == labels).sum())

    def percent(counts: Mapping[str, int]) -> dict[str, float]:
        return {name: 100 * count / max(images, 1) for name, count in counts.items()}

    return Closeness(
        images=images,
        agreement_percent=percent(same) if classes else {},
        in_top5_percent=percent(near) if classes else {},
        error={name: total / max(images, 1) for name, total in errors.items()},
        accuracy_percent=percent(right) if labelled else {},
    )
