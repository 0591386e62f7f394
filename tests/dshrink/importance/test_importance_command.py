"""``dshrink importance`` as a user gives it."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dshrink.cli import main as entry
from dshrink.importance.journal import journal_path
from dshrink.search.dp.files import load_unevaluated


@dataclass
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture
def importance(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """``importance("--level", "steps:3")`` of the small network."""

    def run(*words: object) -> Ran:
        given = ["dshrink", "importance", "test_resnet", "--resolution", "32", *map(str, words)]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as end:
            entry.main()
        captured = capsys.readouterr()
        return Ran(int(end.value.code or 0), captured.out, captured.err)

    return run


def test_the_command_writes_the_table_and_says_where(
    importance: Any, finished: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.csv"
    journal_path(out, None).write_bytes(journal_path(finished, None).read_bytes())
    words = ["--data", pictures, "--level", "recalibrate:2", "--weights", "random"]
    ran = importance(*words, "--batch", 8, "--out", out, "--json")
    assert ran.status == 0
    assert json.loads(ran.out) == {
        "schema": "dshrink.output.importance",
        "schema_version": 1,
        "evaluated": 0,
        "reused": 18,
        "shard": None,
        "file": str(out),
        "keys": 28,
        "missing": [],
        "original_accuracy_percent": pytest.approx(100 / 3),
    }
    assert "28 keys of test_resnet; 18 networks to evaluate, 18 of them" in ran.err
    assert out.read_bytes() == finished.read_bytes()
    shard = importance(*words, "--batch", 8, "--out", out, "--shard", "2/2")
    assert (shard.status, shard.err.count("in shard 2/2")) == (0, 1)
    assert shard.out.startswith("shard 2/2: 0 networks evaluated, 9 known before")


def test_keys_without_a_value_are_named_and_end_the_command_with_status_1(
    importance: Any, finished: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.csv"
    lines = journal_path(finished, None).read_text().splitlines()
    [lost] = [number for number, line in enumerate(lines) if '"mask":"011111111"' in line]
    lines[lost] = json.dumps({**json.loads(lines[lost]), "reason": "out of memory"})
    journal_path(out, None).write_text("\n".join(lines) + "\n")
    words = ["--data", pictures, "--level", "recalibrate:2", "--weights", "random", "--batch", 8]
    ran = importance(*words, "--out", out)
    assert ran.status == 1
    assert "key (0, 2, 1, 1) has no value: out of memory" in ran.err
    assert "1 of 28 keys have no value" in ran.err
    assert len(out.read_text().splitlines()) == 28  # the header, and all keys but one
    assert load_unevaluated(out, "test_resnet.tagged") == {(0, 2, 1, 1)}
    again = importance(*words, "--out", out, "--retry-failed", "--json")
    assert (again.status, json.loads(again.out)["missing"]) == (0, [])
    assert out.read_bytes() == finished.read_bytes()
    assert load_unevaluated(out, "test_resnet") == frozenset()


def test_unreadable_images_stop_a_measurement_unless_they_may_be_skipped(
    importance: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = shutil.copytree(pictures, tmp_path / "pictures")
    (tree / "val/class_2/0.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    words = ["--data", "folder:pictures", "--level", "recalibrate:1", "--weights", "random"]
    words += ["--batch", "8", "--out", "mine.csv", "--shard", "1/18"]
    stopped = importance(*words)
    assert stopped.status == 2
    assert "cannot be evaluated: " in stopped.err
    assert f"{tree}/val/class_2/0.png: not a readable image" in stopped.err
    skipped = importance(*words, "--unreadable", "skip", "--retry-failed")
    assert skipped.status == 0
    assert "1 image could not be read" in skipped.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere", "--level", "steps:1", "--out", "a.csv"], "no such folder"),
        (["--data", "nowhere", "--level", "step:1", "--out", "a.csv"], "unknown level 'step:1'"),
        (
            ["--data", "x", "--level", "steps:1", "--out", "a.csv", "--shard", "3/2"],
            "--shard '3/2'",
        ),
        (["--data", "x", "--level", "steps:1", "--out", "a.csv", "--lr", "0"], "--lr must be"),
        (["--data", "x", "--level", "steps:1", "--out", "a.txt"], "named *"),
    ],
)
def test_what_a_user_can_fix_is_one_line(
    importance: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = importance(*words)
    assert ran.status == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
