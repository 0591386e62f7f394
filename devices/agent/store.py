"""The folder that dshrink keeps on a device that is not the host, called ROOT.

    ROOT/in-use                 locked by everyone who uses ROOT, and exclusively to delete it
    ROOT/files/<sha256>.onnx    what the host pushed, and beside it the engines built from it
    ROOT/agent-<digest>/        the agent itself, unpacked by the boot program

No name ever comes from the host: a file is called by the digest of its content.
"""

import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Pattern, Tuple

from . import alarm
from .checks import RequestError, as_request_error, bad_request
from .file_names import to_message
from .lock import flock
from .protocol import (
    MAX_LINE_BYTES,
    Announced,
    decode,
    encode,
    error_body,
    file_digest,
    parse_announcement,
)

MARKER = "in-use"
#: The number of the open file by which the boot program, which ran from ROOT, holds it.
IN_USE_VARIABLE = "DSHRINK_IN_USE"
FILES = "files"
PIECE_BYTES = 1 << 20
_OUR_PART = r"\.[a-z0-9_]+\.part"
_OUR_FILE = re.compile(
    r"[0-9a-f]{64}(\.onnx(\.[0-9a-f]{64}\.engine)?(" + _OUR_PART + ")?|" + _OUR_PART + r")\Z"
)
#: Where trtexec worked for a worker that was killed.
_OUR_WORK = re.compile(r"trtexec-[a-z0-9_]{8}\Z")
#: Also what a killed boot program left: what it unpacked, and what it put aside.
_OUR_AGENT = re.compile(r"agent-[0-9a-f]{16}(\.[a-z0-9_]{8}(\.old)?)?\Z")


def receive_main(root: str) -> int:
    """Take files from standard input; return the exit status."""
    return receive(root, sys.stdin.buffer, sys.stdout.buffer)


def remove_main(root: str) -> int:
    """Delete what dshrink left under ROOT; return the exit status."""
    given = os.environ.get(IN_USE_VARIABLE)
    try:
        removed = remove(root, None if given is None else int(given))
        reply: Dict[str, Any] = {"ok": True, "removed": removed}
    except (RequestError, OSError) as error:
        reply = _failure(error)
    _send(sys.stdout.buffer, reply)
    return 0 if reply["ok"] else 1


def receive(root: str, requests: BinaryIO, replies: BinaryIO) -> int:
    """Answer which announced files are lacking, take those, say where each is; 0 if all went well.

    The first error is answered too, and is the end.
    """
    try:
        alarm.end_process_after(alarm.IDLE_S)
        in_use = use(root)
        try:
            _receive(os.path.join(root, FILES), requests, replies)
        finally:
            os.close(in_use)
    except BrokenPipeError:
        return 1  # nobody reads an answer any more
    except (RequestError, OSError, MemoryError) as error:
        with suppress(BrokenPipeError):
            _send(replies, _failure(error))
        return 1
    finally:
        alarm.end_process_after(None)
    return 0


