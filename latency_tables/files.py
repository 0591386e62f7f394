"""Files that are replaced in one step: after a crash there is the old one or the new one.

Every file that dshrink writes goes through here. Only regular files are replaced, never a device or
a folder of that name. What a killed run left half written has a name that is ours alone and no
lock, by which the next run that writes into the folder knows it, and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from latency_tables.reading import kind_of

#: Hidden, and recognised by whoever clears up.
_TEMPORARY = re.compile(r"\..*\.dshrink-[0-9a-f]{8}\.tmp")


class WriteError(OSError):
    """A file that could not be written; what was there before is unchanged."""

    def __str__(self) -> str:
        advice = "name another file"
        if self.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "make room, or name a file elsewhere"
        return f"{self.filename} cannot be written: {self.strerror}; {advice}"


def write_atomically(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Replace ``path`` by a file of this content; its folder is made if missing.

    ``content`` is the text or the bytes, or writes the file that it is given the path of. A link is
    followed. Raises WriteError, which names ``path``.
    """
    target = _target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(target.parent)
    # Some of the name, for whoever finds it; all of it may leave no room for the rest.
    temporary = target.with_name(f".{target.name[:40]}.dshrink-{secrets.token_hex(4)}.tmp")
    with _naming(path, temporary), _locked(temporary):
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    _sync_directory(target.parent)


def require_regular(descriptor: int, path: Path) -> None:
    """Raise WriteError unless the open file is a regular one."""
    _refuse_others(os.fstat(descriptor).st_mode, path)


def _target(path: Path) -> Path:
    """Where the file goes; refuses what is no regular file."""
    with suppress(FileNotFoundError):
        _refuse_others(path.stat().st_mode, path)
    return path.resolve() if path.is_symlink() else path


def _refuse_others(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        reason = f"it is {kind_of(mode)}, and only regular files are replaced"
        raise WriteError(errno.EINVAL, reason, str(path))


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Have errors name the file that is wanted, not the one that is made for it."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise WriteError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _locked(temporary: Path) -> Iterator[None]:
    """A new file, locked as long as it is written: by that others know that it is."""
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


@cache
def _clear_up(folder: Path) -> None:
    """Remove what killed runs left half written; once, for a run writes many files."""
    with os.scandir(folder) as entries:
        left = [Path(entry.path) for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    for path in left:
        with suppress(OSError):  # it was finished meanwhile, or is somebody else's
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    # Where a directory cannot be opened (Windows) the rename is as durable as it gets.
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
