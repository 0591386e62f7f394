"""Candidates evaluated by the workers of a Dask cluster, the one that profiles or another.

A worker needs dshrink with its training packages, and the images and the weights under the paths
that were given. It takes one candidate at a time, with all its threads and its GPU. Each candidate
is sent to a worker by its address: only so is it known which worker failed. One that drives a board
is left alone, for what it evaluates would slow down what it measures.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from dshrink.errors import DshrinkError
from dshrink.importance.evaluation import Evaluation
from dshrink.importance.evaluator import Evaluator
from dshrink.importance.settings import Candidate, EvaluationError, ImportanceSettings
from dshrink.progress import Notice

#: How often the list of workers is looked at, and how long one that died is waited for.
WATCH_S = 1.0
PATIENCE_S = 60.0
#: So many workers may die of a candidate, as Dask has it.
DEATHS = 3
#: What a candidate may take, and its evaluation to be fetched: recalibrations take long.
EVALUATION_S, FETCH_S = 24 * 3600.0, 60.0
#: A worker with this resource evaluates, whatever else it offers.
RESOURCE = "importance"

#: Makes a ``profiler.scheduling.dask_connection.Cluster``, as a context manager.
Connect = Callable[[], Any]

_lock = threading.Lock()
#: A worker keeps what it evaluated for last: images and weights are long to load.
_ready: dict[ImportanceSettings, Evaluator] = {}


def evaluate_here(
    settings: ImportanceSettings, identity: Mapping[str, Any], candidate: Candidate
) -> Evaluation:
    """What a worker does. Raises EvaluationError where its images or weights are others."""
    with _lock:
        if settings not in _ready:
            _ready.clear()
            _ready[settings] = Evaluator(settings)
        evaluator = _ready[settings]
        if differing := [
            name for name, value in identity.items() if evaluator.identity[name] != value
        ]:
            raise EvaluationError(
                f"a worker has other {' and '.join(differing)} under the paths that were given; "
                "let all machines read the same files"
            )
        return evaluator.evaluate(candidate)


def evaluate_on_cluster(
    connect: Connect,
    settings: ImportanceSettings,
    identity: Mapping[str, Any],
    candidates: Sequence[Candidate],
    notice: Notice,
) -> Generator[Evaluation]:
    """The evaluations as they come; a worker that fails is left out, and ``notice`` says so.

    Raises what ``connect`` and the cluster raise, and EvaluationError without a worker that can
    evaluate.
    """
    with connect() as cluster:
        sharing = _Sharing(
            client=cluster.client,
            known_workers=cluster.workers,
            address=cluster.address,
            # A worker's process may have no children: it reads images itself; scores stay the same.
            settings=replace(settings, loaders=0),
            identity=identity,
            notice=notice,
            waiting=deque(candidates),
        )
        yield from sharing.evaluations()


class _Asked(NamedTuple):
    worker: str
    candidate: Candidate
    at_s: float


@dataclass(kw_only=True)
class _Sharing:
    """Who evaluates what: ``running`` maps futures to the worker and its candidate."""

    client: Any
    known_workers: Callable[[], Mapping[str, Any]]
    address: str
    settings: ImportanceSettings
    identity: Mapping[str, Any]
    notice: Notice
    waiting: deque[Candidate]
    running: dict[Any, _Asked] = field(default_factory=dict)
    left_out: dict[str, EvaluationError] = field(default_factory=dict)
    deaths: Counter[Candidate] = field(default_factory=Counter)

    def evaluations(self) -> Generator[Evaluation]:
        while self.waiting or self.running:
            workers = self._workers()
            for future, asked in list(self.running.items()):
                if asked.worker not in workers:
                    yield from self._lose(future)
                elif time.monotonic() - asked.at_s > EVALUATION_S:
                    self._leave_out(future, _hangs(asked.worker))
            busy = {asked.worker for asked in self.running.values()}
            for worker in workers:
                if worker not in busy and worker not in self.left_out and self.waiting:
                    candidate = self.waiting.popleft()
                    arguments = self.settings, self.identity, candidate
                    future = self.client.submit(
                        evaluate_here, *arguments, workers=[worker], pure=False
                    )
                    self.running[future] = _Asked(worker, candidate, time.monotonic())
            for future in self._finished():
                yield from self._take(future)

    def _workers(self) -> list[str]:
        """Those that may; where one died, another is waited for. Raises EvaluationError."""
        died = bool(self.running or self.deaths)
        deadline = time.monotonic() + (PATIENCE_S if died else 0.0)
        while True:
            known = self.known_workers()
            # A board's worker names its board as a resource (docs/fleets.md).
            free = [
                worker
                for worker, facts in known.items()
                if not facts["resources"] or RESOURCE in facts["resources"]
            ]
            if usable := [worker for worker in free if worker not in self.left_out]:
                return usable
            if time.monotonic() >= deadline:
                raise self._no_worker(len(known) - len(free))
            time.sleep(WATCH_S)

    def _no_worker(self, boards: int) -> EvaluationError:
        if self.left_out:
            return list(self.left_out.values())[-1]
        others = f" that evaluates, only {boards} with resources (boards?)" if boards else ""
        return EvaluationError(
            f"{self.address} has no worker{others}: start one with `dask worker {self.address} "
            f'--nthreads 1 --resources "{RESOURCE}=1"`'
        )

    def _finished(self) -> list[Any]:
        from distributed import wait
        from distributed.client import FutureCancelledError

        # A cancelled one is known by its future.
        with suppress(TimeoutError, FutureCancelledError), self.client.as_current():
            wait(list(self.running), timeout=WATCH_S, return_when="FIRST_COMPLETED")
        return [future for future in self.running if future.done()]

    def _take(self, future: Any) -> Generator[Evaluation]:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        try:
            evaluation: Evaluation = future.result(timeout=FETCH_S)
        except (FutureCancelledError, KilledWorker, asyncio.CancelledError, TimeoutError):
            yield from self._lose(future)
        except Exception as error:
            self._leave_out(future, error)
        else:
            del self.running[future]
            yield evaluation

    def _lose(self, future: Any) -> Generator[Evaluation]:
        """Its worker died: another one takes the candidate, unless too many died of it."""
        future.cancel()
        worker, candidate, _ = self.running.pop(future)
        self.deaths[candidate] += 1
        if self.deaths[candidate] < DEATHS:
            self.waiting.append(candidate)
            return
        reason = f"{DEATHS} workers died, the last one {worker}"
        yield Evaluation(candidate=candidate, seconds=0.0, reason=reason)

    def _leave_out(self, future: Any, error: Exception) -> None:
        worker, candidate, _ = self.running.pop(future)
        self.waiting.appendleft(candidate)
        problem = str(error)
        if not isinstance(error, DshrinkError):
            problem = (
                f"a worker of {self.address} failed ({type(error).__name__}: {error}): see its "
                "log, and have the same versions of dshrink and Dask where it runs"
            )
        self.left_out[worker] = EvaluationError(f"{problem}; what was evaluated is in the journal")
        self.notice(f"worker {worker} is left out, the others do its part: {problem}")


def _hangs(worker: str) -> EvaluationError:
    return EvaluationError(
        f"worker {worker} has not answered for {EVALUATION_S / 3600:.0f} h: restart it"
    )
