"""Whether measurements make sense beside each other (measuring.md, rule 12).

A latency can be precise and wrong: a piece that the runtime optimised away, a machine that changed
its clock. So twins must agree, what does more of the same must not be faster, and nothing may be
faster than arithmetic allows. What looks wrong is measured once more, and then the table says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

from latency_tables.opspec import Conv, Op, OpSpec, Shape
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.schema import Conditions
from profiler.measurement import Measurement
from profiler.planning.bounds import merged_spans, one_by_one, too_slow
from profiler.planning.jobs import Job
from profiler.planning.places import pair_spec
from profiler.planning.profile_plan import ProfilePlan, pair_job_id, twin_job_id

#: Percent by which a twin may differ.
TWIN_LIMIT_PERCENT = 1.0

#: Kinds of jobs that are looked at: the latencies of pairs are no rows, layers have none.
AUDITED_KINDS = ("piece", "network", "twin")

#: Load average a core above which other work is likely to disturb.
BUSY_LOAD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedLimit:
    """What no machine of a kind exceeds; generous, so that only nonsense is above it."""

    macs_per_s: float
    bytes_per_s: float
    bytes_per_number: int = 4

    def least_ms(self, spec: OpSpec, batch: int) -> float:
        """No run can be shorter: each MAC is done, each input and weight is read once."""
        moved = spec.parameters + batch * (
            math.prod(spec.input_shape) + math.prod(spec.output_shape)
        )
        compute_s = batch * spec.macs / self.macs_per_s
        memory_s = moved * self.bytes_per_number / self.bytes_per_s
        return 1e3 * max(compute_s, memory_s)


#: One thread of a CPU: 32 fused multiply-adds a cycle at 6 GHz, and fast convolution algorithms
#: that save up to 4 of 5 of them; two 64-byte loads a cycle. fp32.
CPU_THREAD = SpeedLimit(macs_per_s=1e12, bytes_per_s=1e12)
#: One GPU by precision: several times what the largest one of 2026 does, with fast algorithms and
#: all data in its cache.
GPU = {
    "fp32": SpeedLimit(macs_per_s=5e14, bytes_per_s=4e13),
    "fp16": SpeedLimit(macs_per_s=1e16, bytes_per_s=4e13, bytes_per_number=2),
    "int8": SpeedLimit(macs_per_s=2e16, bytes_per_s=4e13, bytes_per_number=1),
}
ALIGNED_CHANNELS = 8
#: Percent within which another build of an engine may turn around which of two forms is faster.
RIVAL_PERCENT = 5.0


def speed_limit(conditions: Conditions) -> SpeedLimit | None:
    """The limit for these conditions; None where none is known."""
    if conditions.clock == "cuda_events":
        return GPU.get(conditions.precision)
    if conditions.precision != "fp32":
        return None
    return SpeedLimit(
        macs_per_s=CPU_THREAD.macs_per_s * conditions.threads,
        bytes_per_s=CPU_THREAD.bytes_per_s * conditions.threads,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A piece measured twice, from two files of different weights."""

    piece: str
    digest: str
    latency_ms: float
    twin_ms: float

    @property
    def difference_percent(self) -> float:
        return 100.0 * (self.twin_ms / self.latency_ms - 1.0)

    @property
    def agree(self) -> bool:
        return abs(self.difference_percent) <= TWIN_LIMIT_PERCENT

    def to_json(self) -> dict[str, Any]:
        derived = {"difference_percent": self.difference_percent, "agree": self.agree}
        return {**asdict(self), **derived}


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found; ``suspects`` are the ids of the jobs that a warning is about."""

    twins: tuple[Twin, ...]
    warnings: tuple[str, ...]
    suspects: frozenset[str]


def audit(
    plan: ProfilePlan, measurements: Mapping[str, Measurement], conditions: Conditions
) -> Audit:
    """Compare the measurements with each other and with what is possible at all."""
    audited = (job for job in plan.jobs if job.kind in AUDITED_KINDS)
    known = [job for job in audited if not measurements[job.id].failed]
    pieces = [job for job in known if job.kind == "piece"]
    twins = _twins(known, measurements)
    found = [
        *_disagreeing(twins),
        *_too_fast(known, measurements, conditions),
        *_out_of_order(pieces, measurements, conditions),
    ]
    return Audit(
        twins=tuple(twins),
        warnings=tuple(text for text, _ in found),
        suspects=frozenset(name for _, names in found for name in names),
    )


def rivals(plan: ProfilePlan, measurements: Mapping[str, Measurement]) -> frozenset[str]:
    """The pieces of blocks or spans whose original and merged forms are within RIVAL_PERCENT.

    Which of them is faster decides a plan, so they are worth more than one build.
    """
    found: set[str] = set()
    for originals, merged in _rival_forms(plan.pieces):
        forms = (*originals, merged)
        known = [measurements.get(piece.spec.digest) for piece in forms]
        latencies = [one.latency_ms for one in known if one is not None and not one.failed]
        if len(latencies) < len(forms):
            continue
        first, second = math.fsum(latencies[:-1]), latencies[-1]
        if abs(first - second) <= RIVAL_PERCENT / 100.0 * max(first, second):
            behind = (pair_spec(plan.pieces, piece) for piece in forms)
            found.update(piece.spec.digest for piece in forms)
            found.update(pair_job_id(spec) for spec in behind if spec is not None)
    return frozenset(found & measurements.keys())


def slow_jobs(plan: ProfilePlan, measurements: Mapping[str, Measurement]) -> frozenset[str]:
    """The jobs of spans that are too slow to be worth another round.

    A piece that stands at several places is one job; it is slow where it is at all of them.
    """
    slow = too_slow(plan.pieces, measurements, plan.in_networks)
    of_others = {p.spec.digest for p in plan.pieces.pieces if p.place not in slow}
    found: set[str] = set()
    for piece in (plan.pieces.by_place[place] for place in slow):
        behind = pair_spec(plan.pieces, piece)
        digest = piece.spec.digest
        names = [digest, twin_job_id(digest), *([pair_job_id(behind)] if behind else [])]
        found.update(names if digest not in of_others else ())
    return frozenset(found)


def _rival_forms(pieces: NetworkPieces) -> Iterator[tuple[tuple[Piece, ...], Piece]]:
    """Original and merged forms of the same: a block, or the layers of a span one by one."""
    for span, piece in merged_spans(pieces):
        yield one_by_one(pieces, span), piece
    for (kind, block), piece in pieces.by_place.items():
        if kind in ("merged", "merged_bias_map") and isinstance(block, int):
            yield (pieces.piece("original", block),), piece


_Finding = tuple[str, tuple[str, ...]]


def _twins(known: Sequence[Job], measurements: Mapping[str, Measurement]) -> list[Twin]:
    pieces = {job.id: job for job in known if job.kind == "piece"}
    return [
        Twin(
            piece=pieces[twin.spec.digest].label,
            digest=twin.spec.digest,
            latency_ms=measurements[twin.spec.digest].latency_ms,
            twin_ms=measurements[twin.id].latency_ms,
        )
        for twin in known
        if twin.kind == "twin" and twin.spec.digest in pieces
    ]


def _disagreeing(twins: Iterable[Twin]) -> list[_Finding]:
    return [
        (
            f"{twin.piece}: two measurements of it, {twin.latency_ms:.4g} and {twin.twin_ms:.4g} "
            f"ms, differ by {abs(twin.difference_percent):.1f} %; at most "
            f"{TWIN_LIMIT_PERCENT:g} % was expected",
            (twin.digest, twin_job_id(twin.digest)),
        )
        for twin in twins
        if not twin.agree
    ]


def _too_fast(
    jobs: Iterable[Job], measurements: Mapping[str, Measurement], conditions: Conditions
) -> list[_Finding]:
    limit = speed_limit(conditions)
    if limit is None:
        return []
    found: list[_Finding] = []
    for job in jobs:
        least_ms = limit.least_ms(job.spec, conditions.batch)
        latency_ms = measurements[job.id].latency_ms
        if latency_ms < least_ms:
            text = (
                f"{job.label}: {latency_ms:.4g} ms is faster than any such machine computes "
                f"({least_ms:.4g} ms): the runtime did not run all of it"
            )
            found.append((text, (job.id,)))
    return found


def _out_of_order(
    pieces: Sequence[Job], measurements: Mapping[str, Measurement], conditions: Conditions
) -> list[_Finding]:
    found: list[_Finding] = []
    if conditions.clock == "cuda_events":
        pieces = [piece for piece in pieces if _is_aligned(piece.spec)]
    for larger, smaller in permutations(pieces, 2):
        if not does_more(larger.spec, smaller.spec):
            continue
        fast, slow = measurements[larger.id], measurements[smaller.id]
        if fast.high_ms < slow.low_ms:
            text = (
                f"{larger.label} has more channels or larger kernels than {smaller.label}, and yet "
                f"takes {fast.latency_ms:.4g} ms against {slow.latency_ms:.4g} ms"
            )
            found.append((text, (larger.id, smaller.id)))
    return found


def _is_aligned(spec: OpSpec) -> bool:
    """Whether all channels are multiples of 8: others really are slower on a GPU's tensor cores."""
    return all(shape[0] % ALIGNED_CHANNELS == 0 for shape in spec.shapes if len(shape) == 3)


