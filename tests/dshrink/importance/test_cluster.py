"""Importances evaluated by the workers of a cluster, and what becomes of those that fail."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from importance_runs import NETWORKS, begin, evaluations

from dshrink.importance.cluster import DEATHS, _Asked, _Sharing, evaluate_here
from dshrink.importance.evaluation import Evaluation
from dshrink.importance.evaluator import Evaluator
from dshrink.importance.run import ImportanceRun
from dshrink.importance.settings import Candidate, EvaluationError, ImportanceSettings
from profiler.errors import SessionError
from profiler.scheduling.dask_connection import connect

distributed = pytest.importorskip("distributed", reason="Dask is not installed (dshrink[fleet])")

LEFT = 3
#: On any free port: the usual one may be taken.
WITHOUT_DASHBOARD = {"dashboard": False, "dashboard_address": ":0"}
WORKERS: dict[str, dict[str, Any]] = {
    "first": {},
    "second": {"resources": {"raspi4": 1, "importance": 1}},
    "board": {"resources": {"raspi4": 1}},
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """``cluster("first", "board")`` starts these workers in this process; gives the address."""
    monkeypatch.setattr("dshrink.importance.cluster.WATCH_S", 0.05)
    started = []

    def start(*names: str) -> str:
        found = distributed.SpecCluster(
            workers={
                name: {"cls": distributed.Worker, "options": {"nthreads": 2, **WORKERS[name]}}
                for name in names
            },
            scheduler={"cls": distributed.Scheduler, "options": WITHOUT_DASHBOARD},
            silence_logs=50,
        )
        started.append(found)
        return str(found.scheduler_address)

    yield start
    for one in started:
        one.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the workers that evaluated, in their order."""
    names: list[str] = []
    evaluate = Evaluator.evaluate

    def noted(self: Evaluator, candidate: Candidate) -> Evaluation:
        names.append(str(distributed.get_worker().name))
        return evaluate(self, candidate)

    monkeypatch.setattr(Evaluator, "evaluate", noted)
    return names


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, what: Callable[[], object]) -> None:
    """Have ``what`` happen to the worker of this name instead of evaluating."""
    evaluate = Evaluator.evaluate

    def spoilt(self: Evaluator, candidate: Candidate) -> Evaluation:
        if distributed.get_worker().name == name:
            what()
        return evaluate(self, candidate)

    monkeypatch.setattr(Evaluator, "evaluate", spoilt)


def fail() -> None:
    raise ModuleNotFoundError("No module named 'timm'")


@pytest.fixture
def measurement(finished: Path, settings: ImportanceSettings, tmp_path: Path) -> ImportanceRun:
    """One that has ``LEFT`` networks still to evaluate."""
    out = tmp_path / "importance.csv"
    begin(out, finished, NETWORKS - LEFT)
    return ImportanceRun(settings=settings, out=out)


def test_workers_of_a_cluster_make_the_same_table_and_boards_are_left_alone(
    cluster: Callable[..., str], measurement: ImportanceRun, finished: Path, asked: list[str]
) -> None:
    result = replace(
        measurement, connect=partial(connect, cluster("first", "board", "second"))
    ).run()
    assert result.evaluated == len(asked) == LEFT
    assert set(asked) == {"first", "second"}
    assert measurement.out.read_bytes() == finished.read_bytes()


def test_where_all_workers_drive_boards_nobody_is_asked(
    cluster: Callable[..., str], measurement: ImportanceRun, asked: list[str]
) -> None:
    with pytest.raises(EvaluationError, match=r'only 1 with resources.*"importance=1"'):
        replace(measurement, connect=partial(connect, cluster("board"))).run()
    assert asked == []


def test_a_worker_that_fails_is_left_out_with_a_notice(
    cluster: Callable[..., str],
    measurement: ImportanceRun,
    finished: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch, "first", fail)
    said: list[str] = []
    measurement = replace(measurement, connect=partial(connect, cluster("first", "second")))
    assert measurement.run(notice=said.append).evaluated == LEFT
    assert measurement.out.read_bytes() == finished.read_bytes()
    assert asked == ["second"] * LEFT
    [notice] = [line for line in said if "left out" in line]
    assert "ModuleNotFoundError: No module named 'timm'" in notice


def test_where_every_worker_fails_the_run_ends_in_one_line_and_loses_nothing(
    cluster: Callable[..., str], measurement: ImportanceRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "first", fail)
    with pytest.raises(EvaluationError, match=r"a worker of .* failed \(ModuleNotFoundError: No"):
        replace(measurement, connect=partial(connect, cluster("first", "board"))).run()
    journal = measurement.out.with_name("importance.journal.jsonl")
    assert len(evaluations(journal)) == NETWORKS - LEFT


