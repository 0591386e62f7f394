from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

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
