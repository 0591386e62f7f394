"""The command lines of ``trtexec``, for the version that is installed.

No default is trusted: what decides a latency is given as a flag, except where the only flag for it
is a deprecated no-op, and then what trtexec says it did is checked (output.py).  ``FLAGS``
says when each flag exists.  Sources: ``samples/common/sampleOptions.cpp`` of NVIDIA's TensorRT
repository at its releases 8.2, 8.5, 10 and 11, and "Migrating trtexec Usage" in its documentation.

Builds run the engine once, for no flag that skips it is in all versions (``--buildOnly`` in
8.2, ``--skipInference`` in 10).
"""

import math
from typing import Dict, List, NamedTuple, Optional, Tuple

from ...protocol import Rule
from ..tensorrt.build import (
    AVERAGED_TIMINGS,
    OPTIMIZATION_LEVEL,
    WORKSPACE_MOST_BYTES,
    WORKSPACE_SHARE,
)

Version = Tuple[int, int, int]

OLDEST: Version = (8, 2, 0)
#: The first that nobody has looked at.
UNKNOWN: Version = (12, 0, 0)
#: MiB that a tactic may use where the GPU's memory is not known.
WORKSPACE_MIB = 1024
#: It cannot stop by how well the median is known, so it always takes at least so long.
LEAST_TIMING_S = 1.0

#: Before it profiles have means alone, in which the cold first run is: of many more runs then.
MEDIANS_SINCE: Tuple[int, int] = (8, 5)
PASSES_FOR_A_MEAN = 100

#: Tells the layers of an engine; a binary that lacks it is run without.
LAYER_INFO = "--exportLayerInfo"


class Flag(NamedTuple):
    """Versions in which a flag takes effect, from ``since`` up to but not ``before``."""

    since: Tuple[int, int]
    before: Optional[Tuple[int, int]]


FLAGS: Dict[str, Flag] = {
    "--onnx": Flag((8, 2), None),
    "--saveEngine": Flag((8, 2), None),
    "--loadEngine": Flag((8, 2), None),
    # Replaced in 8.4, gone in 10.
    "--workspace": Flag((8, 2), (8, 4)),  # else 16 MiB
    "--memPoolSize": Flag((8, 4), None),  # else the GPU's memory
    "--noTF32": Flag((8, 2), None),  # else TF32 is used
    # From 11 on types come from the file.
    "--fp16": Flag((8, 2), (11, 0)),  # else fp32 alone
    "--int8": Flag((8, 2), (11, 0)),  # else no int8
    # One format is that of all inputs or outputs.
    "--inputIOFormats": Flag((8, 2), (11, 0)),  # else fp32, converted in every run
    "--outputIOFormats": Flag((8, 2), (11, 0)),  # else fp32, converted in every run
    "--avgTiming": Flag((8, 2), None),  # else 8
    "--builderOptimizationLevel": Flag((8, 6), None),  # else 3
    "--profilingVerbosity": Flag((8, 2), None),  # else layer_names_only
    "--timingCacheFile": Flag((8, 2), None),  # else a cache for this build
    "--noBuilderCache": Flag((8, 2), None),  # else a cache for this build
    # 11 still takes the next two, warns, and does what they say without them.
    "--noDataTransfers": Flag((8, 2), (11, 0)),  # else transfers before 11, none from 11 on
    "--useSpinWait": Flag((8, 2), (11, 0)),  # else blocks before 11, spins from 11 on
    "--useCudaGraph": Flag((8, 2), (11, 0)),  # else plain launches before 11
    "--noCudaGraph": Flag((11, 0), None),  # else a CUDA graph from 11 on
    "--warmUp": Flag((8, 2), None),  # else 200 ms
    "--duration": Flag((8, 2), None),  # else 3 s
    "--iterations": Flag((8, 2), None),  # else 10
    "--exportTimes": Flag((8, 2), None),
    "--exportProfile": Flag((8, 2), None),
    LAYER_INFO: Flag((8, 2), None),
}


