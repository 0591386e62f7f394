"""The batches of a training run: what a step sees depends on the seed, the epoch and its number.

A step's batch is cut into parts, one after the other and process by process; so two processes see
in one step what one process sees in two accumulated parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dshrink.train.batches import ImageDataset, Indices, read_batches
from dshrink.train.errors import TrainError
from dshrink.train.image_sets import Images, Preprocessing, Split
from dshrink.train.settings import Augmentation, Training
from dshrink.train.tuning import Batch, prepared
from dshrink.train.unreadable import UnreadableImages
from latency_tables.records import plain


@dataclass(kw_only=True)
class Feed:
    """Images as a training run reads them: bytes (N, C, H, W) and labels (N,).

    ``unreadable`` says what to do about images that cannot be read, and collects them. ``labelled``
    is False where the labels are none of the network's classes. Raises TrainError where a batch is
    larger than the data set.
    """

    images: Images
    preprocessing: Preprocessing
    settings: Training
    unreadable: UnreadableImages = field(default_factory=UnreadableImages)
    labelled: bool = True

    def __post_init__(self) -> None:
        if not self.steps:
            raise TrainError(
                f"{self.images.data}: {len(self.images.train)} training images are fewer than a "
                f"batch of {self.settings.batch}; lower --batch"
            )

    @property
    def steps(self) -> int:
        """Steps of an epoch; what does not fill a batch is left for another epoch."""
        return len(self.images.train) // self.settings.batch

    @property
    def digest(self) -> str:
        """Of the data set."""
        return self.images.digest

    @property
    def unreadable_files(self) -> Mapping[str, str]:
        """The files that could not be read so far, and why."""
        return self.unreadable.reasons

    @property
    def identity(self) -> dict[str, Any]:
        """What the batches depend on besides the settings, as plain data."""
        return {"data": self.digest, **plain(self.preprocessing)}

    def training(
        self, epoch: int, rank: int, world: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' parts of an epoch's batches from step ``start`` on, ``accumulate`` a step.

        Raises TrainError where a batch cannot be divided evenly.
        """
        settings = self.settings
        shares = world * settings.accumulate
        if settings.batch % shares:
            raise TrainError(
                f"a batch of {settings.batch} cannot be cut into {shares} equal parts ({world} "
                f"processes, {settings.accumulate} accumulated): change --batch"
            )
        size = settings.batch // shares
        generator = np.random.default_rng([settings.seed % (1 << 32), epoch])
        count = len(self.images.train)
        order = generator.permutation(count) + epoch * count
        first, end = start * settings.batch + rank * size, self.steps * settings.batch
        indices = [order[at : at + size] for at in range(first, end, world * size)]
        return self._read(self.images.train, settings.augmentation, indices)

    def validation(self, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' share of the validation images, in their order; batches may be empty."""
        mine = range(rank, len(self.images.validation), world)
        size = max(1, self.settings.batch // (world * self.settings.accumulate))
        indices = [mine[at : at + size] for at in range(0, len(mine), size)]
        return self._read(self.images.validation, None, indices)

    def validation_on(self, device: torch.device, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The same as a network on ``device`` reads it."""
        return prepared(self.validation(rank, world), self.preprocessing, device)

    def _read(
        self, split: Split, augment: Augmentation | None, indices: Indices
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """In training the next image takes the place of one that cannot be read."""
        transform = self.preprocessing.transform(augment)
        return read_batches(
            ImageDataset(split, transform, self.settings.seed, replace=augment is not None),
            indices,
            workers=self.settings.loaders,
            unreadable=self.unreadable,
            pin=torch.cuda.is_available(),
        )
