"""A small network with weights in a file, pictures of its classes, and what a refit of it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pictures import write_pictures
from refit_networks import SIZE, mobile
from refit_runs import MODEL, PLAN, invoke, refused
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", train=8, size=SIZE)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "mobile.safetensors"
    save_file(mobile(classes=3).state_dict(), file)
    return file


@pytest.fixture(scope="session")
def words(weights: Path, pictures: Path) -> list[str]:
    """Of a refit, but for its folder."""
    return [
        *("refit", *MODEL, "--plan", PLAN, "--weights", str(weights)),
        *("--data", str(pictures), "--images", "20"),
    ]


@pytest.fixture(scope="session")
def refitted(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``folder``, and the ``result`` as JSON."""
    folder = tmp_path_factory.mktemp("refitted") / "my refit"
    ran = invoke(*words, "--out", folder, "--json")
    return SimpleNamespace(folder=folder, result=json.loads(ran.stdout), said=ran.stderr)


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The one line that a command ends with, as a terminal has it."""
    return partial(refused, monkeypatch, capsys)
