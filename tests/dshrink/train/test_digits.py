"""The digits as a folder of images, and the command that writes it."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dshrink.cli import data
from dshrink.train.digits import write_digits
from dshrink.train.errors import DataError
from dshrink.train.image_sets import open_images

datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "new" / "digits"
    assert write_digits(folder).written
    return folder


def test_the_tree_holds_every_digit_as_scikit_learn_has_it(tree: Path) -> None:
    known = datasets.load_digits()
    images = open_images(tree, channels=1)
    assert images.classes == tuple("0123456789")
    assert (len(images.train), len(images.validation)) == (1078, 719)
    for split, first in ((images.train, 0), (images.validation, 1078)):
        numbers = [int(Path(split.file(n)).stem) for n in range(len(split))]
        assert sorted(numbers) == list(range(first, first + len(split)))
        labels = Counter(known.target[number] for number in numbers)
        assert Counter(split.read(n)[1] for n in range(len(split))) == labels
    with Image.open(tree / "train/0/0000.png") as picture:
        assert (picture.mode, picture.size) == ("L", (8, 8))
        assert np.asarray(picture) == pytest.approx(known.images[0] / 16 * 255, abs=0.5)
    assert sorted(path.name for path in tree.iterdir()) == ["train", "val"]
    assert [path.name for path in tree.parent.iterdir()] == ["digits"]


def test_what_is_there_already_is_left_as_it_is(tree: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in tree.rglob("*")}
    again = write_digits(tree)
    assert (again.written, again.training, again.validation) == (False, 1078, 719)
    assert {file: file.stat().st_mtime_ns for file in tree.rglob("*")} == before


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Digits that are but three, for what does not depend on how many there are."""
    names = ("train/0/0000.png", "train/1/0001.png", "val/0/0002.png")
    found: dict[str, Any] = {name: np.eye(8, dtype=np.uint8) for name in names}
    monkeypatch.setattr("dshrink.train.digits._images", found.items)
    return found


def blank(file: Path) -> None:
    Image.new("L", (8, 8)).save(file)


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        blank,
        lambda file: file.write_bytes(b""),
        lambda file: blank(file.with_name("more.png")),
    ],
)
def test_a_folder_with_something_else_is_not_written_over(
    few: dict[str, Any], tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()  # an empty one may be there
    assert [write_digits(folder).written for _ in range(2)] == [True, False]
    spoil(folder / "train/1/0001.png")
    before = {file: file.read_bytes() for file in folder.rglob("*.png")}
    with pytest.raises(DataError, match=r"something else.*another --out") as caught:
        write_digits(folder)
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in folder.rglob("*.png")} == before


def test_no_more_of_a_folder_is_looked_at_than_the_digits_are(
    few: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the root of the file system, parts of which may not be read."""
    (tmp_path / "a file").touch()

    def without_end(folder: Path, pattern: str) -> Iterator[Path]:
        yield from (folder / str(number) for number in range(len(few) + 50))
        raise PermissionError(13, "Permission denied", "/proc/1/cwd")

    monkeypatch.setattr(Path, "rglob", without_end)
    with pytest.raises(DataError, match="something else"):
        write_digits(tmp_path)


def test_what_is_interrupted_leaves_nothing(few: dict[str, Any], tmp_path: Path) -> None:
    few["val/0/0003.png"] = "no pixels"
    with pytest.raises(AttributeError):
        write_digits(tmp_path / "digits")
    assert not list(tmp_path.iterdir())


def test_without_scikit_learn_there_is_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn") as caught:
        write_digits(tmp_path / "digits")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_there_is(few: dict[str, Any], tmp_path: Path) -> None:
    app = typer.Typer()
    app.add_typer(data.app, name="data")
    words = ["data", "digits", "--out", str(tmp_path / "digits")]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0
    assert "2 training images of 10 digits, 1 validation images by other writers" in first.stdout
    assert "already" not in first.stdout
    assert "already" in CliRunner().invoke(app, words).stdout
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout) == {
        "schema": "dshrink.output.data_digits",
        "schema_version": 1,
        "folder": str(tmp_path / "digits"),
        "classes": 10,
        "training_images": 2,
        "validation_images": 1,
        "written": False,
    }
