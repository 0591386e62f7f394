from __future__ import annotations

import os
from pathlib import Path

import pytest

from latency_tables.errors import TableFormatError
from latency_tables.reading import MOST_BYTES, read_bytes, read_text, require_regular
from latency_tables.records import load_record, load_toml


def test_a_text_is_read_in_utf_8_and_utf_16_with_unix_line_ends(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "text").write_bytes("ä\r\nb\rc\n".encode(encoding))
        assert read_text(tmp_path / "text") == "ä\nb\nc\n"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_text, require_regular):
        with pytest.raises(OSError, match="a pipe, no regular file"):
            read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/zero", "a device, no regular file"),
        ("/", "a folder, no regular file"),
        ("/no/such", "No such file"),
        ("a\0b", "null byte"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_is_no_regular_file_is_refused(path: str, message: str) -> None:
    with pytest.raises(OSError, match=message):
        read_bytes(Path(path))


def test_a_file_above_the_bound_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # a hole: nothing is written
    with pytest.raises(OSError, match="above 32 MiB"):
        read_text(tmp_path / "large")
    assert len(read_bytes(tmp_path / "large", most=MOST_BYTES + 1)) == MOST_BYTES + 1


@pytest.mark.parametrize("content", [b"\xff\xff", b"a = " + b"9" * 5000, b"a = " + b"[" * 3000])
def test_toml_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_bytes(content)
    with pytest.raises(TableFormatError, match=r"f\.toml: ") as caught:
        load_toml(tmp_path / "f.toml", error=TableFormatError)
    assert "\n" not in str(caught.value)


def test_a_record_that_cannot_be_read_names_the_file_once_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    os.mkfifo(path)
    with pytest.raises(TableFormatError) as caught:
        load_record(path, dict, error=TableFormatError, fix="write it again")
    expected = f"{path}: cannot be read as text (a pipe, no regular file): write it again"
    assert str(caught.value) == expected