def does_more(larger: OpSpec, smaller: OpSpec) -> bool:
    """Whether two pieces are the same but for more channels or larger kernels in the first."""
    if len(larger.ops) != len(smaller.ops) or larger.macs <= smaller.macs:
        return False
    shapes = zip(larger.shapes, smaller.shapes, strict=True)
    if not all(_is_as_wide(*pair) for pair in shapes):
        return False
    return all(_is_as_large(*pair) for pair in zip(larger.ops, smaller.ops, strict=True))


def _is_as_wide(larger: Shape, smaller: Shape) -> bool:
    same_size = len(larger) == len(smaller) and larger[1:] == smaller[1:]
    return same_size and larger[0] >= smaller[0]


def _is_as_large(larger: Op, smaller: Op) -> bool:
    if not isinstance(larger, Conv) or not isinstance(smaller, Conv):
        sizes = {"out_features", "shape"}
        first, second = (
            {name: value for name, value in asdict(op).items() if name not in sizes}
            for op in (larger, smaller)
        )
        return larger.kind == smaller.kind and first == second
    same = (larger.inputs, larger.stride, larger.dilation) == (
        smaller.inputs,
        smaller.stride,
        smaller.dilation,
    )
    dense = larger.groups == smaller.groups == 1
    depthwise = larger.groups == larger.out_channels and smaller.groups == smaller.out_channels
    taller = all(a >= b for a, b in zip(larger.kernel, smaller.kernel, strict=True))
    return same and taller and (dense or depthwise)


def machine_warnings(environment: Mapping[str, Any], conditions: Conditions) -> tuple[str, ...]:
    """What about the machine's state speaks against trusting its numbers."""
    found = []
    on_gpu = conditions.clock == "cuda_events"
    gpu = environment.get("gpu") or {}
    if on_gpu and gpu.get("held_mhz") is None and environment.get("power_mode") is None:
        found.append(
            "dshrink did not hold the GPU's clock: it may have changed while measuring; "
            "--hold-clocks keeps it steady"
        )
    governor = environment.get("governor")
    if governor and governor != "performance" and not on_gpu:
        found.append(
            f"the CPU governor is {governor!r}: the clock may change while measuring; "
            "`performance` keeps it steady"
        )
    load, cores = environment.get("load_average"), environment.get("cores")
    if load is not None and cores and load > BUSY_LOAD * cores:
        found.append(
            f"the load average was {load:.1f} on {cores} cores before the start: other work "
            "competes with the measurement"
        )
    return tuple(found)
