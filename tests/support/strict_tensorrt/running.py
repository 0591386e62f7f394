"""Behaviour of what runs: runtime, engine, inspector, context, profiler."""

from __future__ import annotations

import json
import weakref
from typing import Any

from . import network
from .building import _member, dims
from .strict import Crash
from .world import World


def behaviours(world: World) -> dict[str, type]:
    """The classes, by the names they play."""

    class Runtime:
        @staticmethod
        def made(self: Any, logger: Any) -> None:
            world.need_gpu("Runtime")
            self.__dict__["_logger"] = logger
            world.note_end(self, "Runtime")

        @staticmethod
        def deserialize_cuda_engine(self: Any, serialized_engine: Any) -> Any:
            if world.fail("deserialize", self._logger):
                return None
            plan = world.unpack("engine", bytes(serialized_engine))
            if plan is None or not world.is_ours(plan):
                world.error(
                    self._logger, "1: [stdArchiveReader.cpp::40] Version tag does not match"
                )
                return None
            tensors = [
                network.TensorInfo(one["name"], one["element"], tuple(one["shape"]))
                for one in plan["tensors"]
            ]
            engine = world.make(
                "ICudaEngine",
                _runtime=weakref.ref(self),
                _logger=self._logger,
                _plan=plan,
                _kernels=[network.Kernel(**one) for one in plan["kernels"]],
                _tensors=tensors,
                _inputs={one["name"] for one in plan["tensors"] if one["is_input"]},
            )
            world.note_end(engine, "ICudaEngine", world.hold(plan["weight_bytes"]))
            return engine

    class ICudaEngine:
        @staticmethod
        def get_num_io_tensors(self: Any) -> int:
            return len(self._tensors)

        get_num_bindings = get_num_io_tensors

        @staticmethod
        def get_tensor_name(self: Any, index: int) -> str:
            return str(self._tensors[index].name)

        @staticmethod
        def get_tensor_mode(self: Any, name: str) -> Any:
            modes = world.classes["TensorIOMode"]
            return getattr(modes, "INPUT" if name in self._inputs else "OUTPUT")

        @staticmethod
        def get_tensor_shape(self: Any, name: str) -> Any:
            return dims(world, _tensor(self, name).shape)

        @staticmethod
        def get_tensor_dtype(self: Any, name: str) -> Any:
            return getattr(world.classes["DataType"], _tensor(self, name).element)

        @staticmethod
        def get_binding_name(self: Any, index: int) -> str:
            return str(self._tensors[index].name)

        @staticmethod
        def binding_is_input(self: Any, index: int = -1, name: str = "") -> bool:
            return (name or self._tensors[index].name) in self._inputs

        @staticmethod
        def get_binding_shape(self: Any, index: int) -> Any:
            return dims(world, self._tensors[index].shape)

        @staticmethod
        def get_binding_dtype(self: Any, index: int) -> Any:
            return getattr(world.classes["DataType"], self._tensors[index].element)

        @staticmethod
        def create_engine_inspector(self: Any) -> Any:
            return world.make("EngineInspector", _engine=self)

        @staticmethod
        def create_execution_context(self: Any, strategy: Any = None) -> Any:
            if self._runtime() is None:
                raise Crash("the runtime of an engine is gone")
            if world.fail("context", self._logger):
                return None
            context = world.make(
                "IExecutionContext",
                _engine=weakref.ref(self),
                _logger=self._logger,
                _addresses={},
                _profiler=None,
                _has_run=False,
            )
            scratch = sum(one.bytes for one in self._tensors)
            world.note_end(context, "IExecutionContext", world.hold(scratch))
            return context

    class EngineInspector:
        @staticmethod
        def get_engine_information(self: Any, format: Any) -> str:
            if format.name != "JSON":
                return "a line a layer"
            return json.dumps(_information(world, self._engine))

    class IExecutionContext:
        @staticmethod
        def set_nvtx_verbosity(self: Any, value: Any) -> None:
            self.__dict__["_nvtx"] = _member(world, "ProfilingVerbosity", value)

        @staticmethod
        def set_profiler(self: Any, value: Any) -> None:
            if not isinstance(value, world.classes["IProfiler"]):
                raise TypeError(f"(): incompatible function arguments: {value!r}")
            self.__dict__["_profiler"] = value

        @staticmethod
        def set_tensor_address(self: Any, name: str, memory: int) -> bool:
            if all(one.name != name for one in _engine(self)._tensors):
                world.error(self._logger, f"3: setTensorAddress given invalid tensor name {name}")
                return False
            self._addresses[name] = memory
            return True

        @staticmethod
        def execute_async_v3(self: Any, stream_handle: int) -> bool:
            world.launched_by.append("execute_async_v3")
            return _execute(world, self, self._addresses, stream_handle)

        @staticmethod
        def execute_async_v2(
            self: Any, bindings: Any, stream_handle: int, input_consumed: Any = None
        ) -> bool:
            world.launched_by.append("execute_async_v2")
            names = [one.name for one in _engine(self)._tensors]
            if len(bindings) != len(names):
                world.error(self._logger, f"3: {len(bindings)} bindings for {len(names)} tensors")
                return False
            return _execute(world, self, dict(zip(names, bindings, strict=True)), stream_handle)

    class IProfiler:
        @staticmethod
        def report_layer_time(self: Any, layer_name: str, ms: float) -> None:
            raise Crash("a profiler without report_layer_time() of its own")

    return {name: one for name, one in locals().items() if isinstance(one, type)}


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
        gpu.launch(stream, last.cost_ns, lambda: _touch(gpu, engine, addresses), last.cost_ns)
        context.__dict__["_has_run"] = True
        if context._profiler is not None:
            gpu.gpu.synchronize(stream)
            for kernel in engine._kernels:
                context._profiler.report_layer_time(kernel.name, kernel.cost_ns / 1e6)
    except gpu.Fault as fault:
        world.error(context._logger, f"1: Cuda Runtime ({fault})")
        return False
    return True


def _touch(gpu: Any, engine: Any, addresses: dict[str, int]) -> None:
    """Read all of the inputs, write all of the outputs."""
    total = sum(
        sum(gpu.read(addresses[one.name], one.bytes)[:64])
        for one in engine._tensors
        if one.name in engine._inputs
    )
    for one in engine._tensors:
        if one.name not in engine._inputs:
            gpu.write(addresses[one.name], bytes([total % 251]) * one.bytes)


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
