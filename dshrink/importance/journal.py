"""Every evaluation, one JSON line each, on disk before the next one starts.

A run writes one journal and reads those of its other shards too, which lie next to the table. The
first line says what the scores depend on; journals of anything else are refused. The line that a
killed process left unfinished is dropped, and its network evaluated again.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dshrink.importance.evaluation import Evaluation
from dshrink.importance.settings import Candidate, EvaluationError
from dshrink.train.identity import differences, listed
from latency_tables.line_file import LineFile, whole_lines
from latency_tables.records import convert_record, parse_record

SCHEMA = "dshrink.importance.journal"
SCHEMA_VERSION = 1
ENDING = ".journal.jsonl"
_BEGINNING = b'{"line":"header"'


class Shard(NamedTuple):
    """Part ``number`` of ``of``, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """ "2/4". Raises EvaluationError."""
        match = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
        if match and 1 <= int(match[1]) <= int(match[2]):
            return cls(int(match[1]), int(match[2]))
        raise EvaluationError(f"--shard {text[:60]!r}: give K/N with K from 1 to N, such as 2/4")


def journal_path(table: Path, shard: Shard | None) -> Path:
    """Next to the table: importance.journal.jsonl, importance.shard-2-of-4.journal.jsonl."""
    part = f".shard-{shard.number}-of-{shard.of}" if shard else ""
    return table.with_name(f"{table.stem}{part}{ENDING}")


@dataclass(frozen=True, slots=True)
class _Header:
    """What the scores depend on."""

    identity: Mapping[str, Any]


class ImportanceJournal:
    """The journal of a run, held against other processes, and what is known from all of them."""

    def __init__(self, table: Path, shard: Shard | None, identity: Mapping[str, Any]) -> None:
        self.path = journal_path(table, shard)
        self.known: dict[Candidate, Evaluation] = {}
        self._identity = dict(identity)
        self._file = _hold(self.path)
        shards = table.parent.glob(f"{glob.escape(table.stem)}.shard-*-of-*{ENDING}")
        others = {*shards, journal_path(table, None)} - {self.path}
        try:
            for other in sorted(filter(Path.is_file, others)):
                self._take(_lines_of(other, alone=shard is None), other)
            try:
                lines = self._file.read(beginning=_BEGINNING)
            except ValueError:
                raise _no_journal(self.path) from None
            self._take(lines, self.path)
            if not lines:
                header = {"line": "header", "schema": SCHEMA, "schema_version": SCHEMA_VERSION}
                self._file.append([{**header, "identity": self._identity}])
        except BaseException:
            self._file.close()
            raise

    def add(self, evaluation: Evaluation) -> None:
        """Write an evaluation down."""
        self._file.append([evaluation.to_json()])
        self.known[evaluation.candidate] = evaluation

    def close(self) -> None:
        self._file.close()

    def _take(self, lines: Sequence[bytes], path: Path) -> None:
        found: dict[Candidate, Evaluation] = {}
        fix = "delete the lines from there on, or the file to start afresh"
        for number, text in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            line = parse_record(
                text.decode("utf-8", "replace"),
                dict[str, Any],
                where=where,
                error=EvaluationError,
                fix=fix,
            )
            if number == 1:
                self._check(line, path)
            else:
                evaluation = Evaluation.from_json(line, where=where, fix=fix)
                found[evaluation.candidate] = evaluation
        for candidate, evaluation in found.items():
            # What a file says last counts; its failure does not hide what another file knows.
            known = self.known.get(candidate)
            if known is None or known.reason or not evaluation.reason:
                self.known[candidate] = evaluation

    def _check(self, line: dict[str, Any], path: Path) -> None:
        header = convert_record(
            {name: value for name, value in line.items() if name != "line"},
            _Header,
            where=str(path),
            error=EvaluationError,
            fix="choose another --out",
            schema=SCHEMA,
            version=SCHEMA_VERSION,
        )
        if found := differences(header.identity, self._identity):
            raise EvaluationError(
                f"{path} belongs to another measurement ({listed(found)}): ask for the same "
                "again, choose another --out, or delete the file"
            )


def _hold(path: Path) -> LineFile:
    try:
        return LineFile(path)
    except BlockingIOError:
        raise EvaluationError(f"{path} is in use by another run: wait until it is done") from None


def _lines_of(path: Path, *, alone: bool) -> list[bytes]:
    """Another shard's. ``alone``: the run collects all shards, so none may still be running."""
    if alone:
        _hold(path).close()
    try:
        with path.open("rb") as file:
            return whole_lines(file, _BEGINNING)
    except ValueError:
        raise _no_journal(path) from None


def _no_journal(path: Path) -> EvaluationError:
    return EvaluationError(f"{path} is no journal of importances; choose another --out")
