"""The images that a refit reads: those that it fits, and those held out; no labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dshrink.train.batches import Batches, ImageDataset, drawn_seed
from dshrink.train.errors import DataError
from dshrink.train.image_sets import Preprocessing, Split
from dshrink.train.settings import Augmentation
from dshrink.train.tuning import prepared
from dshrink.train.unreadable import UnreadableImages
from latency_tables.wording import counted

#: Where there are fewer images than asked for, each gives several crops.
CROPS = Augmentation(auto_augment="", crop_scale=(0.25, 1.0), flip=0.5, color_jitter=0.0)
#: Of the images, so many are held out: they choose, and take no part in a fit.
HELD_OUT = 0.2
#: Small batches are faster on a CPU: their values stay in its caches.
_BATCH_CPU, _BATCH_GPU = 8, 64


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Batches (N, C, H, W) as the network reads them; of no image are there crops in both."""

    fit: NormalisedBatches
    held_out: NormalisedBatches


@dataclass(frozen=True, kw_only=True)
class NormalisedBatches:
    """Batches of a split on a device, the same ones whenever they are asked for."""

    batches: Batches
    preprocessing: Preprocessing
    device: torch.device

    def __iter__(self) -> Iterator[Tensor]:
        for images, _ in prepared(self.batches, self.preprocessing, self.device):
            yield images


def calibration_images(
    split: Split,
    preprocessing: Preprocessing,
    *,
    count: int,
    seed: int,
    device: torch.device,
    loaders: int = 0,
    unreadable: UnreadableImages | None = None,
) -> CalibrationImages:
    """``count`` images drawn from a split; several random crops of each where it has fewer.

    Raises DataError where there are not two images, one to fit and one to hold out.
    """
    available = len(split)
    if available < 2 or count < 2:
        raise DataError(
            f"{split.name}: {counted(min(available, count), 'image')}; a refit needs two, one "
            "of them to choose by"
        )
    generator = torch.Generator().manual_seed(drawn_seed(seed, available))
    order = torch.randperm(available, generator=generator).tolist()[:count]
    held = max(1, round(HELD_OUT * len(order)))
    crops = count > available
    transform = preprocessing.transform(CROPS if crops else None)
    dataset = ImageDataset(split, transform, seed, replace=False)
    size = _BATCH_GPU if device.type == "cuda" else _BATCH_CPU

    def batches(numbers: list[int], images: int) -> NormalisedBatches:
        # The epoch of an index draws another crop of the same image.
        indices = [
            place // len(numbers) * available + numbers[place % len(numbers)]
            for place in range(images)
        ]
        return NormalisedBatches(
            batches=Batches(
                dataset=dataset,
                indices=[indices[at : at + size] for at in range(0, images, size)],
                workers=loaders,
                unreadable=unreadable or UnreadableImages(),
            ),
            preprocessing=preprocessing,
            device=device,
        )

    held_crops = max(held, round(HELD_OUT * count))
    return CalibrationImages(
        fit=batches(order[held:], count - held_crops), held_out=batches(order[:held], held_crops)
    )
