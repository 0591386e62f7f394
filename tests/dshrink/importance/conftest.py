"""A network of nine convolutions, and pictures to evaluate it by."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import write_pictures

from dshrink.importance.run import ImportanceRun
from dshrink.importance.settings import ImportanceSettings, Level
from dshrink.network.references import ModelChoice


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def settings(pictures: Path) -> ImportanceSettings:
    return ImportanceSettings(
        choice=ModelChoice(model="test_resnet", resolution=(32, 32), weights="random"),
        data=str(pictures),
        level=Level.parse("recalibrate:2"),
        batch=8,
    )


@pytest.fixture(scope="session")
def finished(settings: ImportanceSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished") / "importance.csv"
    ImportanceRun(settings=settings, out=out).run()
    return out
