"""Batches that are the same whoever reads them, also where some images cannot be read."""

import random
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_pictures
from PIL import Image

from dshrink.train.batches import Batches, ImageDataset, collate, read_batches, sampled, shuffled
from dshrink.train.errors import DataError
from dshrink.train.image_sets import Images, Preprocessing, open_images
from dshrink.train.settings import Augmentation
from dshrink.train.unreadable import Unreadable, UnreadableImages

PREPROCESSING = Preprocessing(
    size=(24, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop=0.75, interpolation="bilinear"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def batches(
    tree: Path, *, epochs: int = 1, workers: int = 0, cache_bytes: int = 1 << 20
) -> Batches:
    images = open_images(tree)
    indices = shuffled(len(images.train), 6, 3 * epochs, seed=1)
    transform = PREPROCESSING.transform(Augmentation())
    return Batches(
        dataset=ImageDataset(images.train, transform, seed=1, replace=False),
        indices=indices,
        workers=workers,
        cache_bytes=cache_bytes,
    )


def pixels(found: Batches) -> torch.Tensor:
    return torch.cat([pictures for pictures, _ in found])


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
    with pytest.raises(DataError, match="No such file"):
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
        indices = [divmod(index, 10) for batch in epoch for index in batch]
        assert {epoch for epoch, _ in indices} == {number}
        assert len({image for _, image in indices}) == 9
    first, second = ([index % 10 for batch in epoch for index in batch] for epoch in epochs)
    assert first != second
    assert [len(batch) for batch in shuffled(2, 8, 1, seed=0)] == [2]


def test_a_sample_of_the_validation_images_is_drawn_once() -> None:
    drawn = [image for batch in sampled(1000, 64, 100, seed=5) for image in batch]
    assert len(set(drawn)) == 100
    assert drawn == sorted(drawn)
    assert drawn != list(range(100))
    assert drawn == [image for batch in sampled(1000, 7, 100, seed=5) for image in batch]
    assert sampled(3, 2, None, seed=0) == [[0, 1], [2]]
    assert sampled(3, 2, 9, seed=0) == [[0, 1], [2]]


# --------------------------------------------------------------------------------------------------
# Images that cannot be read: their numbers in the tree of three classes with six or four each.


def spoil(images: Images, *numbers: int, split: str = "train") -> None:
    """A file that is no picture, one cut short, one that is empty, and so on in turn."""
    for at, number in enumerate(numbers):
        file = Path(getattr(images, split).file(number))
        whole = file.read_bytes()
        file.write_bytes((b"no picture", whole[: len(whole) // 2], b"")[at % 3])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_readable_image_takes_the_place_of_one_that_is_not(
    tree: Path, workers: int
) -> None:
    images = open_images(tree)
    spoil(images, 3, 4, 17)
    unreadable = UnreadableImages()
    found = ImageDataset(images.train, PREPROCESSING.transform(None), seed=0, replace=True)
    indices = [[2, 3, 4], [5, 17, 0]]
    first, second = read_batches(found, indices, workers=workers, unreadable=unreadable)
    assert first[1].tolist() == [0, 0, 0]
    assert torch.equal(first[0][1], first[0][2])  # both places show image 5
    assert torch.equal(first[0][1], second[0][0])
    assert not torch.equal(first[0][0], first[0][1])
    assert second[1].tolist() == [0, 0, 0]
    assert torch.equal(second[0][1], second[0][2])  # behind the last one comes the first
    # Image 4 was met twice and is told once, from the worker's process too.
    names = ("class_0/3.png", "class_0/4.png", "class_2/5.png")
    assert list(unreadable.reasons) == [str(tree / "train" / name) for name in names]
    reasons = list(unreadable.reasons.values())
    assert "cannot identify image file" in reasons[0]
    assert "truncated" in reasons[1] or "Truncated" in reasons[1]


def test_a_place_has_random_numbers_of_its_own(tree: Path) -> None:
    images = open_images(tree)
    spoil(images, 3)
    augmented = ImageDataset(
        images.train, PREPROCESSING.transform(Augmentation()), seed=0, replace=True
    )
    taken, own = augmented[3], augmented[4]
    assert taken.label == own.label
    assert not torch.equal(taken.pixels, own.pixels)
    assert torch.equal(taken.pixels, augmented[3].pixels)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_validation_image_is_left_out(tree: Path, workers: int) -> None:
    images = open_images(tree)
    spoil(images, 1, 4, 5, split="validation")
    found = Batches(
        dataset=ImageDataset(
            images.validation, PREPROCESSING.transform(None), seed=0, replace=False
        ),
        indices=sampled(12, 2, None, seed=0),
        workers=workers,
    )
    for _ in range(2):  # from disk and from memory
        # Images 4 and 5 were all of a batch.
        assert [labels.tolist() for _, labels in found] == [[0], [0, 0], [1, 1], [2, 2], [2, 2]]
    assert len(found.unreadable.reasons) == 3
    with Image.open(images.validation.file(0)) as file:
        centre = torch.tensor(np.asarray(file)[4:28, 4:28]).permute(2, 0, 1)
    assert torch.equal(next(iter(found))[0][0], centre)


def test_every_pick_has_its_batch_even_where_all_of_it_is_left_out(tree: Path) -> None:
    images = open_images(tree)
    spoil(images, 4, 5, split="validation")
    found = ImageDataset(images.validation, PREPROCESSING.transform(None), seed=0, replace=False)
    shapes = [
        tuple(pictures.shape)
        for pictures, _ in read_batches(
            found, sampled(6, 2, None, seed=0), unreadable=UnreadableImages()
        )
    ]
    assert shapes == [(2, 3, 24, 24), (2, 3, 24, 24), (0, 3, 24, 24)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("replace", [False, True])
def test_where_nothing_can_be_read_the_last_reason_is_told(
    tree: Path, replace: bool, workers: int
) -> None:
    images = open_images(tree)
    spoil(images, *range(18))
    found = ImageDataset(images.train, PREPROCESSING.transform(None), seed=0, replace=replace)
    read = read_batches(
        found, sampled(18, 6, None, seed=0), workers=workers, unreadable=UnreadableImages()
    )
    said = "18 images in a row" if replace else "all images of .*train"
    with pytest.raises(DataError, match=rf"{said} cannot be read, the last .*\.png") as caught:
        list(read)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_may_stop_at_the_first_unreadable_image(tree: Path, workers: int) -> None:
    (tree / "train/class_1/3.png").write_bytes(b"no picture")
    found = batches(tree, workers=workers)
    found.unreadable.on = Unreadable.STOP
    said = r"train/class_1/3.png: not a readable image \(.*--unreadable skip"
    with pytest.raises(DataError, match=said) as caught:
        pixels(found)
    assert "\n" not in str(caught.value)


def test_an_image_without_a_label_is_none(tree: Path) -> None:
    images = open_images(tree)
    images.train.source.reader.samples[2] = (images.train.file(2), -1)
    found = ImageDataset(images.train, PREPROCESSING.transform(None), seed=0, replace=True)
    loaded = collate([found[2]])
    assert (loaded.labels.tolist(), list(loaded.unreadable.values())) == ([0], ["it has no label"])


def test_unreadable_images_are_counted_and_the_first_named() -> None:
    found = UnreadableImages()
    assert found.line == ""
    found.add({"a.png": "cut short"})
    assert found.line.startswith("1 image could not be read, and the run continued without: a.png")
    found.add({"a.png": "cut short", "b.png": "empty", "c.png": "x", "d.png": "x", "e.png": "x"})
    assert found.line.startswith("5 images could not")
    assert found.line.endswith("a.png (cut short), b.png (empty), c.png (x) and 2 more")
