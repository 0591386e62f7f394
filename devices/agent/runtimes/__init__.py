"""The runtimes that the agent supports, each imported when it is first asked for.

To add one, write its module here and add its line to ``RUNTIMES``.  A runtime that is not installed
is an error with advice for the user; a module of ours that does not import gives a traceback.
"""

import importlib
import re
import sys
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from .. import timing, worker
from ..checks import Check, RequestError, bad_model, bad_request, clip, missing_runtime
from ..protocol import MAX_TENSOR_BYTES, Rule

RUNTIMES = {
    "onnxruntime": ".onnxruntime.runtime:OnnxRuntime",
    "tensorrt": ".tensorrt.runtime:TensorRT",
    "trtexec": ".trtexec.runtime:Trtexec",
    "pytorch": ".pytorch.runtime:PyTorch",
}
#: What finding all versions may take; the host waits 60 s for the whole of ``hello``.
FINDING_S = 40.0
#: Not offered in ``hello``: it measures nothing, and fails on demand.
REHEARSAL = {
    "fake": ".fake.runtime:FakeRuntime",
    "isolated_fake": ".fake.runtime:IsolatedFake",
}

#: What runtimes say, of any version, when they cannot have the memory that they want.
OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory|(not enough|insufficient|allocate) memory|unable to allocate|"
    r"memoryallocation|bad[_ ]alloc",
    re.IGNORECASE,
)

_loaded: Dict[str, "Runtime"] = {}


class Options(NamedTuple):
    """How a model is to be run: what a request asks for, with the defaults."""

    processor: str = "cpu"
    precision: str = "fp32"
    launch: str = "plain"
    cache: str = "hot"

    @classmethod
    def of(cls, given: Dict[str, Any]) -> "Options":
        """Those of a request, which may have others beside."""
        return cls(**{name: given[name] for name in cls._fields if name in given})

    @property
    def is_cold(self) -> bool:
        """Whether the cache is emptied before each run."""
        return self.cache == "cold"


class Found(NamedTuple):
    """What ``found`` finds: versions of those that work, and why others do not, by name."""

    versions: Dict[str, str]
    problems: Dict[str, str]


class TensorContent(NamedTuple):
    """An input or output as it lies in memory: row-major, little-endian.

    ``element`` is numpy's name of the type of its elements.
    """

    name: str
    element: str
    shape: Tuple[int, ...]
    content: bytes


class Prepared(object):
    """A model that is ready to run with its inputs and outputs in place."""

    #: Whether ``run`` is offered: another program may do the runs.
    RUNS_HERE = True
    #: Who says what ``device_memory_bytes`` of the facts is, where it is there.
    MEMORY_SOURCE = "cuda"

    def run(self, times: int) -> None:
        """Run so often, back to back, and return when the last run is done."""
        raise NotImplementedError

    def measure(self, rule: Rule, threads: int) -> timing.Timing:
        """Take samples until the rule is met; on a CPU unless a runtime says otherwise."""
        return timing.measure(self.run, rule, timing.SystemClocks(threads))

    def layers(self, passes: int) -> List[Tuple[str, List[int]]]:
        """Each layer's name and its ns in each of so many runs, in the order they run.

        The profile slows the runs: its sum is not the model's latency.
        """
        raise bad_request("this runtime has no profile by layer: ask for pieces alone or in pairs")

    def tensors(self) -> Tuple[List[TensorContent], List[TensorContent]]:
        """The inputs, and the outputs of one run."""
        raise bad_request("this runtime does not give out what it computes")

    def facts(self) -> Dict[str, Any]:
        """What was built: precision, tactics, size; what a runtime does not report is left out."""
        return {}

    def close(self) -> None:
        """Give back what the model holds."""


class Runtime(object):
    """What a runtime offers; made once a process."""

    #: Whether it may take its process with it, and so gets one of its own (worker.py).
    ISOLATED = False
    #: Whether ``version`` imports it; then the worker is asked for that as well.
    VERSION_IMPORTS = False
    #: Options of a request that this runtime takes, and how each is checked.
    OPTIONS: Dict[str, Check] = {}

    def is_installed(self) -> bool:
        """Whether ``version`` is worth asking for; imports nothing and takes no time."""
        return True

    def version(self) -> Optional[str]:
        """The installed version; None where it is not installed or does not import."""
        raise NotImplementedError

    def load(self) -> None:
        """Import the runtime; raise a ``missing_runtime`` error where that does not work."""
        raise NotImplementedError

    def problem(self) -> str:
        """Why there is no version; "" where nothing tells it."""
        try:
            self.load()
        except RequestError as error:
            return f"{error.message}; {error.advice}"
        return ""

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Load a file whose digest was checked, with inputs drawn from the seed."""
        raise NotImplementedError

    def failure(self, error: Exception) -> Optional[RequestError]:
        """What an exception of this runtime means; None where it says nothing special.

        Few runtimes have an exception for memory that could not be had: the message says it.
        """
        return out_of_memory(str(error)) if is_out_of_memory(error) else None

    def processor(self, options: Dict[str, Any]) -> str:
        """What does the work under these options, "cpu" or "gpu"."""
        return "cpu"

    def is_broken(self) -> bool:
        """Whether nothing more works in this process, as after an illegal address on the GPU."""
        return False

    def state(self) -> Optional[bytes]:
        """What later builds should start from, as TensorRT's timing cache; None where nothing."""
        return None


