"""Files that are replaced in one step: after a crash there is the old one or the new one.

Every file that dshrink writes goes through here. Only regular files are replaced, never a device or
a folder of that name. What a killed run left half written has a name that is ours alone and no
lock, by which the next run that writes into the folder knows it, and removes it. Whether a file can
be written is found out by writing one: permissions do not tell of all file systems.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from latency_tables.reading import kind_of

#: Hidden, and recognised by whoever clears up.
_TEMPORARY = re.compile(r"\..*\.dshrink-[0-9a-f]{8}\.tmp")


class WriteError(OSError):
    """What could not be written; what was there before is unchanged."""

    def __str__(self) -> str:
        advice = "give another path"
        if self.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "make room, or name a file elsewhere"
        return f"{self.filename} cannot be written: {self.strerror}; {advice}"


def write_atomically(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Replace ``path`` by a file of this content; its folder is made if missing.

    ``content`` is the text or the bytes, or writes the file that it is given the path of. A link is
    followed. Raises WriteError, which names ``path``.
    """
    target = _file_target(path)
    with _made_beside(target, path) as temporary:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        _sync(temporary, os.O_RDWR)
        temporary.replace(target)


def write_folder_atomically(folder: Path, fill: Callable[[Path], object]) -> None:
    """Make ``folder``, with what ``fill`` puts into the one that it is given the path of.

    Where it is there already it has to be empty. Raises WriteError, which names ``folder``.
    """
    target = _require_folder(folder).resolve()  # it has a name, which "." has not
    with _made_beside(target, folder, is_folder=True) as temporary:
        fill(temporary)
        for path in (*temporary.rglob("*"), temporary):
            _sync(path)
        temporary.rename(target)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A new folder in ``folder``, which is made if missing; it is gone in the end.

    What a killed run left of it the next one that writes into ``folder`` removes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear_up(folder)
    scratch = _temporary(folder / "scratch")
    with _locked(scratch, is_folder=True):
        yield scratch


def require_writable(path: Path) -> None:
    """Raise WriteError unless ``write_atomically`` could write ``path`` now. Makes no folders."""
    _require_place(path, lambda: _file_target(path).parent)


def require_writable_folder(folder: Path) -> None:
    """Raise WriteError unless files could be written into ``folder`` now. Makes no folders."""
    _require_place(folder, lambda: _require_folder(folder))


def require_regular(descriptor: int, path: Path) -> None:
    """Raise WriteError unless the open file is a regular one."""
    _refuse_others(os.fstat(descriptor).st_mode, path)


def _file_target(path: Path) -> Path:
    """Where the file goes; refuses what is no regular file."""
    with suppress(FileNotFoundError):
        _refuse_others(path.stat().st_mode, path)
    return path.resolve() if path.is_symlink() else path


def _require_folder(folder: Path) -> Path:
    """The folder, which is one or is not there yet."""
    with suppress(FileNotFoundError):
        mode = folder.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise WriteError(errno.ENOTDIR, f"it is {kind_of(mode)}, no folder", str(folder))
    return folder


def _refuse_others(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        reason = f"it is {kind_of(mode)}, and only regular files are replaced"
        raise WriteError(errno.EINVAL, reason, str(path))


def _require_place(path: Path, folder_of: Callable[[], Path]) -> None:
    """Raise WriteError, which names ``path``, unless files can be made in a folder.

    Or in the nearest one above it that is there: the others would be made.
    """
    try:
        nearest = folder_of().absolute()
        while not _is_there(nearest):
            nearest = nearest.parent
        mode = nearest.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise WriteError(errno.ENOTDIR, f"{nearest} is {kind_of(mode)}, no folder", str(path))
        with _locked(_temporary(nearest / "writable")):
            pass
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path)) from None
    except ValueError as error:  # a null character in its name
        raise WriteError(errno.EINVAL, str(error), str(path)) from None


def _is_there(path: Path) -> bool:
    """Whether there is something of that name; a link that leads nowhere is, too."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _temporary(target: Path) -> Path:
    # Some of the name, for whoever finds it; all of it may leave no room for the rest.
    return target.with_name(f".{target.name[:40]}.dshrink-{secrets.token_hex(4)}.tmp")


@contextmanager
def _made_beside(target: Path, path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """A new file or folder beside ``target``, which becomes it, or is gone in the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(target.parent)
    temporary = _temporary(target)
    with _naming(path, temporary), _locked(temporary, is_folder=is_folder):
        yield temporary
    _sync(target.parent)


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Have errors name what is wanted, not what is made for it."""
    try:
        yield
    except OSError as error:
        is_ours = error.filename is None or str(error.filename).startswith(str(temporary))
        if error.errno is None or not is_ours:
            raise
        raise WriteError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _locked(temporary: Path, *, is_folder: bool = False) -> Iterator[None]:
    """A new file or folder, locked as long as it is made: by that others know that it is."""
    if is_folder:
        temporary.mkdir()
        descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _remove(temporary)
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


@cache
def _clear_up(folder: Path) -> None:
    """Remove what killed runs left half written; once, for a run writes many files."""
    with os.scandir(folder) as entries:
        left = [
            (Path(entry.path), os.O_RDONLY if entry.is_dir(follow_symlinks=False) else os.O_RDWR)
            for entry in entries
            if _TEMPORARY.fullmatch(entry.name)
        ]
    for path, access in left:
        with suppress(OSError):  # it was finished meanwhile, or is somebody else's
            descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(descriptor)


def _sync(path: Path, access: int = os.O_RDONLY) -> None:
    descriptor = os.open(path, access | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
