"""scikit-learn's handwritten digits as a folder of images: real data without a download.

1,797 grey images of 8 x 8 pixels. They are validated on other writers than they are trained on:
the set is in the order of its writers, and its last 40 % validate.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dshrink.train.errors import DataError
from latency_tables.files import write_folder_atomically

CLASSES = 10
#: The share of the set, from its start, that is trained on.
TRAIN_SHARE = 0.6
#: The largest value of a pixel as scikit-learn has it.
BRIGHTEST = 16.0
#: Two splits, and a folder of each digit in both.
MOST_FOLDERS = 2 + 2 * CLASSES


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitsTree:
    """A tree ``folder/train/0..9/*.png``, ``folder/val/0..9/*.png``.

    ``training`` and ``validation`` count images; ``written`` is False where it was there already.
    """

    folder: Path
    training: int
    validation: int
    written: bool
    classes: int = CLASSES


def write_digits(folder: Path | str) -> DigitsTree:
    """Write the digits into ``folder``, all or nothing; one that holds them already is unchanged.

    Raises DataError without scikit-learn, and where ``folder`` holds something else.
    """
    folder = Path(folder)
    images = dict(_images())
    training = sum(name.startswith("train/") for name in images)
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if empty:
        write_folder_atomically(folder, partial(_write, images))
    elif not _holds(folder, images):
        raise DataError(
            f"{folder} holds something else than the digits: choose another --out, or move it away"
        )
    validation = len(images) - training
    return DigitsTree(folder=folder, training=training, validation=validation, written=empty)


def _images() -> Iterator[tuple[str, Any]]:
    """The name of each file below the folder and its bytes (8, 8)."""
    try:
        found = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise DataError(
            f"the digits come with scikit-learn ({error}): python -m pip install scikit-learn"
        ) from error
    train = int(TRAIN_SHARE * len(found.target))
    for number, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
        split = "train" if number < train else "val"
        grey = np.rint(pixels * 255 / BRIGHTEST).astype(np.uint8)
        yield f"{split}/{label}/{number:04}.png", grey


def _write(images: dict[str, Any], folder: Path) -> None:
    for name, pixels in images.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)


def _holds(folder: Path, images: dict[str, Any]) -> bool:
    """Whether it holds these images, and nothing else."""
    try:
        # No more than there would be: the folder may be the root of the file system.
        found = islice(folder.rglob("*"), len(images) + MOST_FOLDERS + 1)
        files = {file.relative_to(folder).as_posix() for file in found if file.is_file()}
        return files == set(images) and all(
            np.array_equal(np.asarray(Image.open(folder / name)), pixels)
            for name, pixels in images.items()
        )
    except (OSError, SyntaxError):
        return False  # cut short by a crash, not an image, or a folder that may not be read
