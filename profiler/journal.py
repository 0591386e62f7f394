"""Every outcome of a run, one JSON line each, on disk before the next job starts.

The file is append-only. Its first line names what was measured and how, and a run may only go on
where its predecessor asked for the same. A reply counts until a later ``discard`` line takes it
back, so a (job, round) has at most one accepted reply at any moment. A line that a killed process
left unfinished is dropped when the journal is opened again; whatever else does not read is an
error, because guessing would mix up measurements.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from profiler.errors import JournalError, MeasurementError
from profiler.replies import Reply, board_of

SCHEMA = "dshrink.journal"
#: Version 1 did not say which board measured: it was always the machine itself.
SCHEMA_VERSION = 2
JOURNAL_NAME = "journal.jsonl"

Line = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a journal belongs to; a run only goes on where all of it is equal."""

    conditions: Mapping[str, Any]
    seed: int
    plan: str
    rule: Mapping[str, Any]

    def to_json(self) -> Line:
        return {
            "line": "header",
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "conditions": dict(self.conditions),
            "seed": self.seed,
            "plan": self.plan,
            "rule": dict(self.rule),
        }

    def check(self, line: Line, where: str) -> None:
        """Raise JournalError unless ``line`` is the header of the same run."""
        if line.get("line") != "header" or line.get("schema") != SCHEMA:
            raise JournalError(f"{where} is no journal of dshrink; choose another folder")
        if line.get("schema_version") not in range(1, SCHEMA_VERSION + 1):
            raise JournalError(
                f"{where} has schema version {line.get('schema_version')}, this dshrink reads "
                f"1 to {SCHEMA_VERSION}: update dshrink or choose another folder"
            )
        differences = _differences(line, self.to_json())
        if differences:
            raise JournalError(
                f"{where} belongs to another run ({'; '.join(differences)}): "
                "ask for the same again, choose another folder, or delete the file"
            )


