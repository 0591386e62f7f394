"""Whether measurements are consistent with each other.

A latency can be precise and wrong: a piece that the runtime optimised away, a machine that changed
its clock. So what does more of the same must not be faster, and nothing may be faster than
arithmetic allows. What looks wrong is a warning of the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

from latency_tables.opspec import Conv, Op, OpSpec, Shape
from latency_tables.schema import Conditions
from profiler.measurement import Measurement
from profiler.planning.jobs import Job

#: Pieces that a warning names before it stops.
NAMED = 2

#: Load average a core above which other work is likely to disturb.
BUSY_LOAD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedLimit:
    """What no machine of a kind exceeds; generous, so that only impossible values exceed it."""

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


def audit(
    jobs: Iterable[Job], measurements: Mapping[str, Measurement], conditions: Conditions
) -> tuple[str, ...]:
    """Compare the measurements with each other and with what is possible at all; warnings."""
    timed = (job for job in jobs if job.kind in ("piece", "network"))
    known = [job for job in timed if not measurements[job.id].failed]
    pieces = [job for job in known if job.kind == "piece"]
    return (
        *_summary(
            _too_fast(known, measurements, conditions),
            "faster than any such machine computes: the runtime did not run all of it; report it",
        ),
        *_summary(
            _out_of_order(pieces, measurements, conditions),
            "faster than one with fewer channels or smaller kernels; if that is not the runtime's "
            "choice of kernels, profile again",
        ),
    )


def _summary(found: Iterable[str], meaning: str) -> Iterator[str]:
    texts = list(found)
    if texts:
        more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
        yield f"{', '.join(texts[:NAMED])}{more}: {meaning}"


def _too_fast(
    jobs: Iterable[Job], measurements: Mapping[str, Measurement], conditions: Conditions
) -> Iterator[str]:
    limit = speed_limit(conditions)
    if limit is None:
        return
    for job in jobs:
        least_ms = limit.least_ms(job.spec, conditions.batch)
        latency_ms = measurements[job.id].latency_ms
        if latency_ms < least_ms:
            yield f"{job.label} ({latency_ms:.4g} ms, possible are {least_ms:.4g} ms)"


def _out_of_order(
    pieces: Sequence[Job], measurements: Mapping[str, Measurement], conditions: Conditions
) -> Iterator[str]:
    if conditions.clock == "cuda_events":
        pieces = [piece for piece in pieces if _is_aligned(piece.spec)]
    alike: dict[Any, list[Job]] = {}
    for piece in pieces:
        kinds = tuple(op.kind for op in piece.spec.ops)
        sizes = tuple(shape[1:] for shape in piece.spec.shapes)
        alike.setdefault((kinds, sizes), []).append(piece)
    pairs = (pair for group in alike.values() for pair in permutations(group, 2))
    for larger, smaller in pairs:
        if not does_more(larger.spec, smaller.spec):
            continue
        fast, slow = measurements[larger.id], measurements[smaller.id]
        if fast.high_ms < slow.low_ms:
            yield (
                f"{larger.label} ({fast.latency_ms:.4g} ms; {smaller.label}: "
                f"{slow.latency_ms:.4g} ms)"
            )


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
    """Warnings about a state of the machine that makes its latencies unreliable."""
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
            f"the load average was {load:.1f} on {cores} cores before the start: end other work, "
            "and profile again into another folder if the error is too large"
        )
    return tuple(found)
