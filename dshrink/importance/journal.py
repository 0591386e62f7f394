"""Every evaluation, one JSON line each, on disk before the next one starts.

A run writes one journal and reads those of its other shards too, which lie beside the table. The
first line says what the scores depend on; journals of anything else are refused. The line that a
killed process left unfinished is dropped, and its network judged again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from dshrink.importance.errors import EvaluationError
from dshrink.importance.evaluation import Evaluation
from dshrink.importance.settings import Candidate

SCHEMA = "dshrink.importance.journal"
SCHEMA_VERSION = 1
ENDING = ".journal.jsonl"


class Shard(NamedTuple):
    """Part ``number`` of ``of``, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """ "2/4". Raises EvaluationError."""
        number, _, of = text.partition("/")
        if number.isascii() and of.isascii() and number.isdigit() and of.isdigit():
            found = cls(int(number), int(of))
            if 1 <= found.number <= found.of:
                return found
        raise EvaluationError(f"--shard {text!r}: give K/N with K from 1 to N, such as 2/4")


def journal_path(table: Path, shard: Shard | None) -> Path:
    """Beside the table: importance.journal.jsonl, importance.shard-2-of-4.journal.jsonl."""
    part = f".shard-{shard.number}-of-{shard.of}" if shard else ""
    return table.with_name(f"{table.stem}{part}{ENDING}")


class Journal:
    """The journal of a run, held against other processes, and what is known from all of them."""

    def __init__(self, table: Path, shard: Shard | None, identity: Mapping[str, Any]) -> None:
        self.path = journal_path(table, shard)
        self.known: dict[Candidate, Evaluation] = {}
        self._header = {"line": "header", "schema": SCHEMA, "schema_version": SCHEMA_VERSION}
        self._header["identity"] = dict(identity)
        self._file = _hold(self.path)
        try:
            for other in sorted(_journals_of(table) - {self.path}):
                self._read_other(other, alone=shard is None)
            self._file.truncate(self._take(self._file.read(), self.path))
            if not self._file.seek(0, os.SEEK_END):
                self._append(self._header)
        except BaseException:
            self._file.close()
            raise

    def add(self, evaluation: Evaluation) -> None:
        """Write an evaluation down."""
        self._append(evaluation.to_json())
        self.known[evaluation.candidate] = evaluation

    def _note(self, evaluation: Evaluation) -> None:
        """Take what a file says last; its failure does not hide what another file knows."""
        known = self.known.get(evaluation.candidate)
        if known is None or known.reason or not evaluation.reason:
            self.known[evaluation.candidate] = evaluation

    def close(self) -> None:
        self._file.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read_other(self, path: Path, *, alone: bool) -> None:
        """Another shard's; whoever collects them all does not want one that is still at work."""
        if not alone:
            self._take(path.read_bytes(), path)
            return
        with _closing(_hold(path)) as file:
            self._take(file.read(), path)

    def _take(self, content: bytes, path: Path) -> int:
        """Read what is whole; returns how many bytes that is."""
        whole = content[: content.rfind(b"\n") + 1]
        found: dict[Candidate, Evaluation] = {}
        for number, text in enumerate(whole.splitlines(), start=1):
            try:
                line = json.loads(text)
                if number > 1:
                    evaluation = Evaluation.from_json(line)
                    found[evaluation.candidate] = evaluation
            except (KeyError, TypeError, ValueError) as error:
                raise EvaluationError(
                    f"{path}, line {number}: {error}; delete the lines from there on, or the file "
                    "to start afresh"
                ) from None
            if number == 1:
                self._check(line, path)
        for evaluation in found.values():
            self._note(evaluation)
        return len(whole)

    def _check(self, line: Any, path: Path) -> None:
        if not isinstance(line, dict) or line.get("schema") != SCHEMA:
            raise EvaluationError(f"{path} is no journal of importances; choose another --out")
        if line.get("schema_version") != SCHEMA_VERSION:
            raise EvaluationError(
                f"{path} has schema version {line.get('schema_version')}, this dshrink reads "
                f"{SCHEMA_VERSION}: update dshrink or choose another --out"
            )
        before, now = line.get("identity") or {}, self._header["identity"]
        assert isinstance(now, dict)
        if differences := [
            f"{name} was {before.get(name)}, now {now.get(name)}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]:
            raise EvaluationError(
                f"{path} belongs to another measurement ({'; '.join(differences)}): ask for the "
                "same again, choose another --out, or delete the file"
            )


def _journals_of(table: Path) -> set[Path]:
    shards = table.parent.glob(f"{_literal(table.stem)}.shard-*-of-*{ENDING}")
    main = journal_path(table, None)
    return {*shards, *([main] if main.exists() else [])}


def _literal(name: str) -> str:
    """A name in which glob finds nothing to expand."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _hold(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise EvaluationError(f"{path} is in use by another run: wait until it is done") from None
    file.seek(0)
    return file


@contextmanager
def _closing(file: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        yield file
    finally:
        file.close()
