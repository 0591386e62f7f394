"""The host's half of each runtime: what it can be asked for, what its files are, how it is timed.

The device's half is in ``devices/agent/runtimes``. A runtime that builds an engine builds anew in
each round, since two builds of one model need not be equally fast. All differences between runtimes
on the host are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from devices.agent.protocol import Rule
from latency_tables.schema import Conditions
from profiler.errors import SessionError

#: From this major version on TensorRT takes an operator's type from the file.
TYPED_FROM = 11
#: The runtimes that TensorRT is behind.
_BY_TENSORRT = ("tensorrt", "trtexec")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeTraits:
    """What a runtime can do on one kind of processor.

    ``builds``: it builds an engine, which takes seconds to minutes; what it learns from that
    (TensorRT's timing cache) is kept next to the journal. ``layer_profiles``: it reports how long
    each layer took. ``gives_tensors``: it gives out what a network read and computed.
    """

    precisions: tuple[str, ...] = ("fp32",)
    launches: tuple[str, ...] = ("plain",)
    cache_modes: tuple[str, ...] = ("hot",)
    builds: bool = False
    layer_profiles: bool = False
    gives_tensors: bool = True


_TENSORRT = RuntimeTraits(
    precisions=("fp32", "fp16", "int8"),
    launches=("plain", "cuda_graph"),
    cache_modes=("hot", "cold"),
    builds=True,
    layer_profiles=True,
)
#: By runtime and processor.
TRAITS: Mapping[tuple[str, str], RuntimeTraits] = {
    ("onnxruntime", "cpu"): RuntimeTraits(layer_profiles=True),
    ("tensorrt", "gpu"): _TENSORRT,
    ("trtexec", "gpu"): replace(_TENSORRT, cache_modes=("hot",), gives_tensors=False),
    ("pytorch", "cpu"): RuntimeTraits(launches=("plain", "compiled"), layer_profiles=True),
    ("pytorch", "gpu"): RuntimeTraits(
        precisions=("fp32", "fp16"),
        launches=("plain", "cuda_graph", "compiled"),
        cache_modes=("hot", "cold"),
        layer_profiles=True,
    ),
}

#: As PROFILE_RULE, but in blocks long enough that reading an event is lost in them. A single run
#: from a cold start takes longer than each of many back to back, so blocks come out shorter than
#: asked for: 4 ms make sure of 2.
GPU_RULE = Rule(
    warmup_cap_s=1.0,
    sample_s=0.004,
    min_samples=12,
    min_total_s=0.12,
    half_width=1.0,
    cap_s=0.4,
)
#: The same as ``measurement.HALF_WIDTH``, on a GPU.
GPU_HALF_WIDTH = 0.005


def traits(runtime: str, processor: str) -> RuntimeTraits:
    """What a runtime can do there. Raises SessionError for one that is not supported."""
    found = TRAITS.get((runtime, processor))
    if found is None:
        known = ", ".join(sorted({f"{name} on a {where}" for name, where in TRAITS}))
        raise SessionError(
            f"{runtime} on a {processor} is not supported by this version of dshrink; supported: "
            f"{known}"
        )
    return found


def processor_of(conditions: Conditions) -> str:
    """What did the work, "cpu" or "gpu"."""
    return "gpu" if conditions.clock == "cuda_events" else "cpu"


def traits_of(conditions: Conditions) -> RuntimeTraits:
    """What the runtime of these conditions can do."""
    return traits(conditions.runtime, processor_of(conditions))


def is_weakly_typed(conditions: Conditions) -> bool:
    """Whether the types in the file are no wish: TensorRT before 11 chooses among those allowed.

    It is to have fp32 files, since its parsers (seen with 8.4) take the bounds of a Clip in fp16
    for fp32, without an error.
    """
    major = conditions.runtime_version.partition(".")[0]
    is_typed = major.isdigit() and int(major) >= TYPED_FROM
    return conditions.runtime in _BY_TENSORRT and not is_typed


def file_precision(conditions: Conditions) -> str:
    """The types in the file that the runtime is given.

    Runtimes take fp32 files and the precision as an option. Two differ: int8, whose scales are in
    the file, and TensorRT from version 11 on, which runs the types of the file.
    """
    if conditions.precision == "int8":
        return "int8"
    is_typed = conditions.runtime in _BY_TENSORRT and not is_weakly_typed(conditions)
    return "fp16" if conditions.precision == "fp16" and is_typed else "fp32"


def request_options(conditions: Conditions) -> dict[str, Any]:
    """The options of the agent's request that follow from the conditions alone."""
    if conditions.runtime == "onnxruntime":
        return {}
    options = {"precision": conditions.precision, "launch": conditions.launch}
    if "cold" in traits_of(conditions).cache_modes:
        options["cache"] = conditions.cache_mode
    if conditions.runtime == "pytorch":
        options["processor"] = processor_of(conditions)
    return options
