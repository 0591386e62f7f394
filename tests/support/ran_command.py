"""A command that was run in this process through the entry point, and what it gave."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from dshrink.cli import main as entry


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


def run_command(
    words: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Ran:
    """Run ``dshrink WORDS``: a user's error takes the way that it takes in a shell."""
    monkeypatch.setattr(sys, "argv", ["dshrink", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        entry.main()
    captured = capsys.readouterr()
    return Ran(int(end.value.code or 0), captured.out, captured.err)
