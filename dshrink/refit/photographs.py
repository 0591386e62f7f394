"""A few photographs that come with packages which dshrink needs anyway: images without a download.

They are enough to fit a few merged convolutions and to see what that does, and far too few to say
how accurate a network is.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

from dshrink.train.errors import DataError


def write_photographs(folder: Path) -> tuple[Path, ...]:
    """Copy the photographs of scikit-learn and matplotlib into ``folder``, unless they are there.

    Raises DataError where fewer than the two that a refit needs are found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = tuple(_copied(one, folder / one.name) for one in _found())
    if len(written) < 2:
        raise DataError(
            f"{folder}: of the photographs of scikit-learn and matplotlib {len(written)} can be "
            "found: give a folder of your own images, --data DIR"
        )
    return written


def _copied(photograph: Path, place: Path) -> Path:
    if not place.exists():
        shutil.copyfile(photograph, place)
    return place


def _found() -> Iterator[Path]:
    for name in ("china.jpg", "flower.jpg"):
        with as_file(files("sklearn.datasets.images").joinpath(name)) as path:
            yield path
    data = importlib.import_module("matplotlib").get_data_path()
    # Some distributions package matplotlib without its samples.
    if (portrait := Path(data) / "sample_data" / "grace_hopper.jpg").exists():
        yield portrait
