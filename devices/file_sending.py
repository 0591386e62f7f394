"""Bring files to a device whose agent takes them: only those that it lacks, each as it is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from devices.agent.protocol import file_digest
from devices.connection import PushedFile
from devices.errors import AgentLostError, JobFailedError
from devices.line_process import LineProcess, LineTooLongError
from devices.records import RecordError, checked
from devices.replies import parse_line

#: The device may have to write a file that it has all of: SD cards are slow.
STALL_TIMEOUT_S = 120.0
#: At least so fast it reads what it has, to see that it is whole: an old SD card.
READ_BYTES_PER_S = 10e6
PIECE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A file of the host as it was when it was hashed."""

    file: Path
    sha256: str
    size_bytes: int

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, a piece at a time; raises JobFailedError where there are fewer than before."""
        left = self.size_bytes
        with self.file.open("rb") as stream:
            while left:
                piece = stream.read(min(left, PIECE_BYTES))
                if not piece:
                    raise JobFailedError(
                        "wrong_digest",
                        f"{self.file} was cut short while it was sent",
                        "do not write to files that are being measured",
                    )
                yield piece
                left -= len(piece)


def outgoing(file: Path) -> Outgoing:
    """Return the file with its digest; raises JobFailedError where it cannot be read.

    A file that stays as it is is read once to be hashed.
    """
    try:
        state = file.stat()
        digest = _digest(file.resolve(), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise JobFailedError(
            "missing_file",
            f"{file} cannot be read: {error.strerror}",
            "it must be on the host to be brought to the device",
        ) from error
    return Outgoing(file=file, sha256=digest, size_bytes=state.st_size)


@cache
def _digest(file: Path, size_bytes: int, changed_ns: int) -> str:
    return file_digest(str(file))


def send(link: LineProcess, files: Sequence[Outgoing]) -> tuple[PushedFile, ...]:
    """Send what is lacking to an agent that receives; return where all are, in the order given.

    Raises JobFailedError with what the device answers, AgentLostError where it answers nothing, no
    sense, or is gone.
    """
    by_digest = {one.sha256: one for one in files}
    announced = [[one.sha256, one.size_bytes] for one in by_digest.values()]
    listed = json.dumps({"files": announced}).encode("ascii") + b"\n"
    looking_s = sum(one.size_bytes for one in by_digest.values()) / READ_BYTES_PER_S
    answer = _ask(link, [listed], "the list", STALL_TIMEOUT_S + looking_s)
    try:
        folder = checked(str, answer["folder"], "folder")
        lacking = [by_digest[one] for one in dict.fromkeys(answer["lacking"])]
    except (RecordError, KeyError, TypeError) as error:
        raise _nonsense(link, f"{str(answer)[:200]} ({error!r})") from error
    for one in lacking:
        _ask(link, one.pieces(), str(one.file), STALL_TIMEOUT_S)
    return tuple(PushedFile(path=f"{folder}/{one.sha256}.onnx", sha256=one.sha256) for one in files)


def _ask(link: LineProcess, pieces: Iterable[bytes], what: str, timeout_s: float) -> dict[str, Any]:
    try:
        line = link.exchange(pieces, timeout_s, MAX_ANSWER_BYTES)
    except TimeoutError as error:
        raise AgentLostError(
            "timeout",
            f"{link.name} has taken no more of {what} for {timeout_s:.0f} s",
            "see whether its storage still works, and start again",
        ) from error
    except EOFError as error:
        raise link.explained(f"the push of {what}") from error
    except LineTooLongError as error:
        raise _nonsense(link, str(error)) from error
    try:
        answer = parse_line(line)
        if answer["ok"] is True:
            return answer
        failure = JobFailedError(**checked(dict[str, str], answer["error"], "error"))
    except (ValueError, KeyError, TypeError) as error:
        raise _nonsense(link, f"{line[:200]!r} ({error!r})") from error
    raise failure


def _nonsense(link: LineProcess, what: str) -> AgentLostError:
    return AgentLostError(
        "bad_reply",
        f"{link.name} answered a push with what is no answer: {what}",
        "bring host and agent to the same version of dshrink",
    )
