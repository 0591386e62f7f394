"""ONNX Runtime on the CPU, from 1.10 on.

What decides the latency is set explicitly, never left to a default: threads, every graph
optimisation, sequential execution, one arena shared by all sessions of the process, inputs and
outputs bound once.
"""

import importlib
from typing import Any, Dict, Optional

from ...checks import RequestError, bad_model
from ...file_names import to_message
from .. import Prepared, Runtime, starting
from .model import BoundSession

SEVERITY_ERROR = 3


class OnnxRuntime(Runtime):
    """Sessions of ONNX Runtime with the CPU execution provider alone."""

    def __init__(self) -> None:
        self._ort: Any = None
        self._numpy: Any = None

    def version(self) -> Optional[str]:
        """The installed version; None where it is not installed or does not import."""
        try:
            self.load()
        except RequestError:
            return None
        return str(self._ort.__version__)

    def load(self) -> None:
        """Import ONNX Runtime and make the shared arena, once."""
        if self._ort is not None:
            return
        with starting("ONNX Runtime", "'onnxruntime>=1.10'"):
            ort = importlib.import_module("onnxruntime")
            self._numpy = importlib.import_module("numpy")
            _register_shared_arena(ort)
            self._ort = ort

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Build the session, and bind inputs drawn from the seed and all outputs."""

        def open_session(profile: str) -> Any:
            return self._session(file, threads, profile)

        return BoundSession(self._ort, self._numpy, open_session, seed)

    def _session(self, file: str, threads: int, profile: str) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = SEVERITY_ERROR
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        try:
            # Whatever the locale, it takes a text for the bytes that this is in UTF-8.
            name = to_message(file)
            return self._ort.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base of their own
            raise self.failure(error) or bad_model(
                f"ONNX Runtime {self._ort.__version__} cannot load {file}: {error}",
                "check the file with onnx.checker, and its opset and IR version against what this "
                "version of ONNX Runtime reads",
            ) from error


def _register_shared_arena(ort: Any) -> None:
    # Many sessions, one after another, would otherwise each grow an arena of their own. Zero and -1
    # stand for the defaults: no limit, extend by powers of two, first chunk, dead bytes.
    where = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(where, ort.OrtArenaCfg(0, -1, -1, -1))
