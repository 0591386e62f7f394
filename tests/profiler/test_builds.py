"""Engines are asked for by digest, timing caches travel, each round builds anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from devices.connection import PushedFile
from devices.environment import Environment
from latency_tables.opspec import Activation, OpSpec
from latency_tables.schema import Conditions
from profiler.builds import Builds
from profiler.planning.jobs import AnyJob, Job
from profiler.replies import Failure, Reply, Samples
from profiler.scheduling.board_protocol import Outcome, Request, run_blocking

GPU = {"gpu": {"name": "Simulated"}}
ENGINE = "e" * 64


def job(name: str, kind: str = "piece", channels: int = 3, seed: int = 0) -> Job:
    op = Activation(inputs=(0,), function="relu")
    spec = OpSpec(input_shape=(channels, 4, 4), ops=(op,))
    return Job(id=name, kind=kind, label=name, spec=spec, weights_seed=seed)


def conditions(runtime: str = "tensorrt", version: str = "8.5.3") -> Conditions:
    clock = "wall" if runtime == "onnxruntime" else "cuda_events"
    return Conditions(device="d", runtime=runtime, runtime_version=version, clock=clock)


def builds(folder: Path, jobs: list[AnyJob], of: Conditions | None = None) -> Builds:
    by_id = {one.id: one for one in jobs}
    return Builds(conditions=of or conditions(), workloads=folder / "workloads", jobs=by_id)


def reply(name: str, number: int = 0, board: str = "b", **built: Any) -> Reply:
    samples = Samples(wall_ns=(1000,), device_ns=(1000,), built=built)
    return Reply(job_id=name, round=number, attempt=0, board=board, outcome=samples)


class ScriptedBoard:
    """Notes the files that it gets, and answers each recall with the next of its answers."""

    def __init__(self, *learned: bytes | None) -> None:
        self._learned = list(learned)
        self.pushed: list[Path] = []
        self.recalled: list[str] = []

    async def begin(self) -> Environment:
        raise NotImplementedError

    async def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        self.pushed += files
        return tuple(PushedFile(path="/far/cache", sha256="c" * 64) for _ in files)

    async def execute(self, requests: Sequence[Request], timeout_s: float) -> tuple[Outcome, ...]:
        raise NotImplementedError

    async def recall(self, runtime: str) -> bytes | None:
        self.recalled.append(runtime)
        return self._learned.pop(0)

    def begins(self, known: Builds, gpu: Mapping[str, Any] = GPU) -> list[Path]:
        """The files that a round brings here at its start."""
        del self.pushed[:]
        run_blocking(known.begin("b", self, gpu))
        return list(self.pushed)

    def keeps(self, known: Builds) -> list[str]:
        """The runtimes that are asked for their state."""
        del self.recalled[:]
        run_blocking(known.keep(self))
        return list(self.recalled)


def test_an_engine_is_asked_for_only_on_the_board_and_for_the_file_it_was_built_from(
    tmp_path: Path,
) -> None:
    first, other, reseeded = job("a"), job("o", channels=5), job("t", seed=1)
    known = builds(tmp_path, [first, other, reseeded])
    assert known.options("b", first, 0) == {}
    known.note([reply("a", engine_sha256=ENGINE, engine_reused=False)])
    assert known.options("b", first, 0) == {"engine_sha256": ENGINE}
    assert known.options("elsewhere", first, 0) == {}
    assert known.options("b", other, 0) == {} == known.options("b", reseeded, 0)


def test_each_round_builds_anew_and_its_visits_share_that_engine(tmp_path: Path) -> None:
    piece, layers = job("a"), job("layers of a", kind="layers")
    known = builds(tmp_path, [piece, layers])
    known.note([reply("a", engine_sha256=ENGINE)])
    assert known.options("b", piece, 0) == {"engine_sha256": ENGINE}
    assert known.options("b", layers, 0) == {"engine_sha256": ENGINE}
    assert known.options("b", piece, 1) == {"build": 1}
    known.note([reply("layers of a", number=1, engine_sha256="f" * 64)])
    assert known.options("b", piece, 1) == {"build": 1, "engine_sha256": "f" * 64}
    assert known.options("b", piece, 0) == {"engine_sha256": ENGINE}
    assert known.options("b", piece, 2) == {"build": 2}


def test_later_builds_teach_the_timing_cache_nothing(tmp_path: Path) -> None:
    known = builds(tmp_path, [job("a")])
    board = ScriptedBoard(b"learned")
    board.begins(known)
    known.note([reply("a", number=1, engine_reused=False)])
    assert board.keeps(known) == []


def test_failures_and_jobs_of_another_plan_leave_no_engine(tmp_path: Path) -> None:
    piece = job("a")
    known = builds(tmp_path, [piece])
    failed = Failure(type="worker_crashed", message="m")
    known.note([Reply(job_id="a", round=0, attempt=0, board="b", outcome=failed)])
    known.note([reply("gone", engine_sha256=ENGINE)])
    assert known.options("b", piece, 0) == {}


def test_a_runtime_that_builds_nothing_is_asked_for_nothing(tmp_path: Path) -> None:
    piece = job("a")
    known = builds(tmp_path, [piece], conditions("onnxruntime"))
    known.note([reply("a", engine_sha256=ENGINE, engine_reused=False)])
    assert known.options("b", piece, 4) == {}
    board = ScriptedBoard()
    assert board.begins(known) == [] == board.keeps(known)


def test_the_timing_cache_is_kept_beside_the_journal_and_handed_to_the_next_agent(
    tmp_path: Path,
) -> None:
    piece = job("a")
    known = builds(tmp_path, [piece])
    board = ScriptedBoard(b"learned", b"learned more")
    assert board.begins(known) == []
    assert board.keeps(known) == [], "nothing was built yet"
    known.note([reply("a", engine_reused=False)])
    assert board.keeps(known) == ["tensorrt"]
    (cache,) = tmp_path.glob("timing_cache-*")
    assert cache.read_bytes() == b"learned"
    assert board.keeps(known) == [], "nothing was built since"

    (handed_over,) = board.begins(known)
    known.note([reply("a", engine_reused=False)])
    assert board.keeps(known) == ["tensorrt"]
    assert cache.read_bytes() == b"learned more"
    assert handed_over.read_bytes() == b"learned", "what an agent was told the digest of stays"
    wanted = {"timing_cache": "/far/cache", "timing_cache_sha256": "c" * 64}
    assert known.options("b", piece, 0) == wanted
    assert known.options("other board", piece, 0) == {}
    assert known.options("b", piece, 1) == {"build": 1}, "a new build starts from nothing"


def test_a_cache_that_cannot_be_had_leaves_the_old_one(tmp_path: Path) -> None:
    known = builds(tmp_path, [job("a")])
    board = ScriptedBoard(b"old", None)
    board.begins(known)
    for _ in range(2):
        known.note([reply("a", engine_reused=False)])
        assert board.keeps(known) == ["tensorrt"]
    (cache,) = tmp_path.glob("timing_cache-*")
    assert cache.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("gpu", "version"), [("Other", "8.5.3"), ("Simulated", "8.6.0"), ("Simulated", "8.5.3")]
)
def test_a_cache_is_for_one_version_on_one_gpu(tmp_path: Path, gpu: str, version: str) -> None:
    first = builds(tmp_path, [job("a")])
    board = ScriptedBoard(b"learned")
    board.begins(first)
    first.note([reply("a", engine_reused=False)])
    board.keeps(first)
    second = builds(tmp_path, [job("a")], conditions(version=version))
    is_same = (gpu, version) == ("Simulated", "8.5.3")
    assert bool(board.begins(second, {"gpu": {"name": gpu}})) == is_same
