"""Files that somebody gave us, read as if a stranger had written them.

Only regular files, and none above a bound: a pipe without a writer would be waited for, /dev/zero
read until memory is full. What is refused is an OSError, for which whoever reads a file has words
already.
"""

from __future__ import annotations

import codecs
import os
import stat
from importlib.resources.abc import Traversable
from pathlib import Path

#: Of texts: tables, plans, settings. The largest that a benchmark of ours made has 3 MB.
MOST_BYTES = 32 << 20
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def kind_of(mode: int) -> str:
    """What a file of this ``st_mode`` is, for a message."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def read_text(path: Traversable) -> str:
    """A file in UTF-8, or in UTF-16 where its byte-order mark says so, with "\\n" as line ends.

    Raises OSError or UnicodeDecodeError.
    """
    data = read_bytes(path)
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_wide else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Traversable, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of up to ``most`` bytes. Raises OSError."""
    if not isinstance(path, Path):  # a resource of ours, maybe in an archive
        return path.read_bytes()
    with open(_opened(path), "rb") as file:
        # Some files say no size, and grow while they are read.
        said = os.fstat(file.fileno()).st_size
        data = b"" if said > most else file.read(most + 1)
    if max(said, len(data)) > most:
        raise OSError(f"above {most >> 20} MiB, the most that is read of such a file")
    return data


def require_regular(path: Path) -> None:
    """Raise OSError for what is no regular file, before a library opens it and waits."""
    os.close(_opened(path))


def _opened(path: Path) -> int:
    try:
        # A pipe that nobody writes to would block here.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a null character in its name
        raise OSError(str(error)) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise OSError(f"{kind_of(mode)}, no regular file")
