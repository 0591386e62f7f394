"""An engine of TensorRT that is ready to run: its context, buffers, stream, and graph.

Runs are enqueued on a stream of its own and timed by events; the profile by layer is made in
another context, since one that has a profiler never runs at full speed again.
"""

import functools
import operator
import random
import struct
from typing import Any, Callable, Dict, List, Tuple

from ... import cuda, timing
from ...checks import bad_model, bad_request
from ...cuda.clocks import EventClocks
from ...protocol import Rule
from .. import Options, Prepared, TensorContent, check_size, not_captured
from . import api, build, inspection
from .api import Capabilities, Tensor

#: Bytes an element, and how ``struct`` and numpy call it; types without a name cannot be inputs.
ELEMENTS: Dict[str, Tuple[int, str, str]] = {
    "FLOAT": (4, "f", "float32"),
    "HALF": (2, "e", "float16"),
    "INT8": (1, "b", "int8"),
    "UINT8": (1, "B", "uint8"),
    "BOOL": (1, "?", "bool"),
    "INT32": (4, "i", "int32"),
    "INT64": (8, "q", "int64"),
    "BF16": (2, "", "bfloat16"),
    "FP8": (1, "", "float8_e4m3fn"),
}
#: So many numbers are drawn, and repeated: 20 million for a batch would take Python a minute. It
#: is a prime, so that no two rows or channels of a tensor are alike.
DRAWN = 65537
#: They are copied to the GPU so often at once.
COPIED = 16