def _differences(old: Line, new: Line) -> list[str]:
    found: list[str] = []
    for part in ("conditions", "rule"):
        before, now = old.get(part) or {}, new[part]
        found += [
            f"{key} was {before.get(key)}, now {now.get(key)}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
    if old.get("seed") != new["seed"]:
        found.append(f"seed was {old.get('seed')}, now {new['seed']}")
    if old.get("plan") != new["plan"]:
        found.append("the pieces and networks to measure are not the same")
    return found


@dataclass(slots=True)
class RoundLog:
    """What happened on one board in one round, as far as drift is concerned.

    A stretch is what was measured between two anchors: ``closed`` is the one before the last
    anchor, until it is judged, and ``open`` the one after it.
    """

    anchors: list[Reply] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


@dataclass(slots=True)
class JournalState:
    """What the lines of a journal add up to."""

    accepted: dict[tuple[str, int], Reply] = field(default_factory=dict)
    attempts: dict[tuple[str, int], int] = field(default_factory=dict)
    #: By the number of the round and the board.
    rounds: dict[tuple[int, str], RoundLog] = field(default_factory=dict)
    environments: list[Mapping[str, Any]] = field(default_factory=list)
    #: What each board said about itself when it was first met.
    first_of_board: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    discarded: list[Reply] = field(default_factory=list)
    _last_round: int = -1

    def log(self, number: int, board: str) -> RoundLog:
        return self.rounds.setdefault((number, board), RoundLog())

    def logs_of(self, number: int) -> dict[str, RoundLog]:
        """The logs of a round, by board."""
        return {board: log for (known, board), log in self.rounds.items() if known == number}

    def last_boards(self) -> dict[str, str]:
        """The board that measured each job last."""
        latest = sorted(self.accepted.values(), key=lambda reply: reply.round)
        return {reply.job_id: reply.board for reply in latest}

    def measured_by(self, board: str) -> dict[int, list[str]]:
        """The jobs that a board measured, by round."""
        found: dict[int, list[str]] = {}
        for (name, number), reply in self.accepted.items():
            if reply.board == board:
                found.setdefault(number, []).append(name)
        return found

    @property
    def replies_taken(self) -> int:
        """How many replies there ever were about jobs."""
        return len(self.accepted) + len(self.discarded)

    def replies(self, job_id: str) -> tuple[Reply, ...]:
        """The accepted replies about a job, in order of rounds."""
        found = (self.accepted.get((job_id, number)) for number in range(self._last_round + 1))
        return tuple(reply for reply in found if reply is not None)

    def take(self, line: Line) -> None:
        """Add one line's meaning. Raises KeyError, TypeError or ValueError for a wrong one."""
        match line["line"]:
            case "environment":
                self.environments.append(line["environment"])
                self.first_of_board.setdefault(board_of(line), line["environment"])
            case "reply":
                self._take_reply(Reply.from_json(line))
            case "anchor":
                self._take_anchor(Reply.from_json(line))
            case "discard":
                self._take_discard(line)
            case "kept":
                log = self.log(int(line["round"]), board_of(line))
                log.closed.clear()
                log.open.clear()
                self.warnings.append(str(line["reason"]))
            case "warning":
                self.warnings.append(str(line["reason"]))
            case other:
                raise ValueError(f"unknown line {other!r}")

    def _take_reply(self, reply: Reply) -> None:
        key = (reply.job_id, reply.round)
        if key in self.accepted:
            raise ValueError(f"a second reply about {reply.job_id} in round {reply.round}")
        if reply.attempt != self.attempts.get(key, 0):
            raise ValueError(f"attempt {reply.attempt} of {reply.job_id} is out of order")
        self.accepted[key] = reply
        self._last_round = max(self._last_round, reply.round)
        self.attempts[key] = reply.attempt + 1
        self.log(reply.round, reply.board).open.append(reply.job_id)

    def _take_anchor(self, reply: Reply) -> None:
        log = self.log(reply.round, reply.board)
        log.anchors.append(reply)
        log.closed, log.open = log.open, []

    def _take_discard(self, line: Line) -> None:
        for job in line["jobs"]:
            reply = self.accepted.pop((job, int(line["round"])))
            self.discarded.append(reply)
            log = self.log(reply.round, reply.board)
            for stretch in (log.open, log.closed):
                if job in stretch:
                    stretch.remove(job)
            if line["cause"] == "drift":
                log.closed.clear()
        if line["cause"] == "board":
            self.warnings.append(str(line["reason"]))


class Journal:
    """An open journal. One process at a time may hold it; ``close`` lets go of it."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.state = JournalState()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("a+b")
        try:
            self._lock()
            self._load(header)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let go of the file, for other processes."""
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(
                f"{self.path} is in use by another run: wait for it, or choose another folder"
            ) from None

    def _load(self, header: Header) -> None:
        self._file.seek(0)
        lines, whole = _read_lines(self._file.read(), self.path)
        self._file.truncate(whole)
        if not lines:
            self._append([header.to_json()])
            return
        header.check(lines[0], str(self.path))
        for number, line in enumerate(lines[1:], start=2):
            try:
                self.state.take(line)
            except (KeyError, TypeError, ValueError, MeasurementError) as error:
                raise JournalError(
                    f"{self.path}, line {number}: {error}; delete the lines from there on "
                    "to measure them again, or the file to start afresh"
                ) from error

    def _append(self, lines: Iterable[Line]) -> None:
        texts = (json.dumps(line, separators=(",", ":"), allow_nan=False) for line in lines)
        self._file.write("".join(f"{text}\n" for text in texts).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _record(self, *lines: Line) -> None:
        self._append(lines)
        for line in lines:
            self.state.take(line)

    def environment(self, number: int, board: str, environment: Mapping[str, Any]) -> None:
        """Note what a fresh agent of a round says about its machine."""
        said = dict(environment)
        self._record({"line": "environment", "round": number, "board": board, "environment": said})

    def replies(self, replies: Iterable[Reply]) -> None:
        """Accept the outcomes of jobs in a round."""
        self._record(*({"line": "reply", **reply.to_json()} for reply in replies))

    def anchor(self, reply: Reply) -> None:
        """Note an anchor, which closes the stretch before it."""
        self._record({"line": "anchor", **reply.to_json()})

    def discard(self, number: int, jobs: Iterable[str], *, cause: str, reason: str) -> None:
        """Take back replies of a round; ``cause`` is "drift", "throttled", "failures" or "board".

        The last one comes with a warning: the board is not like the others.
        """
        self._record(
            {
                "line": "discard",
                "round": number,
                "jobs": sorted(jobs),
                "cause": cause,
                "reason": reason,
            }
        )

    def warn(self, board: str, reason: str) -> None:
        """Note what whoever uses the table should know of a board."""
        self._record({"line": "warning", "board": board, "reason": reason})

    def keep(self, number: int, board: str, reason: str) -> None:
        """Accept the last stretch of a board in a round as it is, with a warning."""
        self._record({"line": "kept", "round": number, "board": board, "reason": reason})


def _read_lines(content: bytes, path: Path) -> tuple[list[Line], int]:
    """The lines that read, and how many bytes they take; only the last one may be damaged."""
    beginning = b'{"line":"header"'
    if content[: len(beginning)] != beginning[: len(content)]:
        raise JournalError(f"{path} is no journal of dshrink; choose another folder")
    lines: list[Line] = []
    whole = 0
    pieces = content.splitlines(keepends=True)
    for number, piece in enumerate(pieces, start=1):
        try:
            if not piece.endswith(b"\n"):
                raise ValueError("the line is not finished")
            line = json.loads(piece)
            if not isinstance(line, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(pieces):
                break
            raise JournalError(
                f"{path}, line {number}: {error}; delete the lines from there on to measure them "
                "again, or the file to start afresh"
            ) from None
        lines.append(line)
        whole += len(piece)
    return lines, whole
