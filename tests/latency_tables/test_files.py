"""What ``write_atomically`` replaces, what it refuses, and what it leaves behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from latency_tables import files
from latency_tables.files import WriteError, write_atomically


@pytest.fixture(autouse=True)
def every_folder_is_new() -> None:
    files._clear_up.cache_clear()


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files_are_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(os.devnull)
    before = path.lstat().st_mode
    with pytest.raises(WriteError, match=rf"{path} cannot be written: it is a {kind}, and only"):
        write_atomically(path, "new")
    assert path.lstat().st_mode == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name, there in (("there", True), ("not_yet", False)):
        target, link = tmp_path / "far" / name, tmp_path / f"link_to_{name}"
        if there:
            target.write_text("old")
        link.symlink_to(target)
        write_atomically(link, "new")
        assert link.is_symlink() and target.read_text() == "new"


def test_a_full_disk_names_the_file_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = f"{path} cannot be written: No space left on device; make room, or name a file elsewhere"
    with pytest.raises(WriteError) as caught:
        write_atomically(path, "new")
    assert str(caught.value) == said and caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from latency_tables.files import write_atomically
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path({str(tmp_path / "plan.json")!r}), "half")
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".plan.json.dshrink-")
    strange = tmp_path / ".plan.json.123.tmp"
    strange.write_text("somebody else's")
    with files._locked(tmp_path / ".x.dshrink-01234567.tmp"):  # another run is at work
        write_atomically(tmp_path / "other.json", "whole")
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            ".plan.json.123.tmp",
            ".x.dshrink-01234567.tmp",
            "other.json",
        ]


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120)
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_a_new_file_has_the_permissions_that_others_have(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
