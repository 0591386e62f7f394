"""Commands killed with -9 at random moments of writing: each file is the old one or the new one.

Whether the kills fell into the writing is counted: a half written file has a name of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import killed_commands
import pytest
from pictures import write_pictures
from ran_command import Ran
from safetensors.torch import load_file
from synthetic_tables import synthetic_table

from latency_tables import files
from latency_tables.io import save_table

pytestmark = pytest.mark.slow

KILLS = 20
#: So many kills at least are to fall into the writing of a file: about half of them do.
INSIDE = 5
Record = Callable[[str, object], None]
MODEL = ("test_resnet", "--resolution", "32", "--weights", "initial")


@contextmanager
def running(commands: Sequence[Sequence[str]], listed: Path, slow_s: float) -> Iterator[object]:
    listed.write_text(json.dumps(commands))
    words = [sys.executable, killed_commands.__file__, str(listed), str(slow_s)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """What is written, and by which write."""
    whole = [path for path in folder.iterdir() if not files._TEMPORARY.fullmatch(path.name)]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in whole}


def half_written(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if files._TEMPORARY.fullmatch(path.name)]


def killed(
    commands: Sequence[Sequence[str]],
    folder: Path,
    check: Callable[[], None],
    *,
    slow_s: float,
    longest_s: float,
) -> int:
    """Kill the commands, and ``check`` what is there each time; how often a file was half there."""
    draw, inside = random.Random(21), 0
    with running(commands, folder.with_suffix(".json"), slow_s) as process:
        for number in range(KILLS):
            before = content(folder)
            process.stdin.write("\n")
            child = int(process.stdout.readline())
            end = time.monotonic() + 120
            # It has written once: what others left is gone by then.
            while content(folder) == before:
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(draw.uniform(0, longest_s))
            os.kill(child, signal.SIGKILL)
            assert int(process.stdout.readline()) == -signal.SIGKILL
            left = half_written(folder)
            assert len(left) <= 1, f"of kill {number} and of earlier ones: {left}"
            inside += len(left)
            check()
    assert inside >= INSIDE
    return inside


def one_of(folder: Path, versions: Sequence[Path]) -> Callable[[], None]:
    """That each file is the one of a version."""

    def check() -> None:
        for name in content(versions[0]):
            found = (folder / name).read_bytes()
            assert found in [(version / name).read_bytes() for version in versions], name

    return check


def test_a_plot_is_the_old_one_or_the_new_one(
    tmp_path: Path, dshrink: Callable[..., Ran], record_testsuite_property: Record
) -> None:
    commands = []
    for version, latency in (("a", 2.0), ("b", 3.0)):
        table = replace(synthetic_table([latency, 3.0, 4.0, 5.0], [1.0] * 4), resolution=(32, 32))
        save_table(table, tmp_path / f"table_{version}")
        words = ("plot", "blocks", str(tmp_path / f"table_{version}"), "--out")
        assert dshrink(*words, tmp_path / version / "blocks.png").status == 0
        commands.append([*words, str(tmp_path / "out" / "blocks.png")])
    assert dshrink(*commands[0]).status == 0
    check = one_of(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    record_testsuite_property(
        "plot, killed inside", killed(commands, tmp_path / "out", check, slow_s=0.0, longest_s=2.0)
    )
    files._clear_up.cache_clear()
    assert dshrink(*commands[1]).status == 0
    assert sorted(content(tmp_path / "out")) == ["blocks.png", "blocks.svg"]
    assert not half_written(tmp_path / "out")
    one_of(tmp_path / "out", [tmp_path / "b"])()


def test_a_merged_network_is_the_old_one_or_the_new_one(
    tmp_path: Path, dshrink: Callable[..., Ran], record_testsuite_property: Record
) -> None:
    commands = []
    for version, mask in (("a", "0101"), ("b", "1010")):
        words = ("merge", *MODEL, "--padding", "repad", "--plan", f"mask:{mask}", "--out")
        assert dshrink(*words, tmp_path / version / "merged.onnx").status == 0
        commands.append([*words, str(tmp_path / "out" / "merged.onnx")])
    assert dshrink(*commands[0]).status == 0
    check = one_of(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    record_testsuite_property(
        "merge, killed inside", killed(commands, tmp_path / "out", check, slow_s=1.0, longest_s=4.0)
    )
    files._clear_up.cache_clear()
    assert dshrink(*commands[1]).status == 0
    assert not half_written(tmp_path / "out")
    one_of(tmp_path / "out", [tmp_path / "b"])()


def test_a_training_that_is_killed_while_it_saves_ends_as_one_that_is_not(
    tmp_path: Path, dshrink: Callable[..., Ran], record_testsuite_property: Record
) -> None:
    pictures = write_pictures(tmp_path / "pictures", train=8)
    words = [
        *("finetune", *MODEL, "--plan", "mask:0101", "--data", str(pictures)),
        *("--epochs", "12", "--batch", "8", "--checkpoint-steps", "1", "--out"),
    ]
    assert dshrink(*words, tmp_path / "whole").status == 0
    folder = tmp_path / "out"
    folder.mkdir()

    def check() -> None:
        """A checkpoint names tensors that are whole; so are the weights, if there are any."""
        if (folder / "checkpoint.json").exists():
            known = json.loads((folder / "checkpoint.json").read_text())
            assert load_file(folder / known["tensors"])
        for name in ("weights.safetensors", "history.csv", "plan.json"):
            if (folder / name).exists():
                assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    inside = killed([[*words, str(folder)]], folder, check, slow_s=0.2, longest_s=3.0)
    record_testsuite_property("finetune, killed inside", inside)
    files._clear_up.cache_clear()
    assert dshrink(*words, folder).status == 0
    check()
    assert not half_written(folder)
    assert len(list(folder.glob("checkpoint-*"))) == 1
    assert (folder / "weights.safetensors").exists()
