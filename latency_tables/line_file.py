"""A file of JSON lines that only grows, each on disk before whoever wrote it continues.

One process at a time may hold it. A line that a killed process left unfinished is dropped when the
file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any


class LineFile:
    """An open file of lines, created where it is missing.

    Raises BlockingIOError where another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("a+b")
        try:
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
        self._file.seek(0)
        content = self._file.read()
        if content[: len(beginning)] != beginning[: len(content)]:
            raise ValueError(f"{self.path} does not begin with {beginning!r}")
        whole = content[: content.rfind(b"\n") + 1]
        # A file that is only read keeps its time: that of its last line.
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        return whole.splitlines()

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines, and wait until they are on disk."""
        texts = (json.dumps(line, separators=(",", ":"), allow_nan=False) for line in lines)
        self._file.write("".join(f"{text}\n" for text in texts).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
