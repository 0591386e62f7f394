"""The lines of a journal: what each kind holds, and how it is read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latency_tables.records import convert_record, plain
from profiler.errors import JournalError
from profiler.replies import Failure, Reply, parse_result

SCHEMA = "dshrink.journal"
SCHEMA_VERSION = 2

#: How to fix a journal that does not read.
FIX = "delete the lines from there on to measure them again, or the file to start afresh"

Line = dict[str, Any]
Cause = Literal["disturbed", "throttled", "failures", "board"]


def not_a_journal(path: Path) -> JournalError:
    """The error for a file that is something else."""
    return JournalError(f"{path} is no journal of dshrink; choose another folder (--out)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a journal belongs to; a run only resumes it where all of it is equal."""

    conditions: Mapping[str, Any]
    seed: int
    plan: str
    rule: Mapping[str, Any]

    def to_json(self) -> Line:
        about = {"line": "header", "schema": SCHEMA, "schema_version": SCHEMA_VERSION}
        return {**about, **plain(self)}

    def check(self, line: Line, path: Path) -> None:
        """Raise JournalError unless ``line`` is the header of the same run."""
        if line.get("schema") != SCHEMA:
            raise not_a_journal(path)
        if line.get("schema_version") in range(SCHEMA_VERSION):
            raise JournalError(
                f"{path} was begun by an earlier version of dshrink, which measured otherwise: "
                "choose another folder (--out), or delete the file"
            )
        found = convert_record(
            {name: value for name, value in line.items() if name != "line"},
            Header,
            where=str(path),
            error=JournalError,
            fix="choose another folder (--out)",
            schema=SCHEMA,
            version=SCHEMA_VERSION,
        )
        if differences := found.differences(self):
            raise JournalError(
                f"{path} belongs to another run ({'; '.join(differences)}): "
                "run the same command as then, choose another folder (--out), or delete the file"
            )

    def differences(self, now: Header) -> list[str]:
        """One text each: what was asked for when the journal was begun, and what is now."""
        facts: dict[str, tuple[Any, Any]] = {}
        for before, after in ((self.conditions, now.conditions), (self.rule, now.rule)):
            facts |= {n: (before.get(n), after.get(n)) for n in sorted({*before, *after})}
        facts["seed"] = (self.seed, now.seed)
        found = [f"{name} was {old}, now {new}" for name, (old, new) in facts.items() if old != new]
        if self.plan != now.plan:
            found.append("the pieces and networks to measure are not the same")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentLine:
    """What a fresh agent of a round reports about its machine."""

    round: int
    board: str
    environment: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardLine:
    """Replies of a round are taken back; a board that differs from the others, with a warning."""

    round: int
    jobs: tuple[str, ...]
    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningLine:
    """What users of the table should know of a board."""

    board: str
    reason: str


@dataclass(frozen=True, slots=True)
class SharedLine:
    """A board's own reply about a shared job, for the comparison of boards alone."""

    reply: Reply


Entry = Reply | SharedLine | EnvironmentLine | DiscardLine | WarningLine

_KINDS: Mapping[str, type[EnvironmentLine | DiscardLine | WarningLine]] = {
    "environment": EnvironmentLine,
    "discard": DiscardLine,
    "warning": WarningLine,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def write_entry(entry: Entry) -> Line:
    """An entry as JSON data."""
    if isinstance(entry, Reply):
        return {"line": "reply", **_write_reply(entry)}
    if isinstance(entry, SharedLine):
        return {"line": "shared", **_write_reply(entry.reply)}
    return {"line": _NAMES[type(entry)], **plain(entry)}


def read_entry(line: Line, where: str) -> Entry:
    """The entry that a line is. Raises JournalError for what is none."""
    name = str(line.get("line"))
    said = {key: value for key, value in line.items() if key != "line"}
    if name == "reply":
        return _read_reply(said, where)
    if name == "shared":
        return SharedLine(_read_reply(said, where))
    if name not in _KINDS:
        raise JournalError(f"{where}: unknown line {name!r}: {FIX}")
    return convert_record(said, _KINDS[name], where=where, error=JournalError, fix=FIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReplyLine:
    """A reply but for its ``result``, in whose place there may be an ``error``."""

    job: str
    round: int
    attempt: int
    board: str
    took_s: float
    error: Failure | None = None


def _write_reply(reply: Reply) -> Line:
    body = {name: value for name, value in plain(reply.outcome).items() if value not in (None, {})}
    return {
        "job": reply.job_id,
        "round": reply.round,
        "attempt": reply.attempt,
        "board": reply.board,
        "took_s": round(reply.took_s, 4),
        ("error" if reply.failure else "result"): body,
    }


def _read_reply(said: Line, where: str) -> Reply:
    result = said.pop("result", {})
    line = convert_record(said, _ReplyLine, where=where, error=JournalError, fix=FIX)
    outcome = line.error or parse_result(result, where=where, error=JournalError, fix=FIX)
    return Reply(
        job_id=line.job,
        round=line.round,
        attempt=line.attempt,
        board=line.board,
        outcome=outcome,
        took_s=line.took_s,
    )
