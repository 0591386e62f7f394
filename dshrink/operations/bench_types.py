"""ONNX files in the types that the runtime reads right.

A file is measured as it is. But TensorRT before 11 chooses types by the precision that is allowed,
and can misread a file in fp16: it is given the same numbers as fp32, as pieces and networks that
dshrink writes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from dshrink.operations.bench_networks import BenchmarkError, BenchNetwork
from dshrink.progress import Notice
from latency_tables.onnx_data import MOST_BYTES
from latency_tables.onnx_types import widen
from latency_tables.schema import Conditions
from profiler.planning.jobs import FileJob
from profiler.runtimes import TYPED_FROM, is_weakly_typed


def readable(
    networks: Sequence[BenchNetwork], conditions: Conditions, notice: Notice
) -> list[BenchNetwork]:
    """The networks as the runtime is given them; ``notice`` reports what was changed.

    Raises BenchmarkError for a file that is too large then.
    """
    if not is_weakly_typed(conditions):
        return list(networks)
    return [_in_fp32(one, conditions, notice) for one in networks]


def _in_fp32(network: BenchNetwork, conditions: Conditions, notice: Notice) -> BenchNetwork:
    job = network.job
    if not isinstance(job, FileJob):
        return network
    model = onnx.ModelProto.FromString(job.content or job.file.read_bytes())
    if not widen(model):
        return network
    by = f"{conditions.runtime} {conditions.runtime_version}"
    if model.ByteSize() >= MOST_BYTES:
        raise BenchmarkError(
            f"{network.label}: {by} is given fp16 files as fp32, which is above 2 GiB here: use "
            f"TensorRT {TYPED_FROM} or newer, or a smaller network"
        )
    fp16 = conditions.precision == "fp16"
    notice(
        f"{network.label}: its fp16 tensors are given to {by} as fp32, for TensorRT before "
        f"{TYPED_FROM} can misread them (bounds of a Clip)"
        + ("" if fp16 else "; --precision fp16 allows fp16")
    )
    return replace(network, job=replace(job, content=model.SerializeToString()))
