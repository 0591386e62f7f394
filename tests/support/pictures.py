"""Small folders of images that a network can learn to tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(
    root: Path, *, classes: int = 3, train: int = 6, val: int = 4, size: int = 32
) -> Path:
    """Random pictures below ``root``/train/CLASS and ``root``/val/CLASS: each class has a tint."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(classes):
            folder = root / split / f"class_{number}"
            folder.mkdir(parents=True)
            for image in range(count):
                pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                pixels[..., number % 3] //= 3
                Image.fromarray(pixels).save(folder / f"{image}.png")
    return root
