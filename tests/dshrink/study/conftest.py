"""The network and the images of the tiny studies."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import write_pictures

from dshrink.network.models import Network, load_network


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 24 images to train on and 12 to validate."""
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", train=8)


@pytest.fixture(scope="session")
def network() -> Network:
    """Nine convolutions in four blocks, all of which can merge."""
    return load_network("test_resnet", resolution=32, weights="random", classes=3)
