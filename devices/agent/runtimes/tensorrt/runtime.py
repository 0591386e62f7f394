"""TensorRT 8.2 to 11 on one GPU: engines are built here, from the file, and timed by events.

The GPU is looked for before ``tensorrt`` is imported: without one some versions end the process.
Engines are kept as files beside their models (engines.py), one timing cache for the process's life.
Inputs and outputs stay where they are; static shapes only.
"""

import importlib
import importlib.util
from typing import Any, Dict, Optional

from ... import cuda
from ...checks import RequestError, missing_runtime
from .. import Options, Prepared, Runtime, out_of_memory, starting
from . import api, build, chips, engines, inspection
from .model import Engine


class TensorRT(Runtime):
    """Engines of TensorRT, built from ONNX files."""

    ISOLATED = True
    VERSION_IMPORTS = True
    OPTIONS = engines.OPTIONS

    def __init__(self) -> None:
        self._trt: Any = None
        self._able: Any = None
        self._logger: Any = None
        #: Holds the primary context for the life of the process: what TensorRT keeps is in it.
        self._home: Any = None
        self._cache = b""

    def is_installed(self) -> bool:
        """Whether there is a package of that name."""
        return importlib.util.find_spec("tensorrt") is not None

    def version(self) -> Optional[str]:
        """The installed version; None where it is not installed, or there is no GPU."""
        if cuda.find_gpu() is None:
            return None
        try:
            return str(self._import().__version__)
        except RequestError:
            return None

    def load(self) -> None:
        """Find the GPU, import TensorRT, and see whether they fit; once."""
        gpu = cuda.find_gpu()
        if gpu is None:
            raise missing_runtime(
                f"TensorRT needs an NVIDIA GPU, and no usable one was found: {cuda.gpu_problem()}",
                cuda.gpu_advice(),
            )
        trt = self._import()
        chips.check(gpu, str(trt.__version__))
        if self._home is None:
            self._able = api.Capabilities.of(trt)
            self._home = cuda.open_gpu()
            self._logger = build.logger_of(trt)

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Build the engine, or take the one whose digest is named, and fill its inputs."""
        wanted = Options.of(options)
        chips.check(self._home.info, self._able.version, wanted.precision)
        is_lost = self._load_cache(options)
        number = options.get("build", 0)
        plan = engines.load(file, options.get("engine_sha256"))
        facts: Dict[str, Any] = {"engine_reused": plan is not None}
        built: Optional[build.Built] = None
        if plan is None:
            built = self._build(file, wanted.precision, number)
            plan = built.plan
            if is_lost and not number:
                built.flags["timing_cache"] = "lost"
            facts.update(
                build_s=built.build_s, tactic_sources=built.tactic_sources, flags=built.flags
            )
        engine = Engine(self._trt, self._able, self._logger, plan, wanted, seed)
        try:
            note = inspection.check(engine.inspected, wanted.precision)
            if built is not None:
                engines.save(file, plan)
        except BaseException:
            engine.close()
            raise
        engine.built.update(facts, precision_note=note)
        engine.built.update(engine_bytes=len(plan), engine_sha256=engines.digest_of(plan))
        return engine

    def failure(self, error: Exception) -> Optional[RequestError]:
        """Out of memory, which CUDA's own errors have a code for."""
        if isinstance(error, cuda.GpuError) and error.out_of_memory:
            return out_of_memory(str(error))
        return super(TensorRT, self).failure(error)

    def processor(self, options: Dict[str, Any]) -> str:
        """Always the GPU."""
        return "gpu"

    def state(self) -> Optional[bytes]:
        """The timing cache, serialized; None before the first build with it."""
        return self._cache or None

    def is_broken(self) -> bool:
        """Whether no call to the GPU works any more; TensorRT's own errors do not say it."""
        try:
            if self._home is not None:
                self._home.synchronize(None)
        except cuda.GpuError as found:
            return found.sticky
        return False

    def _import(self) -> Any:
        if self._trt is None:
            with starting("TensorRT", "tensorrt-cu12 (a Jetson: use JetPack's Python)"):
                self._trt = importlib.import_module("tensorrt")
        return self._trt

    def _build(self, file: str, precision: str, number: int) -> build.Built:
        cache = None if number else self._cache
        info = self._home.info
        built = build.build(self._trt, self._able, self._logger, info, file, precision, cache)
        if built.cache is not None:
            self._cache = built.cache
        return built

    def _load_cache(self, options: Dict[str, Any]) -> bool:
        """Start from the host's timing cache where this process has none of its own yet.

        Returns whether it should have done so, and could not.
        """
        if self._cache:
            return False
        found = engines.timing_cache(options)
        self._cache = found or b""
        return found is None
