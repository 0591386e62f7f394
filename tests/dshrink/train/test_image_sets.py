"""Data sets of images, what tells them apart, and how a picture becomes a network's input."""

import hashlib
import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import write_pictures
from PIL import Image

from dshrink.train.augmentation import training_transform
from dshrink.train.errors import DataError
from dshrink.train.image_sets import Preprocessing, absolute, open_images, preprocessing_of
from dshrink.train.settings import Augmentation
from dshrink.train.unreadable import UnreadableError

PREPROCESSING = Preprocessing(
    size=(24, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop=0.75, interpolation="bilinear"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def test_validation_folders_may_have_either_name_and_fewer_classes(tree: Path) -> None:
    (tree / "val").rename(tree / "validation")
    shutil.rmtree(tree / "validation" / "class_0")
    images = open_images(tree)
    assert images.classes == ("class_0", "class_1", "class_2")
    assert {images.validation.read(n)[1] for n in range(len(images.validation))} == {1, 2}


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


def test_the_digest_of_a_tree_is_the_one_that_journals_hold(tmp_path: Path) -> None:
    for name, content in (("train/a/x", b"1"), ("train/b/y", b"22"), ("val/a/z", b"333")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / f"{name}.png").write_bytes(content)
    # Journals of importances are compared by it.
    entries = b"train/a/x.png\x000\x001\ntrain/b/y.png\x001\x002\nval/a/z.png\x000\x003\n"
    assert open_images(tmp_path).digest == hashlib.sha256(entries).hexdigest()[:16]


def test_a_tree_is_listed_and_not_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in tree.rglob("*.png"):
        file.chmod(0)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr("builtins.open", refused)
    monkeypatch.setattr(Image, "open", refused)
    images = open_images(tree)
    assert (len(images.train), len(images.validation)) == (18, 12)
    assert images.digest


def test_a_picture_is_read_as_the_network_was_trained_on_it(tree: Path) -> None:
    picture, label = open_images(tree).validation.read(5)
    pixels = PREPROCESSING.transform(None)(picture)
    assert (pixels.dtype, pixels.shape, label) == (torch.uint8, (3, 24, 24), 1)
    # 24 / 0.75 = 32 pixels: not resized, its centre is cut out.
    with Image.open(tree / "val/class_1/1.png") as file:
        whole = np.asarray(file).astype(np.float32)[4:28, 4:28] / 255
    wanted = (whole - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    found = PREPROCESSING.normalise(pixels[None])[0].permute(1, 2, 0).numpy()
    assert found == pytest.approx(wanted, abs=1e-5)


def test_mean_and_deviation_go_to_a_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    first = PREPROCESSING.normalise(pixels)
    monkeypatch.setattr(torch, "tensor", None)  # what copies a number from here to a device
    assert torch.equal(PREPROCESSING.normalise(pixels), first)
    assert first[0, :, 0, 0].tolist() == pytest.approx([-1.5, -2 / 3, -0.25])


def test_a_network_of_one_channel_is_shown_grey_pictures(tree: Path) -> None:
    assert open_images(tree, channels=1).train.read(0)[0].mode == "L"
    with pytest.raises(DataError, match="1 or 3 channels, the network wants 4"):
        open_images(tree, channels=4)


def test_the_preprocessing_is_that_of_the_published_weights() -> None:
    preprocessing = preprocessing_of("tf_efficientnet_lite0", (64, 64))
    assert (preprocessing.mean, preprocessing.crop, preprocessing.interpolation) == (
        (0.5, 0.5, 0.5),
        0.875,
        "bicubic",
    )
    assert preprocessing_of("torchvision:resnet18", (64, 64)).mean == (0.485, 0.456, 0.406)


# --------------------------------------------------------------------------------------------------
# What happens to a picture that is trained on.


def white(width: int = 40, height: int = 40) -> Image.Image:
    return Image.new("RGB", (width, height), (255, 255, 255))


def test_without_crop_flip_and_policy_a_picture_stays_as_it_is() -> None:
    plain = Augmentation(auto_augment="", crop_scale=(1.0, 1.0), flip=0.0, color_jitter=0.0)
    pixels = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)
    found = PREPROCESSING.transform(plain)(Image.fromarray(pixels))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels)
    flipped = PREPROCESSING.transform(
        Augmentation(auto_augment="", crop_scale=(1.0, 1.0), flip=1.0, color_jitter=0.0)
    )
    assert np.array_equal(
        flipped(Image.fromarray(pixels)).permute(1, 2, 0).numpy(), pixels[:, ::-1]
    )


def test_crops_keep_the_share_that_was_asked_for() -> None:
    # Each column of the picture has its own value, so a crop tells how wide it was.
    columns = np.tile(np.arange(240, dtype=np.uint8)[None, :, None], (240, 1, 3))
    widths = []
    for low in (0.9, 0.04):
        crops = PREPROCESSING.transform(
            Augmentation(auto_augment="", crop_scale=(low, low), flip=0.0, color_jitter=0.0)
        )
        found = crops(Image.fromarray(columns))[0].float()
        widths.append((found.max() - found.min()).item())
    assert widths[0] > 180  # of 240 x sqrt(0.9) = 228, at a ratio from 3/4 to 4/3
    assert widths[1] < 60  # of 240 x sqrt(0.04) = 48


def test_a_policy_and_jitter_change_colours() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    grey = Image.new("RGB", (32, 32), (100, 120, 140))
    jitter = PREPROCESSING.transform(Augmentation(auto_augment="", flip=0.0, color_jitter=0.4))
    assert {tuple(jitter(grey)[:, 0, 0].tolist()) for _ in range(5)} != {(100, 120, 140)}
    none = PREPROCESSING.transform(Augmentation(auto_augment="", flip=0.0, color_jitter=0.0))
    assert {tuple(none(grey)[:, 0, 0].tolist()) for _ in range(5)} == {(100, 120, 140)}
    policy = PREPROCESSING.transform(Augmentation(auto_augment="rand-m9-n4", color_jitter=0.0))
    assert any(len(policy(white()).unique()) > 1 for _ in range(10))


@pytest.mark.parametrize("policy", ["rand-m2-n4", "v0"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_strength_of_a_policy_is_applied(policy: str, channels: int) -> None:
    """timm asks for 0 bits of a colour here, which Pillow refuses."""
    found = training_transform(
        Augmentation(auto_augment=policy),
        (channels, 8, 8),
        interpolation="bilinear",
        mean=(0.5,) * channels,
    )
    picture = white(8, 8).convert({1: "L", 3: "RGB"}[channels])
    for _ in range(60):
        assert found(picture).shape == (channels, 8, 8)


@pytest.mark.parametrize("policy", ["rand-z3", "nonsense"])
def test_a_policy_that_timm_does_not_know_is_one_line(policy: str) -> None:
    wanted = rf"auto_augment '{policy}' is not a policy.*rand-m5"
    with pytest.raises(DataError, match=wanted) as caught:
        PREPROCESSING.transform(Augmentation(auto_augment=policy))
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------
# Data sets that timm knows by name.


class InMemory:
    """A data set as torchvision's are: a picture and a label by number."""

    def __init__(self, labels: list[int], **known: Any) -> None:
        self._labels = labels
        self.__dict__.update(known)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.new("L", (4, 4), number), self._labels[number]


class Hub(list[int]):
    """timm's data set of labels on the Hugging Face hub, which is read by its reader."""

    def __init__(self, labels: list[int]) -> None:
        super().__init__(labels)
        self.reader = Reader(labels, iter_targets=lambda: iter(labels))


class Reader(InMemory):
    """A picture's file and a label by number."""

    def __getitem__(self, number: int) -> tuple[Any, int]:
        picture, label = super().__getitem__(number)
        content = io.BytesIO()
        picture.save(content, "PNG")
        return io.BytesIO(content.getvalue()), label


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """``known(train=SET, validation=SET)`` is what timm knows; gives the list of what is asked."""

    def install(**splits: Any) -> list[Any]:
        asked: list[Any] = []

        def create_dataset(name: str, root: str | None, split: str) -> Any:
            asked.append((name, root, split))
            if split not in splits:
                raise ValueError(f'Unknown split "{split}".\nShould be one of {list(splits)}.')
            return splits[split]

        monkeypatch.setattr("timm.data.create_dataset", create_dataset)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
        return asked

    preprocessing_of("test_resnet", (8, 8))  # timm is imported before it is changed
    return install


def test_torchvisions_sets_are_read_by_number(known: Callable[..., list[Any]]) -> None:
    classes = {"cat": 1, "ape": 0, "tomcat": 1}
    train, val = InMemory([0, 1, 1], class_to_idx=classes), InMemory([1], class_to_idx=classes)
    asked = known(train=train, validation=val)
    images = open_images("torch/cifar10:some/where")
    assert asked == [("torch/cifar10", "some/where", s) for s in ("train", "validation")]
    assert images.classes == ("ape", "cat")
    assert (len(images.train), len(images.validation)) == (3, 1)
    picture, label = images.train.read(2)
    assert (picture.mode, picture.getpixel((0, 0)), label) == ("RGB", (2, 2, 2), 1)
    assert images.train.file(2) == "torch/cifar10 train, image 2"


def test_the_hubs_validation_part_may_be_called_test(known: Callable[..., list[Any]]) -> None:
    asked = known(train=Hub([0, 2]), test=Hub([0, 2]))
    images = open_images("hfds/owner/Name")
    assert asked[-1] == ("hfds/owner/Name", None, "test")
    assert images.classes == ("0", "1", "2")  # by the largest label, where nothing has a name
    picture, label = images.validation.read(1)
    assert (picture.getpixel((0, 0)), label) == ((1, 1, 1), 2)


def test_the_digest_of_a_named_set_is_of_its_name_and_lengths(
    known: Callable[..., list[Any]],
) -> None:
    found = []
    for name, lengths in (("torch/a:x", 2), ("torch/a:y", 2), ("torch/b:x", 2), ("torch/a:x", 3)):
        part = InMemory([0, 1, 0][:lengths], targets=[0, 1])
        known(train=part, validation=part)
        found.append(open_images(name).digest)
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("data", "splits", "said"),
    [
        ("cifar10", {}, "no such folder.*torch/cifar10:PATH"),
        ("folder:nowhere", {}, "nowhere: no such folder"),
        ("torch/cifar10", {}, "give its folder too, such as torch/cifar10:PATH"),
        ("tfds/mnist", {}, "tfds/ sets are read from one end to the other"),
        ("wds/set:there", {}, "wds/ sets are read from one end to the other"),
        ("torch/nosuch:there", {}, "cannot open its train part.*Unknown split"),
        ("hfds/x", {"train": InMemory([0, 1], targets=[0, 1])}, "cannot open its validation part"),
        (
            "torch/x:there",
            {"train": InMemory([0], targets=[0, 1]), "validation": InMemory([0], targets=[0, 2])},
            "other classes to validate on",
        ),
        ("torch/x:y", dict.fromkeys(("train", "test"), InMemory([0])), "does not say its classes"),
        (
            "torch/x:y",
            dict.fromkeys(("train", "test"), InMemory([0], targets=[0])),
            r"only one class \(0\)",
        ),
    ],
)
def test_a_named_set_that_cannot_be_used_is_one_line(
    known: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    data: str,
    splits: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    known(**splits)
    with pytest.raises(DataError, match=said) as caught:
        open_images(data)
    assert "\n" not in str(caught.value)


def test_torchvisions_own_refusals_are_one_line(tmp_path: Path) -> None:
    for name, said in (("cifar10", "not found or corrupted"), ("nosuch", "Unknown torchvision")):
        with pytest.raises(DataError, match=said) as caught:
            open_images(f"torch/{name}:{tmp_path}")
        assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install datasets"):
        open_images("hfds/owner/name")


def test_a_folder_goes_before_a_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree.parent / "hfds").mkdir()
    tree.rename(tree.parent / "hfds" / "mine")
    monkeypatch.chdir(tree.parent)
    assert open_images("hfds/mine").classes == ("class_0", "class_1", "class_2")
    assert len(open_images(f"folder:{tree.parent}/hfds/mine").train) == 18


def test_a_data_set_is_the_same_from_another_folder(tmp_path: Path) -> None:
    here = os.fspath(Path.cwd())
    assert absolute("a/b") == absolute("folder:a/b") == f"{here}/a/b"
    assert absolute("torch/cifar10:a") == f"torch/cifar10:{here}/a"
    assert absolute("hfds/owner/name") == "hfds/owner/name"


def test_a_pipe_among_the_images_is_unreadable_and_not_waited_for(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "pictures", train=2)
    split = open_images(root).train
    file = Path(split.source.reader.samples[0][0])
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UnreadableError, match="no regular file"):
        split.read(0)
    assert split.read(1)[1] == 0


def test_a_file_name_that_is_no_utf_8_has_a_digest_and_a_printable_name(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "pictures", train=2)
    before = open_images(root)
    assert before.digest
    first = Path(before.train.source.reader.samples[0][0])
    first.rename(first.with_name(os.fsdecode(b"a\xff.png")))
    after = open_images(root)
    assert after.digest != before.digest
    (number,) = (n for n in range(2) if "\\udcff" in after.train.file(n))
    after.train.file(number).encode()
    assert after.train.read(number)[1] == 0
