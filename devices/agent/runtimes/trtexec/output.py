"""What ``trtexec`` prints and writes, from 8.2 to 11: what it did, times, layers, errors."""

import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ...checks import RequestError
from .flags import Version

VERSION = re.compile(r"&&&& \w+ TensorRT\.trtexec \[TensorRT v(\d+)\]")
BUILT = re.compile(r"Engine built in ([\d.]+) sec")
GPU = re.compile(r"Selected Device: (.+?)\s*$", re.M)
ENQUEUE = re.compile(r"Enqueue Time: .*?median = ([\d.e+-]+) ms")
#: The last sum of the context's creation: weights and activations, in MiB.
MEMORY = re.compile(
    r"TensorRT-managed allocation in IExecutionContext creation:.*GPU (\d+) \(MiB\)"
)
OPTION = re.compile(r"^(?:\[[^]]*\] \[I\] )?([A-Z][\w -]*): (Enabled|Disabled)\s*$", re.M)
ERROR_LINE = re.compile(r"^(?:\[[^]]*\] )?\[E\] (.*)$", re.M)
WARNING_LINE = re.compile(r"^(?:\[[^]]*\] )?\[W\] (.*)$", re.M)
UNKNOWN_OPTION = re.compile(r"Unknown option: (\S+)")
NOT_JSON = re.compile(r"(:\s*)-?(?:nan|inf)\b")
#: A graph that was not recorded: up to 10.16 "The specified --useCudaGraph flag has been ignored.
#: The inference will be launched without using CUDA graph launch.", from 11.0 on "CUDA graph
#: capture failed. ..."; any other warning or error about a graph is taken for the same.
GRAPH_FAILED = re.compile(r"^(?:\[[^]]*\] )?\[[WE]\] .*CUDA graph", re.M | re.I)
#: The cause comes up to five lines before the last.
LAST_ERRORS = 6

#: What it says of a driver that does not fit it, in all versions as a warning alone.
NO_DRIVER = r"no CUDA-capable device|driver version is insufficient|CUDA initialization failure"
#: Words of its errors -> what kind of error that is, and how to fix it.
KINDS: List[Tuple[str, str, str]] = [
    (
        r"out of memory|OutOfMemory|insufficient memory|Requested amount of GPU memory",
        "out_of_memory",
        "use a smaller batch or resolution, or end what else uses the GPU",
    ),
    (
        r"SM \d+ is not supported|does not support .*SM|Unsupported SM",
        "missing_runtime",
        "install a TensorRT that supports this GPU: 10.4 is the last one for a V100",
    ),
    (
        NO_DRIVER,
        "missing_runtime",
        "nvidia-smi must show a GPU, with a driver that is new enough for this TensorRT",
    ),
    (
        r"[Ff]ailed to parse|Parsing model failed|ModelImporter|Could not open file",
        "bad_model",
        "check the file with onnx.checker, and its opset against this version of TensorRT",
    ),
]


class UnknownOptionError(RequestError):
    """This binary does not have those flags."""

    def __init__(self, options: List[str]) -> None:
        super(UnknownOptionError, self).__init__(
            "runtime_error",
            f"trtexec does not know {', '.join(options)}",
            "its version has other flags than trtexec/flags.py says: use the tensorrt runtime",
        )
        self.options = options


class Run(NamedTuple):
    """One inference that was timed: on the GPU, and the host's launch of it."""

    compute_ns: int
    enqueue_ns: int


def version(said: str) -> Optional[Version]:
    """The version in the first line, such as ``v8503``, ``v100300`` or ``v110000``."""
    found = VERSION.search(said)
    if found is None:
        return None
    number = int(found.group(1))
    # From 10 on minor versions have two digits.
    base = 1000 if number < 10000 else 10000
    return number // base, number % base // 100, number % 100


def build_s(said: str) -> Optional[float]:
    """Seconds that the build took, by its own clock."""
    found = BUILT.search(said)
    return float(found.group(1)) if found else None


def gpu(said: str) -> Optional[str]:
    """The name of the GPU that it chose."""
    found = GPU.search(said)
    return found.group(1) if found else None


