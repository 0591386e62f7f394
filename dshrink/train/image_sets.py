"""Data sets of images, opened by timm, and how their images become a network's input.

A data set is a folder, or one of those that timm knows by name and that are read by number. A
folder is only listed: ImageNet's million files are not read before they are trained on.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dshrink.network.references import is_own
from dshrink.network.tracing import import_timm
from dshrink.train.augmentation import training_transform
from dshrink.train.errors import DataError
from dshrink.train.pixels import to_8_bits
from dshrink.train.settings import Augmentation
from dshrink.train.unreadable import UnreadableError

TRAIN_FOLDERS = ("train", "training")
VALIDATION_FOLDERS = ("val", "validation", "valid", "eval", "evaluation")
#: Names of validation splits; sets on the Hugging Face hub often call it "test".
VALIDATION_SPLITS = ("validation", "test")
#: Of an image's file.
MOST_IMAGE_BYTES = 1 << 30
#: timm's prefixes of sets that can only be read from one end to the other.
STREAMED = ("hfids", "tfds", "wds")
_NAMED = re.compile(r"(?P<library>torch|hfds|hfids|tfds|wds)/(?P<rest>[^:]+)(?::(?P<root>.+))?")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The images of one part of a data set, by number.

    ``source`` is a data set of timm or torchvision, ``mode`` Pillow's of what is read ("RGB", "L").
    ``folder`` holds the whole tree where the images are files.
    """

    name: str
    source: Any
    mode: str
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.source)

    def read(self, number: int) -> tuple[Image.Image, int]:
        """An image and its label. Raises UnreadableError with the reason."""
        try:
            if hasattr(self.source, "reader"):
                if self.folder is not None:
                    # A pipe would be waited for, a device read without end.
                    _require_image_file(self.source.reader.samples[number][0])
                # timm's own way takes the next image, of whatever class, for an unreadable one.
                file, label = self.source.reader[number]
                with file:
                    image = to_8_bits(Image.open(file), self.mode)
            else:
                image, label = self.source[number]
                image = to_8_bits(image, self.mode)
            label = int(label)
        except Exception as error:  # Pillow raises whatever a broken file makes its decoders raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableError(reason[:200]) from error
        if label < 0:
            raise UnreadableError("it has no label")
        return image, label

    def file(self, number: int) -> str:
        """The path of an image, or what to call it where it is not a file."""
        if self.folder is None:
            return f"{self.name}, image {number}"
        file = str(self.source.reader.samples[number][0])
        # A name in another encoding, as a terminal or JSON can have it.
        return file.encode(errors="backslashreplace").decode()

    @property
    def digest(self) -> str:
        """Of what identifies this part."""
        return _digest((self,))

    def entries(self) -> Iterator[str]:
        """What identifies this part, without reading images: names, labels, sizes."""
        if self.folder is None:
            yield f"{self.name}\0{len(self)}\n"
            return
        for file, label in self.source.reader.samples:
            name = file.removeprefix(f"{self.folder}/")
            size = os.stat(file).st_size  # noqa: PTH116 (of a million files, without a Path each)
            yield f"{name}\0{label}\0{size}\n"


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set: what the user calls it, its two parts, the names of its classes."""

    data: str
    train: Split
    validation: Split
    classes: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Of the names and sizes of all files; of the name and length where there are none."""
        return _digest((self.train, self.validation))


def _require_image_file(file: str) -> None:
    """Raise OSError for what is no regular file, or is larger than any image."""
    status = os.stat(file)  # noqa: PTH116 (of a million files, without a Path each)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("no regular file")
    if status.st_size > MOST_IMAGE_BYTES:
        raise OSError(f"above {MOST_IMAGE_BYTES >> 20} MiB")


def _digest(splits: Iterable[Split]) -> str:
    found = hashlib.sha256()
    for split in splits:
        for entry in split.entries():
            found.update(entry.encode(errors="surrogateescape"))
    return found.hexdigest()[:16]


