"""A network of nine convolutions, and pictures to judge it by."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import write_pictures

from dshrink.importance.run import Measurement
from dshrink.importance.settings import Level, Settings


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def settings(pictures: Path) -> Settings:
    return Settings(
        model="test_resnet",
        data=str(pictures),
        level=Level.parse("recalibrate:2"),
        resolution=32,
        weights="random",
        batch=8,
    )


@pytest.fixture(scope="session")
def finished(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished") / "importance.csv"
    Measurement(settings=settings, out=out).run()
    return out
