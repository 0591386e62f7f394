"""Which jobs extra rounds build anew, and which jobs get no further round."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from latency_tables.pieces import NetworkPieces, Piece
from profiler.measurement import Measurement
from profiler.planning.bounds import merged_spans, one_by_one, too_slow
from profiler.planning.places import pair_spec
from profiler.planning.profile_plan import ProfilePlan, duplicate_job_id, pair_job_id

#: Percent within which another build of an engine may turn around which of two forms is faster.
CLOSE_PERCENT = 5.0


def close_forms(plan: ProfilePlan, measurements: Mapping[str, Measurement]) -> frozenset[str]:
    """The pieces of blocks or spans whose original and merged forms are within CLOSE_PERCENT.

    Which of them is faster decides a plan, so they are worth more than one build.
    """
    found: set[str] = set()
    for originals, merged in _alternative_forms(plan.pieces):
        forms = (*originals, merged)
        known = [measurements.get(piece.spec.digest) for piece in forms]
        latencies = [one.latency_ms for one in known if one is not None and not one.failed]
        if len(latencies) < len(forms):
            continue
        first, second = math.fsum(latencies[:-1]), latencies[-1]
        if abs(first - second) <= CLOSE_PERCENT / 100.0 * max(first, second):
            behind = (pair_spec(plan.pieces, piece) for piece in forms)
            found.update(piece.spec.digest for piece in forms)
            found.update(pair_job_id(spec) for spec in behind if spec is not None)
    return frozenset(found & measurements.keys())


def slow_jobs(plan: ProfilePlan, measurements: Mapping[str, Measurement]) -> frozenset[str]:
    """The jobs of spans that are too slow to be worth another round.

    A piece at several places is one job; it is too slow if it is at all of them.
    """
    slow = too_slow(plan.pieces, measurements, plan.in_networks)
    of_others = {p.spec.digest for p in plan.pieces.pieces if p.place not in slow}
    found: set[str] = set()
    for piece in (plan.pieces.by_place[place] for place in slow):
        behind = pair_spec(plan.pieces, piece)
        digest = piece.spec.digest
        names = [digest, duplicate_job_id(digest), *([pair_job_id(behind)] if behind else [])]
        found.update(names if digest not in of_others else ())
    return frozenset(found)


def _alternative_forms(pieces: NetworkPieces) -> Iterator[tuple[tuple[Piece, ...], Piece]]:
    """Original and merged forms of the same: a block, or the layers of a span one by one."""
    for span, piece in merged_spans(pieces):
        yield one_by_one(pieces, span), piece
    for (kind, block), piece in pieces.by_place.items():
        if kind in ("merged", "merged_bias_map") and isinstance(block, int):
            yield (pieces.piece("original", block),), piece