def open_images(data: Path | str, channels: int = 3) -> Images:
    """The images of a data set, not yet read. Raises DataError.

    ``data`` is a folder with ``train/CLASS/*`` and ``val/CLASS/*`` (or ``validation``), or a name
    as timm spells it: ``torch/cifar10:PATH``, ``hfds/NAME[:CACHE]``, ``folder:PATH``.
    """
    mode = _mode(data, channels)
    named = _named(str(data))
    images = _open_named(named, mode) if named else _open_folders(_folder(str(data)), mode)
    if len(images.classes) < 2:
        raise DataError(f"{data}: only one class ({images.classes[0]}); accuracy needs two or more")
    return images


def _mode(data: Path | str, channels: int) -> str:
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise DataError(f"{data}: images have 1 or 3 channels, the network wants {channels}")
    return mode


def open_unlabelled(data: str, channels: int = 3) -> tuple[Split, Images | None]:
    """The images to look at without labels, and the whole data set where ``data`` is one.

    A folder need not be a data set: in others all images count, those of ``train/`` where there is
    one. Raises DataError.
    """
    folder = _folder(data)
    whole = (TRAIN_FOLDERS, VALIDATION_FOLDERS)
    if _named(data) or all(any((folder / n).is_dir() for n in names) for names in whole):
        images = open_images(data, channels)
        return images.train, images
    if not folder.is_dir():
        raise DataError(f"{data}: no such folder; --data wants one with images in it")
    folder = next((folder / n for n in TRAIN_FOLDERS if (folder / n).is_dir()), folder)
    try:
        source = _timm_data().create_dataset("", root=str(folder), search_split=False)
    except RuntimeError as error:
        raise DataError(f"{folder}: no images (PNG, JPEG) in it") from error
    return Split(name=str(folder), source=source, mode=_mode(data, channels), folder=folder), None


def is_labelled(data: str) -> bool:
    """Whether ``data`` is meant as a data set with classes, not as a folder of mere images."""
    folder = _folder(data)
    parts = (*TRAIN_FOLDERS, *VALIDATION_FOLDERS)
    return bool(_named(data)) or any((folder / name).is_dir() for name in parts)


def absolute(data: str) -> str:
    """The same data set, for a process that works in another folder."""
    named = _named(data)
    if named is None:
        return str(_folder(data).absolute())
    root = named["root"]
    name = f"{named['library']}/{named['rest']}"
    return f"{name}:{Path(root).absolute()}" if root else name


def _named(data: str) -> re.Match[str] | None:
    """A data set of timm's; a folder of that name has precedence."""
    return None if Path(data).is_dir() else _NAMED.fullmatch(data)


def _folder(data: str) -> Path:
    return Path(data.removeprefix("folder:") if not Path(data).is_dir() else data)


def _open_folders(root: Path, mode: str) -> Images:
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; --data wants one with train/ and val/ in it, and in each a "
            "folder of images for every class, or a data set as timm names it (torch/cifar10:PATH, "
            "hfds/NAME)"
        )
    train = _open_folder(root, TRAIN_FOLDERS)
    known = train.reader.class_to_idx
    validation = _open_folder(root, VALIDATION_FOLDERS, known)
    first, second = (
        Split(name=source.reader.root, source=source, mode=mode, folder=root)
        for source in (train, validation)
    )
    return Images(data=str(root), train=first, validation=second, classes=tuple(known))


def _open_folder(root: Path, names: Sequence[str], classes: dict[str, int] | None = None) -> Any:
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: no folder {' or '.join(f'{name}/' for name in names[:2])} in it")
    try:
        found = _timm_data().create_dataset("", root=str(folder), search_split=False)
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
            "give the class folders the same names"
        )
    return _timm_data().create_dataset("", root=str(folder), search_split=False, class_map=classes)


