"""docs/python.md is one session, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_session_of_the_page_runs_word_for_word_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a block prints is shown below it; nothing else is printed, on either stream."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.M | re.S)
    assert sum(kind == "python" for kind, _ in blocks) > 10
    session: dict[str, Any] = {"__name__": "__main__"}
    for number, (kind, body) in enumerate(blocks):
        if kind == "python":
            exec(compile(body, f"{PAGE.name}, block {number}", "exec"), session)
            shown = blocks[number + 1][1] if blocks[number + 1 :][:1] else ""
            is_shown = number + 1 < len(blocks) and blocks[number + 1][0] == "text"
            assert capfd.readouterr() == (shown if is_shown else "", "")
