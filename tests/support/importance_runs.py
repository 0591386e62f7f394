"""Journals of importances as tests want them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dshrink.importance.journal import journal_path

# Of the small network; keys that leave it as it is share it; the original, not tuned, is one more.
KEYS, NETWORKS = 28, 18


def evaluations(path: Path) -> list[dict[str, Any]]:
    """The lines behind a journal's first."""
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def begin(out: Path, finished: Path, count: int) -> Path:
    """The journal of a run that has already evaluated the first ``count`` networks."""
    lines = journal_path(finished, None).read_text().splitlines(keepends=True)
    journal = journal_path(out, None)
    journal.write_text("".join(lines[: 1 + count]))
    return journal
