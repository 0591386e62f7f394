"""Folders of images, read by timm, and batches of them that are the same in every process.

What happens to an image (its crop, its flip) depends on the seed, the epoch and the image alone,
not on what was read before or by how many processes: networks that are compared with each other
see exactly the same pictures. Images stay bytes until they are on the device that wants them.
"""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dshrink.tracing import import_timm
from dshrink.train.errors import DataError

TRAIN_FOLDERS = ("train", "training")
VALIDATION_FOLDERS = ("val", "validation", "valid", "eval", "evaluation")
#: Batches that come again are kept in memory up to so many bytes.
CACHE_BYTES = 2 << 30

#: An epoch and the number of an image.
Pick = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ImageFolders:
    """A tree ``root/train/CLASS/*`` and ``root/val/CLASS/*`` (or ``validation``)."""

    root: Path
    train: Any
    validation: Any
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the names and sizes of all files; large trees are not read through."""
        found = hashlib.sha256()
        for split in (self.train, self.validation):
            for path, label in split.reader.samples:
                name = Path(path).relative_to(self.root).as_posix()
                found.update(f"{name}\0{label}\0{Path(path).stat().st_size}\n".encode())
        return found.hexdigest()[:16]


def open_images(root: Path, channels: int = 3) -> ImageFolders:
    """The images of a tree, not yet read. Raises DataError."""
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; --data wants one with train/ and val/ in it, and in each a "
            "folder of images for every class"
        )
    train = _open_split(root, TRAIN_FOLDERS, channels)
    validation = _open_split(root, VALIDATION_FOLDERS, channels, train.reader.class_to_idx)
    classes = tuple(train.reader.class_to_idx)
    if len(classes) < 2:
        raise DataError(f"{root}: only one class ({classes[0]}); accuracy needs at least two")
    return ImageFolders(root=root, train=train, validation=validation, classes=classes)


def _open_split(
    root: Path, names: Sequence[str], channels: int, classes: dict[str, int] | None = None
) -> Any:
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: no folder {' or '.join(f'{name}/' for name in names[:2])} in it")
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise DataError(f"{root}: images have 1 or 3 channels, the network wants {channels}")
    try:
        found = _timm_data().create_dataset(
            "", root=str(folder), search_split=False, input_img_mode=mode
        )
    except RuntimeError as error:
        raise DataError(
            f"{folder}: no images in it; it wants a folder of images (PNG, JPEG) for every class"
        ) from error
    known = found.reader.class_to_idx
    if "" in known:
        raise DataError(
            f"{folder}: images lie in it without a class; put them into one folder a class"
        )
    if classes is None or classes == known:
        return found
    if unknown := sorted(set(known) - set(classes)):
        raise DataError(
            f"{folder}: class {unknown[0]!r} is not among the {len(classes)} classes to train on; "
            "name the folders alike"
        )
    return _timm_data().create_dataset(
        "", root=str(folder), search_split=False, input_img_mode=mode, class_map=classes
    )


def _timm_data() -> Any:
    import_timm()
    return importlib.import_module("timm.data")


@dataclass(frozen=True, kw_only=True)
class Look:
    """How pictures become a network's input: size, crop, mean and standard deviation."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float
    interpolation: str
    channels: int = 3

    def transform(self, *, augment: bool) -> Any:
        """timm's: a random crop and flip to train on, else the centre; gives bytes (C, H, W)."""
        return _timm_data().create_transform(
            (self.channels, *self.size),
            is_training=augment,
            color_jitter=0.0,
            interpolation=self.interpolation,
            crop_pct=self.crop,
            normalize=False,
        )

    def normalise(self, images: Tensor) -> Tensor:
        """What a network reads of a batch of bytes (N, C, H, W), on the batch's device."""
        mean, std = (
            torch.tensor(values[: self.channels], device=images.device).reshape(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return (images.float() / 255 - mean) / std


def look_of(model: str, size: tuple[int, int], channels: int = 3) -> Look:
    """As the network's published weights were made; ImageNet's usual where nothing is known."""
    known = None if ":" in model else import_timm().models.get_pretrained_cfg(model)
    return Look(
        size=size,
        channels=channels,
        mean=tuple(known.mean) if known else (0.485, 0.456, 0.406),
        std=tuple(known.std) if known else (0.229, 0.224, 0.225),
        crop=float(known.crop_pct or 0.875) if known else 0.875,
        interpolation=str(known.interpolation) if known else "bilinear",
    )


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Each picture drawn with random numbers of its own."""

    def __init__(self, images: Any, transform: Any, seed: int) -> None:
        self._images, self._transform, self._seed = images, transform, seed

    def __getitem__(self, pick: Pick) -> tuple[Tensor, int]:
        picture, label = _read(self._images, pick[1])
        with _own_randomness(self._seed, *pick):
            return self._transform(picture), label


def _read(images: Any, number: int) -> tuple[Image.Image, int]:
    # timm's own way takes the next image, of whatever class, for one that cannot be read.
    file, label = images.reader[number]
    with file:
        try:
            return Image.open(file).convert(images.input_img_mode), label
        except OSError as error:
            raise DataError(
                f"{file.name}: not a readable image ({error}); repair it or take it out"
            ) from error


@contextmanager
def _own_randomness(*numbers: int) -> Iterator[None]:
    """Seed what timm's transforms draw from, and leave it as it was afterwards."""
    # SeedSequence takes no negative numbers, and a user may seed with one.
    (seed,) = np.random.SeedSequence([number % (1 << 32) for number in numbers]).generate_state(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(int(seed))
    random.seed(int(seed))
    np.random.seed(int(seed))
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


@dataclass(kw_only=True)
class Batches:
    """Batches of bytes (N, C, H, W) and labels (N,), the same ones whenever they are asked for."""

    images: Any
    transform: Any
    picks: Sequence[Sequence[Pick]]
    seed: int
    workers: int = 0
    cache_bytes: int = CACHE_BYTES
    _kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.picks)

    @property
    def count(self) -> int:
        """How many images there are in all."""
        return sum(len(batch) for batch in self.picks)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if len(self._kept) == len(self.picks):
            yield from self._kept
            return
        kept: list[tuple[Tensor, Tensor]] = []
        room = self.cache_bytes
        loader = DataLoader(
            _Pictures(self.images, self.transform, self.seed),
            batch_sampler=self.picks,  # type: ignore[arg-type]
            num_workers=self.workers,
            generator=torch.Generator(),  # else it draws from what dropout draws from
        )
        for pictures, labels in loader:
            room -= pictures.nbytes
            if room >= 0:
                kept.append((pictures, labels))
            else:
                # All or nothing: a part would have to be joined to what is read again.
                kept.clear()
                self.cache_bytes = 0
            yield pictures, labels
        self._kept = kept


def shuffled(images: int, batch: int, batches: int, seed: int) -> list[list[Pick]]:
    """So many batches, epoch after epoch in another order; what does not fill a batch is left."""
    size = min(batch, images)
    found: list[list[Pick]] = []
    epoch = 0
    while len(found) < batches:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(images, generator=generator).tolist()
        full = range(0, images - size + 1, size)
        found += [[(epoch, image) for image in order[at : at + size]] for at in full]
        epoch += 1
    return found[:batches]


def sampled(images: int, batch: int, count: int | None, seed: int) -> list[list[Pick]]:
    """All images once, or ``count`` of them drawn by the seed, in their order."""
    chosen = list(range(images))
    if count is not None and count < images:
        generator = torch.Generator().manual_seed(seed)
        chosen = sorted(torch.randperm(images, generator=generator)[:count].tolist())
    return [
        [(0, image) for image in chosen[at : at + batch]] for at in range(0, len(chosen), batch)
    ]
