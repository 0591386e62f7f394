"""Every outcome of a run, one JSON line each, on disk before the next job starts.

The file is append-only. Its first line names what was measured and how, and a run is only resumed
where its predecessor asked for the same. A reply counts until a later ``discard`` line takes it
back, so a (job, round) has at most one accepted reply at any moment. A line that a killed process
left unfinished is dropped when the journal is opened again; whatever else does not read is an
error, because guessing would mix up measurements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latency_tables.line_file import LineFile
from profiler.errors import JournalError
from profiler.journal_lines import (
    FIX,
    Cause,
    DiscardLine,
    Entry,
    EnvironmentLine,
    Header,
    SharedLine,
    WarningLine,
    not_a_journal,
    read_entry,
    write_entry,
)
from profiler.replies import Reply

JOURNAL_NAME = "journal.jsonl"


@dataclass(slots=True)
class JournalState:
    """What the lines of a journal add up to."""

    accepted: dict[tuple[str, int], Reply] = field(default_factory=dict)
    attempts: dict[tuple[str, int], int] = field(default_factory=dict)
    #: What boards measured to be compared, by job, round and board.
    shared: dict[tuple[str, int, str], Reply] = field(default_factory=dict)
    environments: list[Mapping[str, Any]] = field(default_factory=list)
    #: What each board reported about itself first.
    first_of_board: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    discarded: list[Reply] = field(default_factory=list)
    _last_round: int = -1

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

    def spent_s(self, before_round: int) -> float:
        """About how long the rounds before one took: what all boards did, divided by them."""
        took: dict[int, list[Reply]] = {}
        for reply in (*self.accepted.values(), *self.discarded, *self.shared.values()):
            if reply.round < before_round:
                took.setdefault(reply.round, []).append(reply)
        return math.fsum(
            math.fsum(one.took_s for one in replies) / len({one.board for one in replies})
            for replies in took.values()
        )

    def replies(self, job_id: str) -> tuple[Reply, ...]:
        """The accepted replies about a job, in order of rounds."""
        found = (self.accepted.get((job_id, number)) for number in range(self._last_round + 1))
        return tuple(reply for reply in found if reply is not None)

    def take(self, entry: Entry) -> None:
        """Add one line's meaning. Raises JournalError for one that the lines before rule out."""
        match entry:
            case Reply():
                self._take_reply(entry)
            case SharedLine(reply):
                self._take_shared(reply)
            case EnvironmentLine():
                self.environments.append(entry.environment)
                self.first_of_board.setdefault(entry.board, entry.environment)
            case DiscardLine():
                self._take_discard(entry)
            case WarningLine():
                self.warnings.append(entry.reason)

    def _take_reply(self, reply: Reply) -> None:
        key = (reply.job_id, reply.round)
        if key in self.accepted:
            raise JournalError(f"a second reply about {reply.job_id} in round {reply.round}")
        if reply.attempt != self.attempts.get(key, 0):
            raise JournalError(f"attempt {reply.attempt} of {reply.job_id} is out of order")
        self.accepted[key] = reply
        self._last_round = max(self._last_round, reply.round)
        self.attempts[key] = reply.attempt + 1

    def _take_shared(self, reply: Reply) -> None:
        key = (reply.job_id, reply.round, reply.board)
        if key in self.shared:
            raise JournalError(f"a second reply of {reply.board} about the shared {reply.job_id}")
        self.shared[key] = reply

    def _take_discard(self, line: DiscardLine) -> None:
        for job in line.jobs:
            if (job, line.round) not in self.accepted:
                raise JournalError(f"no reply about {job} in round {line.round} to take back")
            self.discarded.append(self.accepted.pop((job, line.round)))
        if line.cause == "board":
            self.warnings.append(line.reason)


class Journal:
    """An open journal. One process at a time may hold it; ``close`` lets go of it."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.state = JournalState()
        try:
            self._file = LineFile(path)
        except BlockingIOError:
            raise JournalError(
                f"{path} is in use by another run: wait for it, or choose another folder (--out)"
            ) from None
        try:
            self._load(header)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let go of the file, for other processes."""
        self._file.close()

    def _load(self, header: Header) -> None:
        try:
            lines = self._file.read(beginning=b'{"line":"header"')
        except ValueError:
            raise not_a_journal(self.path) from None
        if not lines:
            self._file.append([header.to_json()])
            return
        header.check(self._parse(lines[0], 1), self.path)
        for number, text in enumerate(lines[1:], start=2):
            entry = read_entry(self._parse(text, number), self._where(number))
            try:
                self.state.take(entry)
            except JournalError as error:
                raise JournalError(f"{self._where(number)}: {error}: {FIX}") from None

    def _where(self, number: int) -> str:
        return f"{self.path}, line {number}"

    def _parse(self, text: bytes, number: int) -> dict[str, Any]:
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise JournalError(f"{self._where(number)}: {error}: {FIX}") from None
        return line

    def record(self, *entries: Entry) -> None:
        """Write lines down, and take them into the state."""
        self._file.append(map(write_entry, entries))
        for entry in entries:
            self.state.take(entry)

    def discard(self, number: int, jobs: Iterable[str], *, cause: Cause, reason: str) -> None:
        """Take back replies of a round."""
        self.record(DiscardLine(round=number, jobs=tuple(sorted(jobs)), cause=cause, reason=reason))
