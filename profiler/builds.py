"""What a runtime built for this run, and what it learned from building.

Two builds of one file need not be equally fast, so a build is what a process is elsewhere: each
round builds anew, and within a round all visits of a file measure the same engine. Engines stay on
the board that built them, next to the file they were built from; the host remembers their digests
and asks for no other, since a serialized engine is code. TensorRT times the kernels
that it chooses among; its timing cache lets later builds choose the same ones in less time. One
such file a table is kept next to the journal; its name holds a digest of the version and GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devices.connection import PushedFile
from latency_tables.files import write_atomically
from latency_tables.schema import Conditions
from profiler.planning.jobs import AnyJob
from profiler.replies import Reply
from profiler.runtimes import traits_of
from profiler.scheduling.board_protocol import Board
from profiler.workload_files import TIMING_CACHE_SUFFIX

#: Board, digest of the file, seed of its weights, round.
_Key = tuple[str, str, int, int]


@dataclass(kw_only=True)
class Builds:
    """The engines and the timing cache of a run. ``jobs`` are all that it knows, by id.

    Nothing is done for a runtime that builds nothing.
    """

    conditions: Conditions
    #: Where the files of this run are; the journal is in the folder above.
    workloads: Path
    jobs: Mapping[str, AnyJob]
    _engines: dict[_Key, str] = field(default_factory=dict)
    _first: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    _handed_over: dict[str, PushedFile] = field(default_factory=dict)
    _cache: Path | None = None
    _learned: bool = False

    def __post_init__(self) -> None:
        self._traits = traits_of(self.conditions)

    def note(self, replies: Iterable[Reply]) -> None:
        """Remember which engine each board built of each file in each round."""
        for reply in replies:
            job = self.jobs.get(reply.job_id)
            if job is None or not reply.built:
                continue
            is_new = reply.built.get("engine_reused") is False
            self._learned = self._learned or (is_new and reply.round == 0)
            if "build_s" in reply.built:
                self._first.setdefault((job.digest, job.weights_seed), reply.built)
            if digest := reply.built.get("engine_sha256"):
                self._engines[_key(reply.board, job, reply.round)] = str(digest)

    def facts(self, job: AnyJob) -> Mapping[str, Any]:
        """What the runtime reported about the first build of a job's file, if it builds."""
        return self._first.get((job.digest, job.weights_seed), {})

    def options(self, board: str, job: AnyJob, number: int) -> dict[str, Any]:
        """Which engine the agent has to use: this round's, or a new one where there is none yet.

        The first round builds with the timing cache, the others from nothing.
        """
        if not self._traits.builds:
            return {}
        options: dict[str, Any] = {"build": number} if number else {}
        if known := self._engines.get(_key(board, job, number)):
            options["engine_sha256"] = known
        if (cache := self._handed_over.get(board)) and not number:
            options["timing_cache"] = cache.path
            options["timing_cache_sha256"] = cache.sha256
        return options

    async def begin(self, name: str, board: Board, environment: Mapping[str, Any]) -> None:
        """Bring the timing cache to the board of this name, where there is one already."""
        if not self._traits.builds:
            return
        gpu = environment.get("gpu") or {}
        about = [self.conditions.runtime, self.conditions.runtime_version, str(gpu.get("name"))]
        digest = hashlib.sha256("/".join(about).encode()).hexdigest()[:8]
        self._cache = self.workloads.parent / f"timing_cache-{digest}{TIMING_CACHE_SUFFIX}"
        self._handed_over.pop(name, None)
        if self._cache.exists():
            (self._handed_over[name],) = await board.push((self._copy(self._cache),))

    async def keep(self, board: Board) -> None:
        """Ask for the timing cache and save it, where something was built since the last time."""
        if not self._traits.builds or not self._learned:
            return
        self._learned = False
        learned = await board.recall(self.conditions.runtime)
        if learned is not None and self._cache is not None:
            write_atomically(self._cache, learned)

    def _copy(self, cache: Path) -> Path:
        """A copy that stays as it is while the cache grows: agents know its digest."""
        content = cache.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        copy = self.workloads / f"{cache.stem}-{digest}{TIMING_CACHE_SUFFIX}"
        if not copy.exists():
            write_atomically(copy, content)
        return copy


def _key(board: str, job: AnyJob, number: int) -> _Key:
    return board, job.digest, job.weights_seed, number
