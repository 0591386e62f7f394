"""What ``write_atomically`` replaces, what it refuses, and what it leaves behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from latency_tables import files
from latency_tables.files import (
    WriteError,
    require_writable,
    require_writable_folder,
    scratch_folder,
    write_atomically,
    write_folder_atomically,
)


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
    for write in (lambda: write_atomically(path, "new"), lambda: require_writable(path)):
        with pytest.raises(WriteError, match=rf"{path} cannot be written: it is a {kind}, and"):
            write()
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
    (tmp_path / ".digits.dshrink-89abcdef.tmp" / "train").mkdir(parents=True)
    strange = tmp_path / ".plan.json.123.tmp"
    strange.write_text("somebody else's")
    with files._locked(tmp_path / ".x.dshrink-01234567.tmp"):  # another run is at work
        write_atomically(tmp_path / "other.json", "whole")
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            ".plan.json.123.tmp",
            ".x.dshrink-01234567.tmp",
            "other.json",
        ]


def test_a_scratch_folder_is_gone_in_the_end_and_by_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    left = folder / ".scratch.dshrink-0123abcd.tmp"
    left.mkdir(parents=True)
    (left / "file").touch()
    with scratch_folder(folder) as scratch:
        (scratch / "file").touch()
        assert list(folder.iterdir()) == [scratch]
        files._clear_up.cache_clear()
        write_atomically(folder / "other", "text")  # another run: what is in use stays
        assert (scratch / "file").exists()
    assert list(folder.iterdir()) == [folder / "other"]


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120)
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_a_new_file_has_the_permissions_that_others_have(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "digits"

    def half(made: Path) -> None:
        (made / "train").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device", str(made / "train" / "0.png"))

    with pytest.raises(WriteError, match=rf"^{folder} cannot be written: No space .*make room"):
        write_folder_atomically(folder, half)
    assert not list(folder.parent.iterdir())
    folder.mkdir()
    write_folder_atomically(folder, lambda made: (made / "0.png").write_text("whole"))
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "0.png").read_text() == "whole"
    with pytest.raises(WriteError, match=rf"^{folder} cannot be written: Directory not empty"):
        write_folder_atomically(folder, lambda made: None)
    assert (folder / "0.png").read_text() == "whole"


@pytest.mark.parametrize("require", [require_writable, require_writable_folder])
def test_what_can_be_written_is_known_without_a_trace(
    require: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    for path in (Path("new"), tmp_path / "new", tmp_path / "new" / "newer", Path("..") / "new"):
        require(path)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "there"]


@pytest.mark.parametrize("require", [require_writable, require_writable_folder])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/new", "Not a directory|file is a file, no folder"),
        ("file/new/newer", "Not a directory|file is a file, no folder"),
        ("null/new", "Not a directory|null is a device, no folder"),
        ("nowhere/new", "No such file or directory"),
        ("n" * 300, "File name too long"),
        (f"{'n' * 300}/new", "File name too long"),
        ("a\0b", "embedded null"),
        ("/proc/new", "No such file or directory|Operation not permitted|Permission denied"),
    ],
)
def test_where_nothing_can_be_written_is_known_before(
    require: Callable[[Path], None], place: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "null").symlink_to(os.devnull)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WriteError, match=rf"cannot be written: .*({reason}).*; give another path"):
        require(tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before


def test_files_go_into_folders_alone(tmp_path: Path) -> None:
    require_writable_folder(tmp_path)
    for name, kind in ((os.devnull, "a device"), ("file", "a file")):
        path = tmp_path / name
        (tmp_path / "file").touch()
        with pytest.raises(WriteError, match=rf"{path} cannot be written: it is {kind}, no folder"):
            require_writable_folder(path)


def test_a_read_only_or_full_place_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def refuse(path: Path, flags: int, *more: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return really(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)
    for require in (require_writable, require_writable_folder):
        with pytest.raises(WriteError, match=r"^\S*/new cannot be written: Read-only file system;"):
            require(tmp_path / "new")
