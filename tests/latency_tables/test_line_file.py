from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest

from latency_tables import line_file
from latency_tables.line_file import LineFile

BEGINNING = b'{"line":"header"'
HEADER = {"line": "header", "seed": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "journal.jsonl"


def read(path: Path) -> list[bytes]:
    with closing(LineFile(path)) as file:
        return file.read(BEGINNING)


def test_lines_come_back_in_their_order(path: Path) -> None:
    with closing(LineFile(path)) as file:
        assert file.read(BEGINNING) == []
        file.append([HEADER])
        file.append([{"a": 1.5}, {"b": "\u00fc"}])
    assert read(path) == [b'{"line":"header","seed":0}', b'{"a":1.5}', b'{"b":"\\u00fc"}']


@pytest.mark.parametrize("rest", [b'{"a', b'{"a":1}'])
def test_an_unfinished_last_line_is_removed_and_written_over(path: Path, rest: bytes) -> None:
    with closing(LineFile(path)) as file:
        file.append([HEADER])
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    with closing(LineFile(path)) as file:
        assert len(file.read(BEGINNING)) == 1
        file.append([{"b": 2}])
    assert path.read_bytes() == whole + b'{"b":2}\n'


def test_an_unfinished_header_is_begun_again(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(BEGINNING[:5])
    assert read(path) == []
    assert path.read_bytes() == b""


def test_a_file_of_another_beginning_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("my diary")
    with pytest.raises(ValueError, match="does not begin with"):
        read(path)
    assert path.read_text() == "my diary"


def test_one_process_at_a_time_holds_the_file(path: Path) -> None:
    with closing(LineFile(path)), pytest.raises(BlockingIOError):
        LineFile(path)
    LineFile(path).close()


def test_a_line_is_on_disk_before_the_writer_continues(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(LineFile(path)) as file:
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.stat().st_size))
        file.append([HEADER])
    assert synced == [path.stat().st_size]


def test_what_is_no_json_is_refused(path: Path) -> None:
    with closing(LineFile(path)) as file, pytest.raises(ValueError, match="JSON"):
        file.append([{"a": float("nan")}])


def test_a_line_that_does_not_fit_is_taken_back_and_the_file_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(LineFile(path)) as file:
        file.append([HEADER])
        whole = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=rf"{path} cannot be written: No space.*make room"):
                file.append([{"a": 1}])
        assert path.read_bytes() == whole
        file.append([{"b": 2}])
    assert path.read_bytes() == whole + b'{"b":2}\n'


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_no_file_of_lines(tmp_path: Path, kind: str) -> None:
    path = Path(os.devnull) if kind == "device" else tmp_path / "pipe"
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(OSError, match=f"it is a {kind}, and only regular files"):
        LineFile(path)


def test_a_line_of_absurd_length_is_refused_before_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_file, "MAX_LINE_BYTES", 100)
    path.parent.mkdir()
    path.write_bytes(BEGINNING + b"x" * 200)
    with pytest.raises(ValueError, match="line 1 has more than 100 bytes"):
        read(path)
    assert path.stat().st_size == len(BEGINNING) + 200