def test_what_a_worker_held_that_went_away_is_evaluated_by_another(
    cluster: Callable[..., str],
    measurement: ImportanceRun,
    finished: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def go_away() -> None:
        worker = distributed.get_worker()
        worker.loop.add_callback(worker.close, executor_wait=False)
        deadline = time.monotonic() + 20
        while worker.status != distributed.Status.closed and time.monotonic() < deadline:
            time.sleep(0.01)
        raise RuntimeError("nobody hears this")

    spoil(monkeypatch, "first", go_away)
    result = replace(measurement, connect=partial(connect, cluster("first", "second"))).run()
    assert result.table is not None and not result.table.missing
    assert asked == ["second"] * LEFT
    assert measurement.out.read_bytes() == finished.read_bytes()


def sharing_of(client: Any, *waiting: Candidate) -> _Sharing:
    more: dict[str, Any] = {
        "settings": None,
        "identity": {},
        "notice": Mock(),
        "known_workers": dict,
    }
    return _Sharing(client=client, address="", waiting=deque(waiting), **more)


def test_the_last_worker_that_went_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dshrink.importance.cluster.WATCH_S", 0.01)
    sharing = sharing_of(None)
    sharing.known_workers = Mock(side_effect=[{}, {}, {"restarted": {"resources": {}}}])
    with pytest.raises(EvaluationError, match="has no worker: start one"):
        sharing._workers()  # nobody was ever there
    sharing.running[Mock()] = _Asked("gone", Candidate("11"), 0.0)
    assert sharing._workers() == ["restarted"]


def test_a_network_that_kills_its_workers_is_given_up() -> None:
    candidate = Candidate("11")
    sharing = sharing_of(None, candidate)
    found: list[Evaluation] = []
    for number in range(DEATHS):
        assert sharing.waiting.pop() == candidate
        future = Mock()
        sharing.running[future] = _Asked(f"worker-{number}", candidate, 0.0)
        assert not found
        found += sharing._lose(future)
    assert not sharing.waiting
    assert [evaluation.reason for evaluation in found] == ["3 workers died, the last one worker-2"]


def test_a_worker_that_beats_and_never_answers_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dshrink.importance.cluster.EVALUATION_S", 0.0)
    monkeypatch.setattr(_Sharing, "_finished", lambda self: [])
    client = Mock()
    client.submit.side_effect = lambda *_, **__: Mock()
    sharing = sharing_of(client, Candidate("11"))
    sharing.known_workers = lambda: {"hangs": {"resources": {}}}
    with pytest.raises(EvaluationError, match=r"worker hangs has not answered for 0 h: restart it"):
        list(sharing.evaluations())
    assert len(client.submit.mock_calls) == 1


def test_a_worker_that_may_have_no_processes_reads_images_itself(
    cluster: Callable[..., str],
    measurement: ImportanceRun,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measurement = replace(measurement, settings=replace(measurement.settings, loaders=1))
    address = cluster("first")
    # As Dask's nanny starts its workers: multiprocessing refuses to start anything in them.
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert replace(measurement, connect=partial(connect, address)).run().evaluated == LEFT
    assert measurement.out.read_bytes() == finished.read_bytes()


@pytest.mark.slow  # another process has to import torch
def test_a_worker_in_a_process_of_its_own_reads_images_itself(
    measurement: ImportanceRun, finished: Path
) -> None:
    measurement = replace(measurement, settings=replace(measurement.settings, loaders=1))
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        scheduler_kwargs=WITHOUT_DASHBOARD,
        silence_logs=50,
    ) as processes:
        result = replace(measurement, connect=partial(connect, processes.scheduler_address)).run()
    assert result.evaluated == LEFT
    assert measurement.out.read_bytes() == finished.read_bytes()


def test_a_worker_that_reads_other_images_is_refused(settings: ImportanceSettings) -> None:
    with pytest.raises(EvaluationError, match="a worker has other data"):
        evaluate_here(settings, {"data": "0123", "seed": 0}, Candidate("1" * 9))


def test_without_a_cluster_the_address_is_named(
    measurement: ImportanceRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.scheduling.dask_connection.CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(SessionError, match="no Dask scheduler answers at"):
        replace(measurement, connect=partial(connect, "tcp://127.0.0.1:1")).run()
