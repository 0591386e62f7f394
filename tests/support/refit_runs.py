"""Commands that refit the small mobile network, and what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from refit_networks import MOBILE, SIZE
from safetensors.torch import load_file
from typer.testing import CliRunner

from dshrink.cli.main import app, main

#: How commands name the network, with as many classes as the pictures have.
MODEL = [MOBILE, "--model-arg", "classes=3", "--resolution", str(SIZE)]
PLAN = "mask:011"


def invoke(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether the weights of two folders are equal bit by bit."""
    first, second = state_of(one), state_of(other)
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: Any
) -> str:
    """The one line that a command which is refused ends with."""
    monkeypatch.setattr("sys.argv", ["dshrink", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line
