"""The images that a refit reads: no image is in both parts, and they are the same ones again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dshrink.refit.images import CalibrationImages, calibration_images
from dshrink.train.errors import DataError
from dshrink.train.image_sets import Preprocessing, Split, open_unlabelled

#: Each image has a colour of its own, so that a crop of it is known by its first pixel.
COLOURS = 12
PREPROCESSING = Preprocessing(
    size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, crop=1.0, interpolation="bilinear"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flat")
    for number in range(COLOURS):
        pixels = np.full((10, 10, 3), 20 * number, dtype=np.uint8)
        pixels[..., 1] = 25 * np.arange(10)
        Image.fromarray(pixels).save(root / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def split(folder: Path) -> Split:
    found, labelled = open_unlabelled(str(folder))
    assert labelled is None and len(found) == COLOURS
    return found


def calibration(split: Split, count: int, seed: int = 0) -> CalibrationImages:
    device = torch.device("cpu")
    return calibration_images(split, PREPROCESSING, count=count, seed=seed, device=device)


def numbers(batches: object) -> list[int]:
    return [round(float(x[0].min()) * 255 / 20) for batch in batches for x in batch]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("count", "fit", "held"), [(2, 1, 1), (5, 4, 1), (10, 8, 2), (12, 10, 2), (40, 32, 8)]
)
def test_a_fifth_is_held_out_and_shares_no_image(
    split: Split, count: int, fit: int, held: int
) -> None:
    found = calibration(split, count)
    own, other = numbers(found.fit), numbers(found.held_out)
    assert (
        (len(own), len(other))
        == (fit, held)
        == (found.fit.batches.count, found.held_out.batches.count)
    )
    assert not set(own) & set(other)
    assert len(set(own + other)) == min(count, COLOURS)
    assert all(len(batch) <= 8 for batch in found.fit)


def test_the_same_batches_come_whenever_they_are_asked_for(split: Split) -> None:
    for count in (10, 40):
        first, again = calibration(split, count), calibration(split, count)
        one = list(first.fit)
        for other in (list(first.fit), list(again.fit)):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert numbers(calibration(split, 10, seed=1).fit) != numbers(calibration(split, 10).fit)


def test_where_images_are_few_each_gives_other_crops(split: Split) -> None:
    found = torch.cat(list(calibration(split, 40).fit))
    of_each: dict[float, set[bytes]] = {}
    for x in found:
        of_each.setdefault(float(x[0].min()), set()).add(x.numpy().tobytes())
    assert len(of_each) == 10
    assert sum(map(len, of_each.values())) > 24  # of 32
    # Enough of them: each once, as the network reads it to validate.
    whole = torch.cat(list(calibration(split, 12).fit))
    assert torch.equal(whole[:, 1], whole[:1, 1].expand(10, 8, 8))


@pytest.mark.parametrize("count", [1, 5])
def test_one_image_is_too_few(count: int, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    split, _ = open_unlabelled(str(tmp_path))
    with pytest.raises(DataError, match=r"1 image; a refit needs two") as caught:
        calibration(split, count)
    assert "\n" not in str(caught.value)


def test_pixels_are_normalised_as_the_network_reads_them(split: Split) -> None:
    device = torch.device("cpu")
    other = Preprocessing(
        size=(8, 8), mean=(0.25,) * 3, std=(0.5,) * 3, crop=1.0, interpolation="bilinear"
    )
    found = calibration_images(split, other, count=10, seed=0, device=device)
    plain = calibration(split, 10)
    for one, batch in zip(found.fit, plain.fit, strict=True):
        torch.testing.assert_close(one, (batch - 0.25) / 0.5)