class Engine(Prepared):
    """``inspected`` is what it is made of; ``built`` what ``facts`` returns, to be added to."""

    def __init__(
        self, trt: Any, able: Capabilities, logger: Any, plan: bytes, options: Options, seed: int
    ) -> None:
        self._trt = trt
        self._able = able
        self._logger = logger
        self._options = options
        self._seed = seed
        self._api = able.api()
        self._engine: Any = None
        self._context: Any = None
        self._runtime: Any = None
        self._gpu: Any = cuda.open_gpu()
        #: What the graph belongs to, and goes with, before the context whose work it launches.
        self._graph: Any = None
        try:
            self._prepare(plan)
        except BaseException:
            self.close()
            raise

    def run(self, times: int) -> None:
        """Run so often, back to back, and return when the last run is done."""
        self.enqueue(times)
        self._gpu.synchronize(self._stream)

    def enqueue(self, times: int) -> None:
        """Launch so many runs; they may not be done yet."""
        launch = self._launch
        for _ in range(times):
            launch()

    def measure(self, rule: Rule, threads: int) -> timing.Timing:
        """Take samples with the GPU's events; ``threads`` means nothing here."""
        clocks = EventClocks(self._gpu, self._stream, self._options.is_cold)
        return timing.measure(self.enqueue, rule, clocks)

    def layers(self, passes: int) -> List[Tuple[str, List[int]]]:
        """Each layer's ns by TensorRT's profiler, launched one by one in a context of its own.

        It has the memory that the runs' context had, which is made again afterwards.
        """
        self._stop()
        reports = self._profile(passes)
        self._start()
        names = [name for name, _ in reports[0]]
        if not names or any([name for name, _ in one] != names for one in reports):
            raise RuntimeError("TensorRT's profiler did not report the same layers in each run")
        return [(name, [one[at][1] for one in reports]) for at, name in enumerate(names)]

    def tensors(self) -> Tuple[List[TensorContent], List[TensorContent]]:
        """The inputs, and the outputs of one run, copied from the GPU."""
        check_size(_bytes(tensor) for tensor, _ in self._buffers)
        self.run(1)
        sides: Tuple[List[TensorContent], List[TensorContent]] = ([], [])
        for tensor, pointer in self._buffers:
            content = self._gpu.to_host(pointer, _bytes(tensor))
            element = ELEMENTS[tensor.element][2]
            told = TensorContent(tensor.name, element, tuple(tensor.shape), content)
            sides[0 if tensor.is_input else 1].append(told)
        return sides

    def facts(self) -> Dict[str, Any]:
        """What was built and what it takes."""
        return self.built

    def close(self) -> None:
        """Give back graph and context, then the engine, then its runtime, then the memory."""
        self._stop()
        self._engine = None
        self._runtime = None
        self._gpu.close()

    def _start(self) -> None:
        """Make the context, and the graph, that runs are launched by."""
        self._context = self._new_context()
        self._launch = self._checked(self._enqueuer(self._context))
        self.run(1)  # the first run sets things up, and cannot be captured
        if self._options.launch == "cuda_graph":
            self._graph = cuda.open_gpu()
            self._launch = self._captured()
            self.run(1)

    def _stop(self) -> None:
        """Give back the graph and the context."""
        self._launch = _closed
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._context = None

    def _profile(self, passes: int) -> List[List[Tuple[str, int]]]:
        """Each pass's layers and their ns, from a context that is gone afterwards."""
        context = self._new_context()
        enqueue = self._checked(self._enqueuer(context))
        enqueue()  # the first run sets things up
        self._gpu.synchronize(self._stream)
        reports: List[List[Tuple[str, int]]] = []
        profiler = _profiler(self._trt, reports)
        context.profiler = profiler
        for _ in range(passes):
            reports.append([])
            enqueue()
            self._gpu.synchronize(self._stream)
        return reports

    def _prepare(self, plan: bytes) -> None:
        free = self._gpu.memory_free_bytes()
        self._runtime = build.make(self._trt.Runtime, self._able, self._logger, self._gpu.info)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise build.not_taken(self._logger, self._able)
        self.inspected = inspection.inspect(self._inspector_json())
        tensors = api.tensors_of(self._trt, self._api, self._engine)
        self._buffers = [(one, self._filled(one, number)) for number, one in enumerate(tensors)]
        self._stream = self._gpu.stream()
        self._start()
        self.built: Dict[str, Any] = {
            "precision": self.inspected.precision,
            "precision_layers": self.inspected.precision_layers,
            "tactics": self.inspected.tactics,
            "device_memory_bytes": max(0, free - self._gpu.memory_free_bytes()),
            "gpu": self._gpu.info.name,
            "auxiliary_streams": api.auxiliary_streams(self._able, self._engine),
            "api": self._api,
            "binding": self._gpu.binding,
        }

    def _inspector_json(self) -> str:
        # A local name in _prepare would keep the engine with the traceback of a failure there.
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _new_context(self) -> Any:
        context = api.quiet_context(self._trt, self._able, self._engine)
        if context is None:
            raise RuntimeError(f"TensorRT makes no context: {self._logger.last()}")
        return context

    def _enqueuer(self, context: Any) -> Callable[[], bool]:
        return api.enqueuer(self._api, context, self._buffers, self._stream)

    def _checked(self, enqueue: Callable[[], bool]) -> Callable[[], None]:
        logger = self._logger

        def checked() -> None:
            if not enqueue():
                raise RuntimeError(f"TensorRT could not enqueue a run: {logger.last()}")

        return checked

    def _captured(self) -> Callable[[], None]:
        try:
            launch: Callable[[], None] = self._graph.capture(self._stream, self._launch)
            return launch
        except (cuda.GpuError, RuntimeError) as error:
            error.__traceback__ = None  # its frames hold the context
            raise not_captured(str(error)) from error

    def _filled(self, tensor: Tensor, number: int) -> int:
        """Allocate a tensor's memory; fill it with numbers of the seed if it is an input."""
        if tensor.element not in ELEMENTS:
            raise bad_request(f"tensor {tensor.name!r} is a {tensor.element}, unknown to the agent")
        pointer = int(self._gpu.alloc(_bytes(tensor)))
        if tensor.is_input:
            piece = _drawn(tensor, self._seed + number) * COPIED
            for at in range(0, _bytes(tensor), len(piece)):
                self._gpu.to_device(pointer + at, piece[: _bytes(tensor) - at])
        else:
            self._gpu.fill(pointer, 0, _bytes(tensor))
        return pointer


def _drawn(tensor: Tensor, seed: int) -> bytes:
    """Normal numbers for floats, zeros and ones for the rest, which every index allows.

    An input is as many of these blocks as it takes, the last cut off.
    """
    code = ELEMENTS[tensor.element][1]
    if not code:
        raise bad_model(
            f"input {tensor.name!r} is a {tensor.element}, which the agent cannot fill",
            "export the model with float, half or integer inputs",
        )
    draw = random.Random(seed)
    drawn = max(1, min(_count(tensor), DRAWN))
    if code in "fe":
        values: List[Any] = [draw.gauss(0.0, 1.0) for _ in range(drawn)]
    else:
        values = [draw.randrange(2) for _ in range(drawn)]
    return struct.pack(f"<{drawn}{code}", *values)


def _profiler(trt: Any, reports: List[List[Tuple[str, int]]]) -> Any:
    """A profiler that adds each layer's name and ns to the last of ``reports``."""

    class Times(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reports[-1].append((str(layer_name), int(round(ms * 1e6))))

    return Times()


def _count(tensor: Tensor) -> int:
    return functools.reduce(operator.mul, tensor.shape, 1)


def _bytes(tensor: Tensor) -> int:
    return _count(tensor) * ELEMENTS[tensor.element][0]


def _closed() -> None:
    raise RuntimeError("this engine was closed")
