"""Folders of images, and batches that are the same whoever reads them."""

import random
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_pictures
from PIL import Image

from dshrink.train.data import Batches, Look, look_of, open_images, sampled, shuffled
from dshrink.train.errors import DataError

LOOK = Look(
    size=(24, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop=0.75, interpolation="bilinear"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def batches(
    tree: Path, *, epochs: int = 1, workers: int = 0, cache_bytes: int = 1 << 20
) -> Batches:
    images = open_images(tree)
    picks = shuffled(len(images.train), 6, 3 * epochs, seed=1)
    return Batches(
        images=images.train,
        transform=LOOK.transform(augment=True),
        picks=picks,
        seed=1,
        workers=workers,
        cache_bytes=cache_bytes,
    )


def pixels(found: Batches) -> torch.Tensor:
    return torch.cat([pictures for pictures, _ in found])


def test_validation_folders_may_have_either_name_and_fewer_classes(tree: Path) -> None:
    (tree / "val").rename(tree / "validation")
    shutil.rmtree(tree / "validation" / "class_0")
    images = open_images(tree)
    assert images.classes == ("class_0", "class_1", "class_2")
    assert {label for _, label in images.validation.reader.samples} == {1, 2}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tree: shutil.rmtree(tree), "no such folder"),
        (lambda tree: shutil.rmtree(tree / "val"), "no folder val/ or validation/"),
        (lambda tree: [p.unlink() for p in (tree / "train").rglob("*.png")], "no images in it"),
        (lambda tree: shutil.copy(tree / "val/class_0/0.png", tree / "train"), "without a class"),
        (lambda tree: (tree / "val/class_0").rename(tree / "val/other"), "class 'other' is not"),
        (
            lambda tree: [
                shutil.rmtree(tree / s / c)
                for s in ("train", "val")
                for c in ("class_0", "class_1")
            ],
            "only one class",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    tree: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(tree)
    with pytest.raises(DataError, match=said) as caught:
        open_images(tree)
    assert "\n" not in str(caught.value)


def test_the_digest_is_of_the_files_and_not_of_their_place(tree: Path, tmp_path: Path) -> None:
    digest = open_images(tree).digest
    copied = shutil.copytree(tree, tmp_path / "elsewhere")
    assert open_images(copied).digest == digest
    (copied / "val/class_1/0.png").unlink()
    assert open_images(copied).digest != digest


def test_a_picture_is_read_as_the_network_was_trained_on_it(tree: Path) -> None:
    images = open_images(tree)
    read = Batches(
        images=images.validation, transform=LOOK.transform(augment=False), picks=[[(0, 5)]], seed=0
    )
    [(pictures, labels)] = read
    # 24 / 0.75 = 32 pixels: not resized, its centre is cut out.
    with Image.open(images.validation.reader.samples[5][0]) as file:
        whole = np.asarray(file).astype(np.float32)[4:28, 4:28] / 255
    wanted = (whole - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    found = LOOK.normalise(pictures)[0].permute(1, 2, 0).numpy()
    assert found == pytest.approx(wanted, abs=1e-5)
    assert labels.tolist() == [1]


def test_pictures_depend_on_seed_epoch_and_image_alone(tree: Path) -> None:
    first = pixels(batches(tree, epochs=2))
    random.seed(99)
    torch.manual_seed(99)
    assert torch.equal(pixels(batches(tree, epochs=2, workers=1)), first)
    assert torch.equal(pixels(batches(tree, epochs=2, cache_bytes=0)), first)
    # Another epoch has other crops of the same images.
    assert first[:18].float().mean() != first[18:].float().mean()


def test_batches_come_again_from_memory_or_from_disk(tree: Path) -> None:
    kept, read = batches(tree), batches(tree, cache_bytes=100)
    first = pixels(kept)
    assert torch.equal(pixels(read), first)
    shutil.rmtree(tree)
    assert torch.equal(pixels(kept), first)
    with pytest.raises((RuntimeError, OSError)):
        pixels(read)


def test_batches_that_do_not_fit_are_not_held_to_the_end(tree: Path) -> None:
    size = 6 * 3 * 24 * 24  # bytes of a batch; there are three, and two fit
    found = batches(tree, cache_bytes=2 * size)
    alive = []
    for pictures, _ in found:
        alive.append(weakref.ref(pictures))
        held = sum(one() is not None for one in alive)
        assert held == len(alive) if len(alive) < 3 else held == 1
    # A later pass knows that they do not fit, and holds none but the one that is looked at.
    alive = []
    for pictures, _ in found:
        alive.append(weakref.ref(pictures))
        assert sum(one() is not None for one in alive) == 1


def test_reading_leaves_the_random_numbers_of_others_alone(tree: Path) -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    wanted = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    pixels(batches(tree))
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == wanted


def test_an_epoch_is_every_image_once_but_for_what_fills_no_batch() -> None:
    found = shuffled(10, 3, 6, seed=0)
    assert [len(batch) for batch in found] == [3] * 6
    epochs = [found[:3], found[3:]]
    for number, epoch in enumerate(epochs):
        picks = [pick for batch in epoch for pick in batch]
        assert {epoch for epoch, _ in picks} == {number}
        assert len({image for _, image in picks}) == 9
    first, second = ([image for batch in epoch for _, image in batch] for epoch in epochs)
    assert first != second
    assert [len(batch) for batch in shuffled(2, 8, 1, seed=0)] == [2]


def test_a_sample_of_the_validation_images_is_drawn_once() -> None:
    drawn = [image for batch in sampled(1000, 64, 100, seed=5) for _, image in batch]
    assert len(set(drawn)) == 100
    assert drawn == sorted(drawn)
    assert drawn != list(range(100))
    assert drawn == [image for batch in sampled(1000, 7, 100, seed=5) for _, image in batch]
    assert sampled(3, 2, None, seed=0) == [[(0, 0), (0, 1)], [(0, 2)]]
    assert sampled(3, 2, 9, seed=0) == [[(0, 0), (0, 1)], [(0, 2)]]


def test_the_look_is_that_of_the_published_weights() -> None:
    look = look_of("tf_efficientnet_lite0", (64, 64))
    assert (look.mean, look.crop, look.interpolation) == ((0.5, 0.5, 0.5), 0.875, "bicubic")
    assert look_of("torchvision:resnet18", (64, 64)).mean == (0.485, 0.456, 0.406)


def test_an_image_that_cannot_be_read_is_named(tree: Path) -> None:
    (tree / "train/class_1/3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"train/class_1/3.png: not a readable image"):
        pixels(batches(tree))
