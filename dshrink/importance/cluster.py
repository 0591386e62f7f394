"""Candidates judged by the workers of a Dask cluster, the one that profiles or another.

A worker needs dshrink with its training packages, and the images and the weights under the paths
that were given. It takes one candidate at a time, with all its threads and its GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dshrink.errors import DshrinkError
from dshrink.importance.errors import EvaluationError
from dshrink.importance.evaluation import Evaluation
from dshrink.importance.evaluator import Evaluator
from dshrink.importance.settings import Candidate, Settings

CONNECT_TIMEOUT_S = 15.0

_lock = threading.Lock()
#: A worker keeps what it judged for last: images and weights are long to load.
_ready: dict[Settings, Evaluator] = {}


def judge_here(settings: Settings, identity: Mapping[str, Any], candidate: Candidate) -> Evaluation:
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
        return evaluator.judge(candidate)


def free_workers(client: Any, address: str) -> list[str]:
    """The workers that name no resource: whoever drives a board measures, and is left alone."""
    known = client.scheduler_info(n_workers=-1)["workers"]
    free = [name for name, facts in known.items() if not facts.get("resources")]
    if not free:
        boards = f" but {len(known)} that drive boards" if known else ""
        raise EvaluationError(
            f"{address} has no worker{boards}: start one with `dask worker {address} --nthreads 1`"
        )
    return free


def judge_on_cluster(
    address: str,
    settings: Settings,
    identity: Mapping[str, Any],
    candidates: Sequence[Candidate],
) -> Generator[Evaluation]:
    """The evaluations as they come. Raises EvaluationError without a cluster or its workers."""
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise EvaluationError(
            f"--scheduler needs Dask ({error}): python -m pip install 'distributed>=2026.8'"
        ) from error
    try:
        client = Client(
            address, set_as_default=False, timeout=CONNECT_TIMEOUT_S, name="dshrink-importance"
        )
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"no Dask scheduler answers at {address} ({type(error).__name__}): start one with "
            "`dask scheduler`, and give the address that it prints"
        ) from error
    with client:
        # A worker's processes may have no children: it reads images itself. Scores do not change.
        there = replace(settings, loaders=0)
        workers = free_workers(client, address)
        futures = {
            client.submit(
                judge_here, there, identity, candidate, pure=False, workers=workers
            ): candidate
            for candidate in candidates
        }
        for future in as_completed(futures, loop=client.loop):
            try:
                yield future.result()
            except KilledWorker as error:
                reason = f"its workers died ({error})"
                yield Evaluation(candidate=futures[future], seconds=0.0, reason=reason)
            except DshrinkError:
                raise
            except Exception as error:
                raise EvaluationError(
                    f"a worker of {address} failed ({type(error).__name__}: {error}): see its log, "
                    "and have the same versions of dshrink and Dask where it runs; what was judged "
                    "is in the journal"
                ) from error