def _open_named(named: re.Match[str], mode: str) -> Images:
    data, library = named[0], named["library"]
    if library in STREAMED:
        raise DataError(
            f"{data}: {library}/ sets are read from one end to the other, and training here reads "
            "images by number; give a folder with train/ and val/, torch/NAME:PATH or hfds/NAME"
        )
    if library == "torch" and not named["root"]:
        raise DataError(f"{data}: give its folder too, such as {data}:PATH")
    if library == "hfds" and importlib.util.find_spec("datasets") is None:
        raise DataError(f"{data} needs the package datasets: python -m pip install datasets")
    train = _create(named, ("train",))
    validation = _create(named, VALIDATION_SPLITS)
    classes = _classes(train)
    if not classes or classes != (_classes(validation) or classes):
        problem = "has other classes to validate on" if classes else "does not say its classes"
        raise DataError(f"{data} {problem}; make a folder with train/CLASS/ and val/CLASS/ of it")
    name = f"{library}/{named['rest']}"
    return Images(
        data=data,
        train=Split(name=f"{name} train", source=train, mode=mode),
        validation=Split(name=f"{name} validation", source=validation, mode=mode),
        classes=classes,
    )


def _create(named: re.Match[str], splits: Sequence[str]) -> Any:
    """timm's data set of the first of these splits that there is."""
    name = f"{named['library']}/{named['rest']}"
    for split in splits:
        try:
            return _timm_data().create_dataset(name, root=named["root"], split=split)
        except Exception as error:  # each library has its own way to say what it misses
            problem = " ".join(str(error).split()) or type(error).__name__
    raise DataError(
        f"{named[0]}: timm cannot open its {splits[0]} part ({problem[:200]}); check the name, "
        "and that the data lie there"
    )


def _classes(source: Any) -> tuple[str, ...]:
    """The names of its classes, their numbers where they have no names, none if it does not say."""
    reader = getattr(source, "reader", source)
    if known := getattr(reader, "class_to_idx", None):
        # ImageNet's classes have several names each.
        first = {number: name for name, number in reversed(list(known.items()))}
        return tuple(str(first[number]) for number in sorted(first))
    targets: Callable[[], Any] | None = getattr(reader, "iter_targets", None)
    labels = targets() if targets else getattr(reader, "targets", ())
    return tuple(map(str, range(1 + max(map(int, labels), default=-1))))


def _timm_data() -> Any:
    import_timm()
    return importlib.import_module("timm.data")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images become a network's input: size, crop, mean and standard deviation."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float
    interpolation: str
    channels: int = 3

    def transform(self, augment: Augmentation | None) -> Any:
        """timm's: what ``augment`` says to train on, else the centre; gives bytes (C, H, W).

        Raises DataError for a policy that timm does not know.
        """
        size = (self.channels, *self.size)
        if augment is not None:
            mean = self.mean[: self.channels]
            return training_transform(augment, size, interpolation=self.interpolation, mean=mean)
        return _timm_data().create_transform(
            size, interpolation=self.interpolation, crop_pct=self.crop, normalize=False
        )

    def normalise(self, images: Tensor) -> Tensor:
        """What a network reads of a batch of bytes (N, C, H, W), on the batch's device."""
        mean, std = (
            _channels(values[: self.channels], images.device) for values in (self.mean, self.std)
        )
        return (images.float() / 255 - mean) / std


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A value a channel, (1, C, 1, 1); made once, as a copy to a GPU waits for all its work."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).reshape(1, -1, 1, 1)


def preprocessing_of(model: str, size: tuple[int, int], channels: int = 3) -> Preprocessing:
    """As the network's published weights were made; ImageNet's usual where nothing is known."""
    timm_name = model.partition(" ")[0]  # arguments of the network follow
    known = None if is_own(model) else import_timm().models.get_pretrained_cfg(timm_name)
    return Preprocessing(
        size=size,
        channels=channels,
        mean=tuple(known.mean) if known else (0.485, 0.456, 0.406),
        std=tuple(known.std) if known else (0.229, 0.224, 0.225),
        crop=float(known.crop_pct or 0.875) if known else 0.875,
        interpolation=str(known.interpolation) if known else "bilinear",
    )
