"""The real command on this machine, killed with -9 at random moments, then left to finish."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from latency_tables.io import load_table

KILLS = 5


def command(folder: Path) -> list[str]:
    code = "from dshrink.cli.main import main; main()"
    options = ["--resolution", "32", "--hold-out", "8", "--out", str(folder)]
    return [sys.executable, "-c", code, "profile", "mobilenetv2_035", *options]


def replies(folder: Path) -> int:
    journal = folder / "journal.jsonl"
    return journal.read_bytes().count(b'"line":"reply"') if journal.exists() else 0


@pytest.mark.slow
def test_a_profile_killed_five_times_ends_with_a_table_whose_rows_were_each_measured_once(
    tmp_path: Path,
) -> None:
    rng = random.Random(11)
    for _ in range(KILLS):
        before = replies(tmp_path)
        with subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL) as child:
            while replies(tmp_path) == before and child.poll() is None:
                time.sleep(0.05)  # past the start, so that each kill lands in the work
            time.sleep(rng.uniform(0.0, 8.0))
            child.kill()
    known = replies(tmp_path)
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reused = re.search(r"(\d+)\s+reused", done.stderr)
    assert reused is not None
    assert 0 < int(reused.group(1)) <= known

    accepted: Counter[tuple[str, int]] = Counter()
    for line in map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines()):
        if line["line"] == "reply":
            accepted[line["job"], line["round"]] += 1
        if line["line"] == "discard":
            accepted.subtract((job, line["round"]) for job in line["jobs"])
    table = load_table(tmp_path)
    assert set((+accepted).values()) == {1}
    for row in table.rows:
        assert all(accepted[row.digest, number] == 1 for number in range(2)), row.piece
    assert all(row.verdict for row in table.rows)
