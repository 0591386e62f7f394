"""A network of nine convolutions, and pictures to train it on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import write_pictures

from dshrink.network.models import Network, load_network
from dshrink.train.feed import Feed
from dshrink.train.image_sets import open_images, preprocessing_of
from dshrink.train.settings import Augmentation, Training

#: Its four blocks can merge.
MODEL = "test_resnet"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 24 pictures to train on and 12 to validate."""
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", train=8)


@pytest.fixture(scope="session")
def network() -> Network:
    return load_network(MODEL, resolution=32, weights="random", classes=3)


@pytest.fixture
def training() -> Training:
    return Training(
        epochs=2, batch=8, learning_rate=0.02, augmentation=Augmentation(auto_augment="")
    )


@pytest.fixture
def make_feed(pictures: Path) -> Callable[..., Feed]:
    def make(settings: Training, **more: Any) -> Feed:
        preprocessing = preprocessing_of(MODEL, (32, 32))
        return Feed(
            images=open_images(pictures), preprocessing=preprocessing, settings=settings, **more
        )

    return make
