"""A file of JSON lines that only grows, each on disk before whoever wrote it continues.

One process at a time may hold it. A line that a killed process left unfinished is dropped when the
file is opened again; one that did not fit onto the disk is taken back at once.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from latency_tables.files import WriteError, require_regular

#: No line of ours comes near it; a longer one is not read to its end.
MAX_LINE_BYTES = 64 << 20


class LineFile:
    """An open file of lines, created where it is missing.

    Raises BlockingIOError where another process holds it, WriteError for a device or a pipe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # A pipe of that name would keep us waiting.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._file: IO[bytes] = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        try:
            require_regular(self._file.fileno(), path)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let go of the file, for other processes."""
        self._file.close()

    def read(self, beginning: bytes) -> list[bytes]:
        """The whole lines; an unfinished last one is removed.

        Raises ValueError, and changes nothing, where the file begins otherwise.
        """
        with self.path.open("rb") as file:
            whole = whole_lines(file, beginning)
        # A file that is only read keeps its time: that of its last line.
        end = sum(map(len, whole))
        if end < os.fstat(self._file.fileno()).st_size:
            self._file.truncate(end)
        return [line.rstrip(b"\r\n") for line in whole]

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines, and wait until they are on disk. Raises WriteError, and leaves none."""
        texts = (json.dumps(line, separators=(",", ":"), allow_nan=False) for line in lines)
        left = memoryview("".join(f"{text}\n" for text in texts).encode())
        before = os.fstat(self._file.fileno()).st_size
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(before)
            raise WriteError(error.errno, error.strerror, str(self.path)) from error


def whole_lines(file: IO[bytes], beginning: bytes) -> list[bytes]:
    """The lines with their ends, without an unfinished last one.

    Raises ValueError where the file begins otherwise, or holds a line of absurd length.
    """
    first = file.read(len(beginning))
    if first != beginning[: len(first)]:
        raise ValueError(f"it does not begin with {beginning!r}")
    file.seek(0)
    found: list[bytes] = []
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"line {len(found) + 1} has more than {MAX_LINE_BYTES} bytes")
        if line.endswith(b"\n"):
            found.append(line)
    return found
