"""The batches of a training run: what a step sees depends on the seed, the epoch and its number.

A step's batch is cut into parts, one after the other and process by process; so two processes see
in one step what one process sees in two accumulated parts. The images of a part are looked up when
it is read: ImageNet's epochs are long, and a run may resume in the middle of one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dshrink.train.data import Images, Preprocessing
from dshrink.train.dataset import BatchIndices, ImageDataset, Index, read_batches
from dshrink.train.errors import TrainError
from dshrink.train.settings import Training
from dshrink.train.tuning import Batch, prepared
from dshrink.train.unreadable import UnreadableImages
from latency_tables.records import plain


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An epoch's indices: at each of the places ``starts``, the next ``size`` of its ``order``."""

    epoch: int
    order: Sequence[int] | NDArray[np.int64]
    starts: range
    size: int

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[Index]]:
        for at in self.starts:
            yield [(self.epoch, int(image)) for image in self.order[at : at + self.size]]


@dataclass(kw_only=True)
class Feed:
    """Images as a training run reads them: bytes (N, C, H, W) and labels (N,).

    ``unreadable`` says what to do about images that cannot be read, and collects them. Raises
    TrainError where a batch is larger than the data set.
    """

    images: Images
    preprocessing: Preprocessing
    settings: Training
    unreadable: UnreadableImages = field(default_factory=UnreadableImages)

    def __post_init__(self) -> None:
        if not self.steps:
            raise TrainError(
                f"{self.images.data}: {len(self.images.train)} images to train on make no batch of "
                f"{self.settings.batch}; lower --batch"
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
        """What the batches depend on beside the settings, as JSON has it."""
        return {"data": self.digest, **plain(self.preprocessing)}

    def under(self, settings: Training) -> Self:
        """The same images as other settings want them."""
        found = copy.copy(self)
        found.settings = settings
        found.__post_init__()
        return found

    def training(
        self, epoch: int, rank: int, world: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' parts of an epoch's batches from step ``start`` on, ``accumulate`` a step.

        Raises TrainError where a batch cannot be shared out evenly.
        """
        settings = self.settings
        shares = world * settings.accumulate
        if settings.batch % shares:
            raise TrainError(
                f"a batch of {settings.batch} cannot be cut into {shares} equal parts ({world} "
                f"processes, {settings.accumulate} accumulated): change --batch"
            )
        size = settings.batch // shares
        numbers = [settings.seed % (1 << 32), epoch]
        order = np.random.default_rng(numbers).permutation(len(self.images.train))
        first, end = start * settings.batch + rank * size, self.steps * settings.batch
        indices = Parts(epoch=epoch, order=order, starts=range(first, end, world * size), size=size)
        transform = self.preprocessing.transform(settings.augmentation)
        dataset = ImageDataset(self.images.train, transform, settings.seed, replace=True)
        return self._read(dataset, indices)

    def validation(self, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' share of the validation images, in their order; batches may be empty."""
        mine = range(rank, len(self.images.validation), world)
        size = max(1, self.settings.batch // (world * self.settings.accumulate))
        indices = Parts(epoch=0, order=mine, starts=range(0, len(mine), size), size=size)
        transform = self.preprocessing.transform(None)
        dataset = ImageDataset(self.images.validation, transform, self.settings.seed, replace=False)
        return self._read(dataset, indices)

    def validation_on(self, device: torch.device, rank: int = 0, world: int = 1) -> Iterable[Batch]:
        """The same as a network on ``device`` reads it."""
        return prepared(self.validation(rank, world), self.preprocessing, device)

    def _read(
        self, dataset: ImageDataset, indices: BatchIndices
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return read_batches(
            dataset,
            indices,
            workers=self.settings.loaders,
            unreadable=self.unreadable,
            pin=torch.cuda.is_available(),
        )
