"""Images of every mode, through the file formats that they come in, against known pixel values."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pictures import write_pictures
from PIL import Image

from dshrink.train.image_sets import open_images
from dshrink.train.pixels import to_8_bits
from dshrink.train.unreadable import UnreadableError

DEEP = np.array([[0, 255, 256, 0x8012, 65535]], np.uint16)
GREY = [[0, 0, 1, 0x80, 255]]
COLOUR = (200, 100, 50)


def stored(image: Image.Image, suffix: str) -> Image.Image:
    file = BytesIO()
    image.save(file, suffix)
    return Image.open(file)


def pgm(values: np.ndarray, largest: int) -> Image.Image:
    head = f"P5 {values.shape[1]} {values.shape[0]} {largest}\n".encode()
    return Image.open(BytesIO(head + values.astype(">u2").tobytes()))


@pytest.mark.parametrize(
    "image",
    [
        stored(Image.fromarray(DEEP), "png"),
        stored(Image.fromarray(DEEP), "tiff"),
        Image.frombytes("I;16B", (5, 1), DEEP.astype(">u2").tobytes()),
        pgm(DEEP, 65535),
        Image.fromarray(DEEP),
    ],
    ids=["png", "tiff", "big-endian", "pgm", "array"],
)
def test_16_bits_become_their_upper_8(image: Image.Image) -> None:
    assert np.asarray(to_8_bits(image, "L")).tolist() == GREY
    pixels = np.asarray(to_8_bits(image, "RGB"))
    assert pixels.shape == (1, 5, 3)
    assert all(pixels[..., channel].tolist() == GREY for channel in range(3))


def test_a_range_that_its_file_gives_is_used() -> None:
    assert np.asarray(to_8_bits(pgm(np.array([[0, 4095]]), 4095), "L")).tolist() == [[0, 255]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "CMYK", "HSV"])
def test_colours_of_other_modes_are_the_same(mode: str) -> None:
    image = Image.new("RGB", (1, 1), COLOUR).convert(mode)
    assert to_8_bits(image, "RGB").getpixel((0, 0)) == COLOUR
    assert to_8_bits(image, "L").getpixel((0, 0)) == 124  # 0.299 R + 0.587 G + 0.114 B


def test_transparency_is_left_out() -> None:
    clear = stored(Image.new("RGBA", (1, 1), (*COLOUR, 0)), "png")
    assert to_8_bits(clear, "RGB").getpixel((0, 0)) == COLOUR
    assert to_8_bits(Image.new("LA", (1, 1), (7, 0)), "RGB").getpixel((0, 0)) == (7, 7, 7)


def test_a_palette_has_its_colours_with_transparency_and_without() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*COLOUR, 0, 0, 255])
    image.putpixel((1, 0), 1)
    file = BytesIO()
    image.save(file, "png", transparency=b"\x00\x80")
    for one in (stored(image, "png"), Image.open(file)):
        found = to_8_bits(one, "RGB")
        assert [found.getpixel((x, 0)) for x in (0, 1)] == [COLOUR, (0, 0, 255)]


def test_one_bit_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    for mode, white in (("L", 255), ("RGB", (255, 255, 255))):
        assert to_8_bits(stored(image, "png"), mode).getpixel((1, 0)) == white


@pytest.mark.parametrize(
    ("kind", "said"), [(np.float32, "floating-point numbers"), (np.int32, "32-bit integers")]
)
def test_an_unknown_range_is_refused(kind: type, said: str) -> None:
    image = stored(Image.fromarray(DEEP.astype(kind)), "tiff")
    with pytest.raises(UnreadableError, match=f"{said} of unknown range: save it with 8 or 16"):
        to_8_bits(image, "RGB")


def test_data_sets_are_read_so(tmp_path: Path) -> None:
    tree = write_pictures(tmp_path)
    Image.fromarray(DEEP).save(tree / "val/class_0/0.png")
    images = open_images(tree, channels=1)
    assert np.asarray(images.validation.read(0)[0]).tolist() == GREY
    Image.fromarray(DEEP.astype(np.float32)).save(tree / "val/class_0/0.png", "tiff")
    with pytest.raises(UnreadableError, match=r"^pixels are floating-point"):
        images.validation.read(0)