def check_size(byte_counts: Iterable[int]) -> None:
    """Refuse to give out tensors that are too large for a message, before they are copied."""
    count = sum(byte_counts)
    if count > MAX_TENSOR_BYTES:
        raise bad_request(
            f"the inputs and outputs have {count} bytes, more than the {MAX_TENSOR_BYTES} that "
            "are given out: ask with a smaller batch"
        )


def check_static(what: str, shape: Iterable[Any]) -> None:
    """Refuse a tensor whose sizes are not all known: text and numbers below 1 stand for unknown."""
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise bad_model(
            f"{what} has the shape {list(shape)}: only fixed sizes above 0 can be measured",
            "export the model with static shapes",
        )


@contextmanager
def starting(what: str, install: str) -> Iterator[None]:
    """Raise ``missing_runtime`` where importing a runtime fails, in whichever way."""
    try:
        yield
    except Exception as error:  # a wrong numpy or CUDA library beside it shows as any kind
        raise missing_runtime(
            f"{what} does not start in {sys.executable}: {error}",
            f"{sys.executable} -m pip install {install}",
        ) from error


def says_out_of_memory(text: str) -> bool:
    """Whether a message is about memory that could not be had."""
    return OUT_OF_MEMORY.search(text) is not None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception is about memory that could not be had."""
    return isinstance(error, MemoryError) or says_out_of_memory(str(error))


def out_of_memory(said: str) -> RequestError:
    """The error of a model that needs more memory than there is."""
    return RequestError(
        "out_of_memory",
        f"the memory that this model needs could not be had: {clip(said)}",
        "use a smaller batch or resolution, a larger memory_limit_mib where one is set, or end "
        "what else uses the memory",
    )


def not_captured(said: str) -> RequestError:
    """The error of a model that is no CUDA graph; it ends the process.

    CUDA keeps the capture's own error for a later call, which may be one of the next job.
    """
    error = RequestError(
        "bad_request",
        f"this model cannot be captured as a CUDA graph: {clip(said)}",
        "measure it with launch=plain",
    )
    error.ends_process = True
    return error


def get(name: str) -> Runtime:
    """Return the runtime of that name; raise ``missing_runtime`` for a name we do not know."""
    if name not in _loaded:
        known = dict(RUNTIMES, **REHEARSAL)
        if name not in known:
            raise missing_runtime(
                f"this agent supports no runtime called {name!r}",
                f"it supports {', '.join(sorted(RUNTIMES))}",
            )
        module, _, attribute = known[name].partition(":")
        _loaded[name] = getattr(importlib.import_module(module, __name__), attribute)()
    return _loaded[name]


def found() -> Found:
    """Return the versions of the runtimes that are installed here and can be imported.

    One that does not answer in the time that is left of ``FINDING_S`` is left out.  Those that need
    no worker come first: they are quick, or have a limit of their own.
    """
    end = time.monotonic() + FINDING_S
    told: Dict[str, Tuple[Optional[str], str]] = {}
    for name in sorted(RUNTIMES, key=lambda name: get(name).VERSION_IMPORTS):
        runtime = get(name)
        if not runtime.is_installed():
            continue
        if runtime.VERSION_IMPORTS:
            told[name] = worker.version(name, end - time.monotonic())
        else:
            told[name] = version_and_problem(runtime)
    in_order = [(name,) + told[name] for name in RUNTIMES if name in told]
    return Found(
        {name: version for name, version, _ in in_order if version is not None},
        {name: problem for name, version, problem in in_order if version is None and problem},
    )


def version_and_problem(runtime: Runtime) -> Tuple[Optional[str], str]:
    """A runtime's version, or why there is none."""
    version = runtime.version()
    return version, runtime.problem() if version is None else ""
