"""Images read from a data set, and batches of them that are the same in every process.

What happens to an image (its crop, its flip) depends on the seed, the epoch and the image alone,
not on what was read before or by how many processes: networks that are compared with each other
see exactly the same images. They stay bytes until they are on the device that wants them.

An image that cannot be read leaves its place in a batch to the next one while training, so that
all batches keep their size, and is left out while validating.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dshrink.train.errors import DataError
from dshrink.train.image_sets import Split
from dshrink.train.unreadable import UnreadableError, UnreadableImages

#: Batches that come again are kept in memory up to so many bytes.
CACHE_BYTES = 2 << 30
#: So many images in a row that cannot be read are no accident.
LONGEST_RUN = 100
#: The label of a sample whose image could not be read.
NO_LABEL = -1

#: The samples of one batch after the other, each by its epoch times the images plus its image.
Indices = Sequence[Sequence[int] | NDArray[np.int64]]


class Sample(NamedTuple):
    """Bytes (C, H, W) and a label; black, without a label, where no image could be read.

    ``unreadable`` maps the files that could not be read for it to the reasons.
    """

    pixels: Tensor
    label: int
    unreadable: Mapping[str, str]


class LoadedBatch(NamedTuple):
    """A batch: bytes (N, C, H, W), labels (N,), and what could not be read for it."""

    images: Tensor
    labels: Tensor
    unreadable: Mapping[str, str]


class ImageDataset(Dataset[Sample]):
    """The images of a split by index, each transformed with random numbers of its own.

    ``replace``: the next image that can be read takes the place of one that cannot, with the random
    numbers of that place. No index raises for a broken file, so that a process that reads images
    can send its reason to the one that trains.
    """

    def __init__(self, split: Split, transform: Any, seed: int, replace: bool) -> None:
        self.split, self.replace = split, replace
        self._transform, self._seed = transform, seed

    def __getitem__(self, index: int) -> Sample:
        epoch, first = divmod(int(index), len(self.split))
        unreadable: dict[str, str] = {}
        for step in range(min(LONGEST_RUN, len(self.split)) if self.replace else 1):
            number = (first + step) % len(self.split)
            try:
                image, label = self.split.read(number)
            except UnreadableError as error:
                unreadable[self.split.file(number)] = str(error)
                continue
            break
        else:  # a placeholder of the size of all others, which does not get into a batch
            image, label = Image.new(self.split.mode, (64, 64)), NO_LABEL
        with _own_randomness(drawn_seed(self._seed, epoch, first)):
            return Sample(self._transform(image), label, unreadable)


def collate(samples: Sequence[Sample]) -> LoadedBatch:
    """The batch of those that could be read; of none it is empty, (0, C, H, W)."""
    labels = torch.tensor([sample.label for sample in samples])
    pixels = torch.stack([sample.pixels for sample in samples])
    unreadable: dict[str, str] = {}
    for sample in samples:
        unreadable.update(sample.unreadable)
    if unreadable:
        there = labels != NO_LABEL
        pixels, labels = pixels[there], labels[there]
    return LoadedBatch(pixels, labels, unreadable)


def read_batches(
    dataset: ImageDataset,
    indices: Indices,
    *,
    workers: int = 0,
    unreadable: UnreadableImages,
    pin: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch of bytes and labels for each of ``indices``, read by ``workers`` processes.

    What cannot be read is noted in ``unreadable``. Without ``replace`` a batch may be shorter, even
    empty. Raises DataError where nothing can be read, or where ``unreadable`` is to stop.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=indices,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        generator=torch.Generator(),  # else it draws from what dropout draws from
    )
    images = 0
    for wanted, loaded in zip(indices, loader, strict=True):
        unreadable.add(loaded.unreadable)
        images += len(loaded.labels)
        if dataset.replace and len(loaded.labels) < len(wanted):
            run = min(LONGEST_RUN, len(dataset.split))
            raise _nothing_readable(f"{run} images in a row", loaded.unreadable)
        yield loaded.images, loaded.labels
    if len(indices) and not images:
        raise _nothing_readable(f"all images of {dataset.split.name}", unreadable.reasons)


def _nothing_readable(what: str, reasons: Mapping[str, str]) -> DataError:
    file, reason = list(reasons.items())[-1]
    return DataError(f"{what} cannot be read, the last {file} ({reason}); are the files all there?")


def drawn_seed(*numbers: int) -> int:
    """The seed of one thing that these numbers identify, independent of all others."""
    # SeedSequence takes no negative numbers, and a user may seed with one.
    (seed,) = np.random.SeedSequence([number % (1 << 32) for number in numbers]).generate_state(1)
    return int(seed)


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed what timm's transforms draw from, and leave it as it was afterwards."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


@dataclass(kw_only=True)
class Batches:
    """Batches of bytes (N, C, H, W) and labels (N,), the same ones whenever they are asked for.

    ``unreadable`` knows what could not be read, once the batches were read.
    """

    dataset: ImageDataset
    indices: Indices
    workers: int = 0
    cache_bytes: int = CACHE_BYTES
    unreadable: UnreadableImages = field(default_factory=UnreadableImages)
    _kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def count(self) -> int:
        """How many images there are in all."""
        return sum(len(batch) for batch in self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._kept:
            yield from self._kept
            return
        kept: list[tuple[Tensor, Tensor]] = []
        room = self.cache_bytes
        for images, labels in read_batches(
            self.dataset, self.indices, workers=self.workers, unreadable=self.unreadable
        ):
            if not len(labels):
                continue
            room -= images.nbytes
            if room >= 0:
                kept.append((images, labels))
            else:
                # All or nothing: a part would have to be joined to what is read again.
                kept.clear()
                self.cache_bytes = 0
            yield images, labels
        self._kept = kept


def shuffled(images: int, batch: int, batches: int, seed: int) -> list[list[int]]:
    """So many batches, epoch after epoch in another order; what does not fill a batch is left."""
    size = min(batch, images)
    steps = images // size
    found: list[list[int]] = []
    for epoch in range(math.ceil(batches / steps)):
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(images, generator=generator) + epoch * images
        found += order[: steps * size].reshape(steps, size).tolist()
    return found[:batches]


def sampled(images: int, batch: int, count: int | None, seed: int) -> list[list[int]]:
    """All images once, or ``count`` of them drawn by the seed, in their order."""
    chosen = list(range(images))
    if count is not None and count < images:
        generator = torch.Generator().manual_seed(seed)
        chosen = sorted(torch.randperm(images, generator=generator)[:count].tolist())
    return [chosen[at : at + batch] for at in range(0, len(chosen), batch)]
