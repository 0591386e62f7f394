"""TensorRT through its own ``trtexec``: for devices with the binary alone, and as a cross-check.

It builds an engine, then times it in a second process, so that a timing starts from a loaded engine
whether it was built now or before.  trtexec cannot follow our stopping rule: it runs for a length
chosen from the rule, and each of its runs is a sample.  Its wall clock is not exported; the GPU's
time is reported as both.
"""

import os
from typing import Any, Dict, Optional

from ...checks import RequestError, missing_runtime
from ...cuda import find_gpu
from .. import Prepared, Runtime
from ..tensorrt import chips, engines
from . import flags, output
from .model import Engine
from .process import PATH_VARIABLE, USUAL_PATH, Binary, find, say_version


class Trtexec(Runtime):
    """Engines that ``trtexec`` builds and times.

    The binary has a process of its own already.  It is driven from a worker still, so that the time
    limit of a job ends the worker, and with it the binary, and not the agent.
    """

    ISOLATED = True
    OPTIONS = engines.OPTIONS

    def __init__(self) -> None:
        self._binary: Optional[str] = None
        self._version: Optional[flags.Version] = None
        self._timing_cache: Optional[bytes] = None

    def is_installed(self) -> bool:
        """Whether there is a binary."""
        return find() is not None

    def version(self) -> Optional[str]:
        """The TensorRT version that it says; None where there is none that we can drive."""
        try:
            self.load()
        except RequestError:
            return None
        return None if self._version is None else ".".join(map(str, self._version))

    def load(self) -> None:
        """Find the binary and ask for its version, once."""
        if self._version is not None:
            return
        binary = find()
        if binary is None:
            raise missing_runtime(
                f"no trtexec on the PATH, at {USUAL_PATH} or in ${PATH_VARIABLE}",
                f"install TensorRT's binaries, or set {PATH_VARIABLE} to the path of trtexec",
            )
        said = say_version(binary)
        version = output.version(said)
        if version is None:
            raise missing_runtime(
                f"{binary} --help does not say which TensorRT it is: {said.strip()[:300]!r}",
                "check that its libraries are found: run it by hand",
            )
        if not flags.OLDEST <= version < flags.UNKNOWN:
            raise missing_runtime(
                f"{binary} is of TensorRT {'.'.join(map(str, version))}; its flags are not known",
                "versions 8.2 to 11 are supported",
            )
        self._binary, self._version = binary, version

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Build the engine, or take the one that this run built before.  Threads mean nothing."""
        assert self._binary is not None and self._version is not None
        if options.get("cache", "hot") == "cold":
            raise RequestError(
                "bad_request",
                "trtexec cannot empty the cache between runs",
                "ask for cache hot, or for the runtime tensorrt",
            )
        gpu = find_gpu()
        if gpu is not None:  # where we see none, trtexec will say what it sees
            chips.check(gpu, self.version() or "", options.get("precision", "fp32"))
        binary = Binary(self._binary, self._version, os.path.dirname(file))
        try:
            memory_bytes = None if gpu is None else gpu.memory_bytes
            workspace_mib = flags.workspace_mib(memory_bytes)
            model = Engine(binary, file, options, workspace_mib, self._timing_cache)
            model.provide()
        except BaseException:
            binary.close()
            raise
        self._timing_cache = model.timing_cache
        return model

    def processor(self, options: Dict[str, Any]) -> str:
        """Always the GPU."""
        return "gpu"

    def state(self) -> Optional[bytes]:
        """The timing cache after the last build that used one."""
        return self._timing_cache