def takes(version: Version, name: str) -> bool:
    """Whether the flag takes effect in that version."""
    flag = FLAGS[name]
    return flag.since <= version[:2] and (flag.before is None or version[:2] < flag.before)


def workspace_mib(memory_bytes: Optional[int]) -> int:
    """MiB that a tactic may use, as in the builds of tensorrt/build.py."""
    if memory_bytes is None:
        return WORKSPACE_MIB
    return min(memory_bytes // WORKSPACE_SHARE, WORKSPACE_MOST_BYTES) >> 20


def build(
    version: Version,
    onnx: str,
    engine: str,
    precision: str,
    workspace: int,
    timing_cache: Optional[str],
) -> List[str]:
    """Flags to build an engine and save it; without a timing cache every tactic is timed again.

    The choices are those of tensorrt/build.py; ``workspace`` is in MiB.
    """
    words = [f"--onnx={onnx}", f"--saveEngine={engine}", "--profilingVerbosity=detailed"]
    words += ["--noTF32", f"--avgTiming={AVERAGED_TIMINGS}"]
    if takes(version, "--memPoolSize"):
        words.append(f"--memPoolSize=workspace:{workspace}")
    else:
        words.append(f"--workspace={workspace}")
    if takes(version, "--builderOptimizationLevel"):
        words.append(f"--builderOptimizationLevel={OPTIMIZATION_LEVEL}")
    allowed = {"fp16": ["--fp16"], "int8": ["--fp16", "--int8"]}.get(precision, [])
    words += [one for one in allowed if takes(version, one)]
    if io(version, precision).get("io") == "fp16":
        words += ["--inputIOFormats=fp16:chw", "--outputIOFormats=fp16:chw"]
    if timing_cache is None:
        words.append("--noBuilderCache")
    else:
        words.append(f"--timingCacheFile={timing_cache}")
    return words + _launch(version, "plain") + _length(1, 0, 0)


def io(version: Version, precision: str) -> Dict[str, str]:
    """The fact of what a build's inputs and outputs are, as in tensorrt/api.py."""
    if precision == "int8":
        return {"io": "fp32"}
    return {"io": "fp16"} if precision == "fp16" and takes(version, "--inputIOFormats") else {}


def time(version: Version, engine: str, launch: str, rule: Rule, times: str) -> List[str]:
    """Flags to time a saved engine for about as long as the rule asks for."""
    seconds = min(rule.cap_s, max(rule.min_total_s, LEAST_TIMING_S))
    words = [f"--loadEngine={engine}", f"--exportTimes={times}"]
    words += _launch(version, launch)
    return words + _length(rule.min_samples, seconds, rule.warmup_s)


def profile(version: Version, engine: str, passes: int, layers: str) -> List[str]:
    """Flags to profile the layers of a saved engine, which is always of plain launches.

    Nothing else is taken from that run, so before 11 it needs no ``--separateProfileRun``.
    """
    if version[:2] < MEDIANS_SINCE:
        passes = max(passes, PASSES_FOR_A_MEAN)
    words = [f"--loadEngine={engine}", f"--exportProfile={layers}"]
    return words + _launch(version, "plain") + _length(passes, 0, 0)


def _launch(version: Version, launch: str) -> List[str]:
    """What is timed: no transfers, a host that spins, and that launch."""
    words = [one for one in ("--noDataTransfers", "--useSpinWait") if takes(version, one)]
    wanted = "--useCudaGraph" if launch == "cuda_graph" else "--noCudaGraph"
    return words + ([wanted] if takes(version, wanted) else [])


def _length(iterations: int, seconds: float, warmup_s: float) -> List[str]:
    """How long at least; old versions read whole seconds and milliseconds alone."""
    return [
        f"--iterations={iterations}",
        f"--duration={math.ceil(seconds)}",
        f"--warmUp={math.ceil(warmup_s * 1000)}",
    ]