def use(root: str) -> int:
    """Return an open file that keeps others from removing ROOT until it is closed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    in_use = os.open(os.path.join(root, MARKER), flags, 0o600)
    try:
        flock(in_use, shared=True)
        if os.fstat(in_use).st_nlink == 0:
            raise RequestError(
                "device_busy",
                f"another run has just removed {root}",
                "run the same command again",
            )
    except BaseException:
        os.close(in_use)
        raise
    return in_use


def remove(root: str, in_use: Optional[int] = None) -> bool:
    """Delete what dshrink made under ROOT, and ROOT itself where it is empty then.

    False where another run uses it.  Anything else that lies there stays.  ``in_use`` is the open
    marker, where the caller has it; it is closed.
    """
    if in_use is None:
        in_use = _open_ours(root)
    try:
        if not flock(in_use, wait=False):
            return False
        if os.fstat(in_use).st_nlink == 0:
            return not os.path.exists(root)  # what is there now is of a run that came later
        _delete_files(os.path.join(root, FILES))
        for name in _ours(root, _OUR_AGENT):
            path = os.path.join(root, name)
            if _is_folder(path):
                shutil.rmtree(path)
        os.unlink(os.path.join(root, MARKER))
        with suppress(OSError):
            os.rmdir(root)
    finally:
        os.close(in_use)
    return True


def _open_ours(root: str) -> int:
    """Open the marker of a ROOT that dshrink made for this user; refuse any other folder."""
    marker = os.path.join(root, MARKER)
    try:
        is_ours = os.lstat(root).st_uid == os.lstat(marker).st_uid == os.getuid()
        if is_ours:
            return os.open(marker, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        pass
    raise bad_request(f"{root} is no folder that dshrink made for this user: nothing was removed")


def _receive(folder: str, requests: BinaryIO, replies: BinaryIO) -> None:
    files = parse_announcement(decode(requests.readline(MAX_LINE_BYTES + 1)))
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    _delete_parts(folder)
    lacking = [file for file in files if not _has(folder, file)]
    lacks = [one.sha256 for one in lacking]
    _send(replies, {"ok": True, "folder": to_message(folder), "lacking": lacks})
    for file in lacking:
        path = _take(folder, file, requests)
        _send(replies, {"ok": True, "sha256": file.sha256, "path": to_message(path)})


def _has(folder: str, file: Announced) -> bool:
    alarm.end_process_after(alarm.IDLE_S)
    path = _path(folder, file.sha256)
    try:
        state = os.lstat(path)
        # The size first: it costs nothing.  A file that was damaged in its place has the right one.
        is_candidate = stat.S_ISREG(state.st_mode) and state.st_size == file.size_bytes
        return is_candidate and file_digest(path) == file.sha256
    except OSError:  # not there, or on a part of the disk that cannot be read any more
        return False


def _take(folder: str, file: Announced, requests: BinaryIO) -> str:
    """Write the next file of the stream."""
    path = _path(folder, file.sha256)
    with whole_file(path) as target:
        digest = _copy(file, requests, target)
        if digest != file.sha256:
            raise RequestError(
                "wrong_digest",
                f"what came for {file.sha256} has the SHA-256 {digest}",
                "the file changed or arrived damaged: push it again",
            )
    return path


@contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """A file to write, readable by its owner alone, which has its name only when it is whole."""
    handle, part = _new_part(path)
    try:
        with os.fdopen(handle, "wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
            os.replace(part, path)  # while it is locked
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def _new_part(path: str) -> Tuple[int, str]:
    """Open a new file, locked as long as it is written: by that others know that it is."""
    folder, name = os.path.split(path)
    while True:
        handle, part = tempfile.mkstemp(prefix=name + ".", suffix=".part", dir=folder)
        # Before it was locked somebody may have taken it for one that nobody writes.
        if flock(handle, wait=False) and os.fstat(handle).st_nlink:
            return handle, part
        os.close(handle)


def _copy(file: Announced, requests: BinaryIO, target: BinaryIO) -> str:
    digest = hashlib.sha256()
    left = file.size_bytes
    while left:
        alarm.end_process_after(alarm.IDLE_S)
        piece = requests.read(min(left, PIECE_BYTES))
        if not piece:
            raise bad_request(f"the input ended {left} bytes before the end of {file.sha256}")
        digest.update(piece)
        target.write(piece)
        left -= len(piece)
    return digest.hexdigest()


def _path(folder: str, sha256: str) -> str:
    return os.path.join(folder, sha256 + ".onnx")


def _delete_parts(folder: str) -> None:
    """Delete what killed pushes left half written: what nobody has locked."""
    for name in _ours(folder):
        if not name.endswith(".part"):
            continue
        path = os.path.join(folder, name)
        with suppress(OSError):  # it was finished or deleted meanwhile
            part = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if flock(part, wait=False):
                    os.unlink(path)
            finally:
                os.close(part)


def _delete_files(folder: str) -> None:
    for name in _ours(folder):
        os.unlink(os.path.join(folder, name))
    for name in _ours(folder, _OUR_WORK):
        path = os.path.join(folder, name)
        if _is_folder(path):
            shutil.rmtree(path)
    with suppress(OSError):
        os.rmdir(folder)


def _ours(folder: str, pattern: Pattern[str] = _OUR_FILE) -> List[str]:
    if not _is_folder(folder):
        return []
    return [name for name in os.listdir(folder) if pattern.match(name)]


def _is_folder(path: str) -> bool:
    # A link would lead to a folder that is somebody else's.
    return os.path.isdir(path) and not os.path.islink(path)


def _failure(error: Exception) -> Dict[str, Any]:
    advice = "give the device another `folder` in devices.toml"
    return {"ok": False, "error": error_body(as_request_error(error, advice))}


def _send(replies: BinaryIO, reply: Dict[str, Any]) -> None:
    replies.write(encode(reply))
    replies.flush()
