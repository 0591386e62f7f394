"""What a journal says was measured, counted from its lines alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path


def accepted_replies(folder: Path) -> Counter[tuple[str, int]]:
    """How many replies count for each (job, round): one each, or something was lost or doubled.

    None of them may be a failure.
    """
    counts: Counter[tuple[str, int]] = Counter()
    failures: set[tuple[str, int]] = set()
    for line in map(json.loads, (folder / "journal.jsonl").read_text().splitlines()):
        if line["line"] == "reply":
            counts[line["job"], line["round"]] += 1
            if "error" in line:
                failures.add((line["job"], line["round"]))
        if line["line"] == "discard":
            gone = {(job, line["round"]) for job in line["jobs"]}
            counts.subtract(gone)
            failures -= gone
    assert min(counts.values(), default=0) >= 0
    assert not failures
    return +counts
