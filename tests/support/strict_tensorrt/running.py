"""Behaviour of what runs: runtime, engine, inspector, context, profiler."""

from __future__ import annotations

import base64
import json
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from . import network
from .building import _member, dims
from .strict import Crash
from .world import World

Array = npt.NDArray[Any]
NUMPY_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


class Runtime:
    def made(self: Any, logger: Any) -> None:
        self._world.made("Runtime", logger)
        self.__dict__["_logger"] = logger
        self._world.note_end(self, "Runtime")

    def deserialize_cuda_engine(self: Any, serialized_engine: Any) -> Any:
        if self._world.fail("deserialize", self._logger):
            return None
        plan = self._world.unpack("engine", bytes(serialized_engine))
        if plan is None or not self._world.is_ours(plan):
            self._world.error(
                self._logger, "1: [stdArchiveReader.cpp::40] Version tag does not match"
            )
            return None
        tensors = [
            network.TensorInfo(one["name"], one["element"], tuple(one["shape"]))
            for one in plan["tensors"]
        ]
        engine = self._world.make(
            "ICudaEngine",
            _runtime=weakref.ref(self),
            _logger=self._logger,
            _plan=plan,
            _kernels=[network.Kernel(**one) for one in plan["kernels"]],
            _tensors=tensors,
            _inputs={one["name"] for one in plan["tensors"] if one["is_input"]},
        )
        self._world.note_end(engine, "ICudaEngine", self._world.hold(plan["weight_bytes"]))
        return engine


class ICudaEngine:
    def get_num_io_tensors(self: Any) -> int:
        return len(self._tensors)

    get_num_bindings = get_num_io_tensors

    def get_num_aux_streams(self: Any) -> int:
        return 1

    def get_tensor_name(self: Any, index: int) -> str:
        return str(self._tensors[index].name)

    def get_tensor_mode(self: Any, name: str) -> Any:
        modes = self._world.classes["TensorIOMode"]
        return getattr(modes, "INPUT" if name in self._inputs else "OUTPUT")

    def get_tensor_shape(self: Any, name: str) -> Any:
        return dims(self._world, _tensor(self, name).shape)

    def get_tensor_dtype(self: Any, name: str) -> Any:
        return getattr(self._world.classes["DataType"], _tensor(self, name).element)

    def get_binding_name(self: Any, index: int) -> str:
        return str(self._tensors[index].name)

    def binding_is_input(self: Any, index: int = -1, name: str = "") -> bool:
        return (name or self._tensors[index].name) in self._inputs

    def get_binding_shape(self: Any, index: int) -> Any:
        return dims(self._world, self._tensors[index].shape)

    def get_binding_dtype(self: Any, index: int) -> Any:
        return getattr(self._world.classes["DataType"], self._tensors[index].element)

    def create_engine_inspector(self: Any) -> Any:
        return self._world.make("EngineInspector", _engine=self)

    def create_execution_context(self: Any, strategy: Any = None) -> Any:
        if self._runtime() is None:
            raise Crash("the runtime of an engine is gone")
        if self._world.fail("context", self._logger):
            return None
        context = self._world.make(
            "IExecutionContext",
            _engine=weakref.ref(self),
            _logger=self._logger,
            _addresses={},
            _profiler=None,
            _has_run=False,
        )
        scratch = sum(one.bytes for one in self._tensors)
        self._world.note_end(context, "IExecutionContext", self._world.hold(scratch))
        return context


class EngineInspector:
    def get_engine_information(self: Any, format: Any) -> str:
        if format.name != "JSON":
            return "a line a layer"
        text = json.dumps(_information(self._world, self._engine))
        if self._world.version.startswith("8.6.0"):  # issue 2779 of NVIDIA/TensorRT
            text = text.replace('"LayerType": "', '"LayerType": "\x01\x1f')
        return text


class IExecutionContext:
    def set_nvtx_verbosity(self: Any, value: Any) -> None:
        self.__dict__["_nvtx"] = _member(self._world, "ProfilingVerbosity", value)

    def set_profiler(self: Any, value: Any) -> None:
        if not isinstance(value, self._world.classes["IProfiler"]):
            raise TypeError(f"(): incompatible function arguments: {value!r}")
        self.__dict__["_profiler"] = value

    def set_tensor_address(self: Any, name: str, memory: int) -> bool:
        if all(one.name != name for one in _engine(self)._tensors):
            self._world.error(self._logger, f"3: setTensorAddress given invalid tensor name {name}")
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self: Any, stream_handle: int) -> bool:
        self._world.launched_by.append("execute_async_v3")
        return _execute(self._world, self, self._addresses, stream_handle)

    def execute_async_v2(
        self: Any, bindings: Any, stream_handle: int, input_consumed: Any = None
    ) -> bool:
        self._world.launched_by.append("execute_async_v2")
        names = [one.name for one in _engine(self)._tensors]
        if len(bindings) != len(names):
            self._world.error(self._logger, f"3: {len(bindings)} bindings for {len(names)} tensors")
            return False
        return _execute(self._world, self, dict(zip(names, bindings, strict=True)), stream_handle)