def device_memory_bytes(said: str) -> Optional[int]:
    """What the engine and its context hold on the GPU, to the MiB."""
    found = MEMORY.findall(said)
    return int(found[-1]) << 20 if found else None


def check_options(said: str, launch: str) -> None:
    """Raise where what it says it did is not what was asked for."""
    wanted = {
        "Data transfers": "Disabled",
        "Spin-wait": "Enabled",
        "CUDA Graph": "Enabled" if launch == "cuda_graph" else "Disabled",
    }
    found = dict(OPTION.findall(said))
    wrong = [f"{one} {found.get(one)}" for one, value in wanted.items() if found.get(one) != value]
    if wrong:
        raise RequestError(
            "runtime_error",
            f"trtexec did not time what was asked for; it says: {', '.join(wrong)}",
            "this version of trtexec may have other flags than we know: use the tensorrt runtime",
        )
    if launch == "cuda_graph" and GRAPH_FAILED.search(said):
        raise RequestError(
            "runtime_error",
            "trtexec could not record this model as a CUDA graph and timed plain launches",
            "ask for launch plain",
        )


def runs(written: str, said: str, warmup_ms: float) -> List[Run]:
    """The runs in the file of ``--exportTimes``, without the warm-up that old versions write too.

    Enqueue times are differences of numbers with six digits, too coarse after a second.  So each
    run has their median, which the log gives exactly, where it is there.
    """
    found = ENQUEUE.search(said)
    median_ns = _ns(float(found.group(1))) if found else None
    kept = []
    for one in _read(written, "--exportTimes"):
        if one["startComputeMs"] < warmup_ms:
            continue
        enqueue_ns = median_ns
        if enqueue_ns is None:
            enqueue_ns = _ns(one.get("endEnqMs", 0) - one.get("startEnqMs", 0))
        kept.append(Run(_ns(one["computeMs"]), enqueue_ns))
    if not kept:
        raise _unreadable("--exportTimes", "it holds no run after the warm-up")
    return kept


def layers(written: str) -> List[Tuple[str, int]]:
    """Each layer with its ns in the file of ``--exportProfile``: the median, or the mean."""
    found = []
    for one in _read(written, "--exportProfile"):
        if "name" in one:
            found.append((str(one["name"]), _ns(one.get("medianMs", one["averageMs"]))))
    if not found:
        raise _unreadable("--exportProfile", "it names no layer")
    return found


def error(said: str, status: int, what: str) -> RequestError:
    """What went wrong, from its last words."""
    lines = ERROR_LINE.findall(said) or said.strip().splitlines()[-1:]
    causes = [line for line in WARNING_LINE.findall(said) if re.search(NO_DRIVER, line)]
    lines = causes[-1:] + lines[-LAST_ERRORS:]
    words = "; ".join(line.strip() for line in lines) or "it said nothing"
    unknown = UNKNOWN_OPTION.findall(said)
    if unknown:
        return UnknownOptionError(unknown)
    message = f"trtexec failed {what} (exit status {status}): {words}"
    for pattern, kind, advice in KINDS:
        if re.search(pattern, words):
            return RequestError(kind, message, advice)
    return RequestError("runtime_error", message, "run the command by hand with --verbose")


def read_json(written: str, flag: str) -> Any:
    """Parse what it wrote; C++ writes nan, inf and control characters, which JSON lacks."""
    try:
        return json.loads(NOT_JSON.sub(r"\1null", written), strict=False)
    except ValueError as bad:
        raise _unreadable(flag, str(bad)) from bad


def _read(written: str, flag: str) -> List[Dict[str, Any]]:
    found = read_json(written, flag)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _unreadable(flag, "it is no list of objects")
    return found


def _unreadable(flag: str, why: str) -> RequestError:
    return RequestError(
        "runtime_error",
        f"what trtexec wrote for {flag} cannot be used: {why}",
        "the disk may be full, or this version writes another form",
    )


def _ns(ms: float) -> int:
    return int(round(ms * 1e6))
