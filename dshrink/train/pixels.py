"""Images of every mode of Pillow's as the 8 bits a channel that networks are shown.

Pillow clips what it converts from more bits, so that a 16-bit image becomes a white one. Here its
upper 8 bits are taken, as Pillow does for 16-bit images in colour. Transparency is left out, as
timm and torchvision do: what lies below it is shown.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from dshrink.train.unreadable import UnreadableError

#: Formats that are read into 32-bit integers, and hold 16 bits.
_16_BIT_FORMATS = ("PNG", "PPM")
_UNKNOWN_RANGE = {"I": "32-bit integers", "F": "floating-point numbers"}


def to_8_bits(image: Image.Image, mode: str) -> Image.Image:
    """The image in ``mode`` ("RGB", "L"). Raises UnreadableError where its range is not known."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _16_BIT_FORMATS):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if kind := _UNKNOWN_RANGE.get(image.mode):
        raise UnreadableError(f"pixels are {kind} of unknown range: save it with 8 or 16 bits")
    if image.mode == "P":
        # Without this step Pillow warns of a palette with transparency.
        image = image.convert("RGBA")
    return image.convert(mode)