class IProfiler:
    def report_layer_time(self: Any, layer_name: str, ms: float) -> None:
        raise Crash("a profiler without report_layer_time() of its own")


def _execute(world: World, context: Any, addresses: dict[str, int], stream: int) -> bool:
    engine, gpu = _engine(context), world.gpu
    if world.fail("enqueue", context._logger):
        return False
    lacking = [one.name for one in engine._tensors if not addresses.get(one.name)]
    if lacking:
        world.error(context._logger, f"3: enqueue: no address for tensors {lacking}")
        return False
    try:
        captured = gpu.is_captured(stream)
        if captured and ("capture" in world.fails or not context._has_run or context._profiler):
            gpu.gpu.synchronize(stream)  # what a capture does not allow
        for kernel in engine._kernels[:-1]:
            gpu.launch(stream, kernel.cost_ns)
        last = engine._kernels[-1]
        effect = _touch(gpu, engine, addresses)
        gpu.launch(stream, last.cost_ns, effect, last.cost_ns)
        context.__dict__["_has_run"] = True
        if context._profiler is not None:
            gpu.gpu.synchronize(stream)
            for kernel in engine._kernels:
                context._profiler.report_layer_time(kernel.name, kernel.cost_ns / 1e6)
    except gpu.Fault as fault:
        world.error(context._logger, f"1: Cuda Runtime ({fault})")
        return False
    return True


def _touch(gpu: Any, engine: Any, addresses: dict[str, int]) -> Any:
    """What reads all of the inputs and writes all of the outputs; it holds no engine.

    Outputs are computed where somebody looks at them, from what the inputs are then.
    """
    places = {t.name: (addresses[t.name], t.bytes) for t in engine._tensors}
    elements = {t.name: (t.element, t.shape) for t in engine._tensors}
    inputs, file = set(engine._inputs), engine._plan["file"]

    def content_of(output: str) -> bytes:
        given = {
            name: np.frombuffer(gpu.read(*places[name]), NUMPY_TYPES[element]).reshape(shape)
            for name, (element, shape) in elements.items()
            if name in inputs
        }
        wanted = NUMPY_TYPES[elements[output][0]]
        return computed(base64.b64decode(file), given, output).astype(wanted).tobytes()

    def touch() -> None:
        for name in inputs:
            gpu.check_range(*places[name])
        for name in set(places) - inputs:
            gpu.defer(places[name][0], partial(content_of, name))

    return touch


def computed(file: bytes, inputs: Mapping[str, Array], output: str) -> Array:
    """An output of the network, by ONNX Runtime in the types of the file."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    types = {one.name: one.type for one in session.get_inputs()}
    given = {
        name: value.astype(np.float32) if types[name] == "tensor(float)" else value
        for name, value in inputs.items()
    }
    (found,) = session.run([output], given)
    return np.asarray(found)


def _engine(context: Any) -> Any:
    engine = context._engine()
    if engine is None or engine._runtime() is None:
        raise Crash("the engine of a context is gone")
    return engine


def _tensor(engine: Any, name: str) -> Any:
    return next(one for one in engine._tensors if one.name == name)


def _information(world: World, engine: Any) -> dict[str, Any]:
    layers: list[Any] = [network.inspector_layer(one, world.major) for one in engine._kernels]
    if engine._plan["verbosity"] not in ("DETAILED", "VERBOSE") or not world.tells_details:
        layers = [one.name for one in engine._kernels]
    found: dict[str, Any] = {"Layers": layers}
    if world.major < 11:
        found["Bindings"] = [one.name for one in engine._tensors]
    else:
        found["I/O Tensors"] = [
            {"Name": one.name, "IOMode": "Input" if one.name in engine._inputs else "Output"}
            for one in engine._tensors
        ]
    return found


#: What plays the classes, by name.
PLAYED: dict[str, type] = {
    one.__name__: one
    for one in (Runtime, ICudaEngine, EngineInspector, IExecutionContext, IProfiler)
}
