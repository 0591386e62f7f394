"""One job at a time on a device, whoever asks: two at once would measure each other.

The lock is the kernel's own (flock), so that it is free as soon as its holder ends, however it
ends.  Who waits for it sleeps: polling would disturb the one who measures.
"""

import errno
import fcntl
import os
import tempfile
import time
from contextlib import contextmanager
from typing import Iterator, Optional

from . import alarm
from .checks import RequestError

#: Names the file to lock, where the usual one does not suit the device.
PATH_VARIABLE = "DSHRINK_DEVICE_LOCK"
FILE_NAME = "dshrink-device.lock"
LOCK_PATIENCE_S = 20.0


@contextmanager
def device_lock(path: Optional[str] = None, patience_s: Optional[float] = None) -> Iterator[float]:
    """The device is ours within ``with``, which gives the seconds that it was waited for.

    Raises a ``device_busy`` error where another process does not give it up in time.
    """
    patience_s = LOCK_PATIENCE_S if patience_s is None else patience_s
    start = time.perf_counter()
    busy = f"another run has measured on this device for {patience_s:g} s and continues"
    file = locked_file(path or default_path(), patience_s, busy)
    try:
        yield time.perf_counter() - start
    finally:
        os.close(file)


def default_path() -> str:
    """The file that every agent of this device locks."""
    return os.environ.get(PATH_VARIABLE) or os.path.join(folder(), FILE_NAME)


def folder() -> str:
    """The folder for temporary files, also where it is full.

    Python's own answer is one that it can write to: then two runs would lock two files.
    """
    usual = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")] + ["/tmp"]
    return next((one for one in usual if one and os.path.isdir(one)), tempfile.gettempdir())


def flock(file: int, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file; False where somebody else holds it and we are not to wait."""
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def locked_file(path: str, patience_s: float, busy: str) -> int:
    """Open the file and lock it alone; raises ``device_busy``, for that reason, where it is taken.

    Or ``not_permitted`` where it cannot be opened.
    """
    file = _open_lock_file(path)
    try:
        if flock(file, wait=False) or alarm.returns_within(patience_s, lambda: flock(file)):
            return file
        raise RequestError(
            "device_busy", f"{busy} (it holds {path})", "wait for the other run, or end it"
        )
    except BaseException:
        os.close(file)
        raise


def _open_lock_file(path: str) -> int:
    """Open the file, made where it is missing; raises ``not_permitted`` where that is refused."""
    # Never O_CREAT on a file that is there: the kernel refuses it for other users' files in /tmp
    # (fs.protected_regular).  O_NONBLOCK: nor does a pipe of that name keep us waiting.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            return _create(path, flags)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RequestError(
            "disk_full" if is_full else "not_permitted",
            f"{path}, which one run at a time locks, cannot be opened: {error.strerror}",
            f"make room there, or name another file in {PATH_VARIABLE}"
            if is_full
            else f"remove it, or name another file in {PATH_VARIABLE}",
        ) from error


def _create(path: str, flags: int) -> int:
    try:
        file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # another agent was faster
        return os.open(path, flags)
    os.fchmod(file, 0o666)  # whatever the umask: other users lock it too
    return file
