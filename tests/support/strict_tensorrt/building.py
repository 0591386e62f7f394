"""Behaviour of what builds: logger, parser, network, config, timing cache, builder."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from . import network
from .strict import Crash
from .world import World

#: Sources that are on before the program says anything.
DEFAULT_OFF_FROM_10 = ("CUBLAS", "CUBLAS_LT", "CUDNN")
IMPLICIT_BATCH = (
    'Assertion failed: !_importer_ctx.network()->hasImplicitBatchDimension() && "This version of '
    'the ONNX parser only supports TensorRT INetworkDefinitions with an explicit batch dimension."'
)
NO_INT8 = (
    "4: [network.cpp::validate::2633] Error Code 4: Internal Error (Int8 precision has been set "
    "for a layer or layer output, but int8 is not configured in the builder)"
)
NO_MEMORY = (
    "2: [virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory (no further "
    "information)"
)
#: What a build says that goes well.
SAID_IN_EVERY_BUILD = (
    ("VERBOSE", "Applying generic optimizations to the graph for inference."),
    ("INFO", "Detected 1 inputs and 1 output network tensors."),
    (
        "WARNING",
        "Tactic Device request: 6163MB Available: 5837MB. Device memory is insufficient to use "
        "tactic.",
    ),
    ("WARNING", "Skipping tactic 4 due to insufficient memory on requested size of 6462373888"),
)


class ILogger:
    def log(self: Any, severity: Any, msg: str) -> None:
        raise Crash("a logger without log() of its own")


class Logger:
    def made(self: Any, min_severity: Any = None) -> None:
        self.__dict__["_lines"] = []

    def log(self: Any, severity: Any, msg: str) -> None:
        self.__dict__["_lines"].append(msg)


class Builder:
    def made(self: Any, logger: Any) -> None:
        self._world.made("Builder", logger)
        self.__dict__["_logger"] = logger

    def create_network(self: Any, flags: int = 0) -> Any:
        known = self._world.classes["NetworkDefinitionCreationFlag"].__members__  # type: ignore[attr-defined]
        if flags & ~sum(1 << int(one) for one in set(known.values())):
            raise Crash(f"create_network({flags}): an unknown bit")
        is_explicit = self._world.major >= 10 or bool(
            flags & _bit(self._world, "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH")
        )
        return self._world.make("INetworkDefinition", _parsed=None, _is_explicit=is_explicit)

    def create_builder_config(self: Any) -> Any:
        on = self._world.classes["TacticSource"].__members__  # type: ignore[attr-defined]
        names = [n for n in on if self._world.major < 10 or n not in DEFAULT_OFF_FROM_10]
        return self._world.make(
            "IBuilderConfig",
            _logger=self._logger,
            _cache=None,
            _state={
                "flags": {"TF32"},
                "sources": sum(1 << int(on[name]) for name in names),
                "verbosity": "LAYER_NAMES_ONLY",
                "preview": {},
            },
        )

    def build_serialized_network(self: Any, network: Any, config: Any, **rest: Any) -> Any:
        return _build(self._world, self._logger, network._parsed, config)


class INetworkDefinition:
    def get_num_layers(self: Any) -> int:
        return len(self._parsed.nodes)

    def get_num_inputs(self: Any) -> int:
        return len(self._parsed.inputs)

    def get_layer(self: Any, index: int) -> Any:
        return self._world.make("ILayer", _node=self._parsed.nodes[index])

    def get_num_outputs(self: Any) -> int:
        return len(self._parsed.outputs)

    def get_input(self: Any, index: int) -> Any:
        return self._world.make("ITensor", _of=self._parsed.inputs, _at=index)

    def get_output(self: Any, index: int) -> Any:
        return self._world.make("ITensor", _of=self._parsed.outputs, _at=index)


class ILayer:
    def get_type(self: Any) -> Any:
        types = self._world.classes["LayerType"].__members__  # type: ignore[attr-defined]
        name = network.LAYERS[self._node.op_type]
        if self._node.op_type == "Gemm" and "FULLY_CONNECTED" in types:
            name = "FULLY_CONNECTED"
        return types[name]

    def get_name(self: Any) -> str:
        return str(self._node.name)


class ITensor:
    def get_name(self: Any) -> str:
        return str(self._of[self._at].name)

    def get_dtype(self: Any) -> Any:
        return getattr(self._world.classes["DataType"], self._of[self._at].element)

    def set_dtype(self: Any, value: Any) -> None:
        element = _member(self._world, "DataType", value)
        self._of[self._at] = replace(self._of[self._at], element=element)

    def get_shape(self: Any) -> Any:
        return dims(self._world, self._of[self._at].shape)


class OnnxParser:
    def made(self: Any, network: Any, logger: Any) -> None:
        self.__dict__.update(_network=network, _logger=logger, _errors=[])

    def parse(self: Any, model: Any, path: Any = None) -> bool:
        try:
            if not self._network._is_explicit:
                raise network.ParseError("INVALID_VALUE", -1, IMPLICIT_BATCH)
            self._network.__dict__["_parsed"] = network.parse(bytes(model))
        except network.ParseError as error:
            self._errors.append(error)
            self._world.error(self._logger, f"ModelImporter.cpp:720: ERROR: {error.text}")
            return False
        return True

    def get_num_errors(self: Any) -> int:
        return len(self._errors)

    def get_error(self: Any, index: int) -> Any:
        return self._world.make("ParserError", _error=self._errors[index])


class ParserError:
    def code(self: Any) -> Any:
        return getattr(self._world.classes["ErrorCode"], self._error.code)

    def desc(self: Any) -> str:
        return str(self._error.text)

    def node(self: Any) -> int:
        return int(self._error.node)

    def node_name(self: Any) -> str:
        return str(self._error.name)


class IBuilderConfig:
    def set_flag(self: Any, flag: Any) -> None:
        self._state["flags"].add(flag.name)

    def clear_flag(self: Any, flag: Any) -> None:
        self._state["flags"].discard(flag.name)

    def get_flag(self: Any, flag: Any) -> bool:
        return flag.name in self._state["flags"]

    def set_memory_pool_limit(self: Any, pool: Any, pool_size: int) -> None:
        self._state["workspace"] = {pool.name: pool_size}

    def set_max_workspace_size(self: Any, value: Any) -> None:
        self._state["workspace"] = {"max_workspace_size": _an_int(value)}

    def set_avg_timing_iterations(self: Any, value: Any) -> None:
        self._state["avg_timing_iterations"] = _an_int(value)

    def set_builder_optimization_level(self: Any, value: Any) -> None:
        self._state["optimization_level"] = _an_int(value)

    def set_profiling_verbosity(self: Any, value: Any) -> None:
        self._state["verbosity"] = _member(self._world, "ProfilingVerbosity", value)

    def get_tactic_sources(self: Any) -> int:
        return int(self._state["sources"])

    def set_tactic_sources(self: Any, tactic_sources: int) -> bool:
        self._state["sources"] = tactic_sources
        return True

    def set_preview_feature(self: Any, feature: Any, enable: bool) -> None:
        self._state["preview"][feature.name] = enable

    def create_timing_cache(self: Any, serialized_timing_cache: Any) -> Any:
        content = bytes(serialized_timing_cache)
        found = self._world.unpack(
            "timing cache", content or self._world.pack("timing cache", entries={})
        )
        if found is None:
            self._world.error(self._logger, "6: The timing cache is corrupt")
            return None
        return self._world.make("ITimingCache", _found=found)

    def set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
        if not self._world.is_ours(cache._found) and not ignore_mismatch:
            return False
        self.__dict__["_cache"] = cache
        return True

    def get_timing_cache(self: Any) -> Any:
        return self._cache


class ITimingCache:
    def serialize(self: Any) -> Any:
        found = self._found
        return self._world.make(
            "IHostMemory", self._world.pack("timing cache", entries=found["entries"])
        )


class IHostMemory:
    is_buffer = True


def dims(world: World, shape: tuple[int, ...]) -> Any:
    """A shape as the library gives it: a sequence that is no tuple."""
    return world.make("Dims", _shape=tuple(shape))


class Dims:
    """Behaviour of ``Dims``."""

    @staticmethod
    def made(self: Any, shape: Any = ()) -> None:
        self.__dict__["_shape"] = tuple(shape)

    @staticmethod
    def __len__(self: Any) -> int:  # type: ignore[misc]
        return len(self._shape)


def _build(world: World, logger: Any, parsed: Any, config: Any) -> Any:
    state = config._state
    world.builds += 1
    world.configs.append(
        {
            **state,
            "flags": sorted(state["flags"]),
            "has_cache": bool(config._cache),
            "io": {one.name: one.element for one in [*parsed.inputs, *parsed.outputs]},
        }
    )
    for severity, text in SAID_IN_EVERY_BUILD:
        world.tell(logger, severity, text)
    if world.fail("build", logger):
        return None
    has_scales = any(node.op_type == "QuantizeLinear" for node in parsed.nodes)
    if has_scales and world.major < 11 and "INT8" not in state["flags"]:
        world.error(logger, NO_INT8)
        return None
    needed = sum(one.bytes for one in [*parsed.inputs, *parsed.outputs]) + parsed.weight_bytes
    if needed > world.gpu.gpu.free_bytes():
        world.error(logger, NO_MEMORY)
        return None
    precision_of = _precisions(world, parsed, state["flags"])
    is_reduced = any(precision_of(node) in ("fp16", "int8") for node in parsed.nodes)
    kernels = network.compile_layers(parsed, precision_of, is_reduced)
    entries = config._cache._found["entries"] if config._cache is not None else {}
    for kernel in kernels:
        # Without a cache that knows better, kernels that are equally good win by chance.
        variant = entries.setdefault(f"{kernel.name} {kernel.precision}", world.builds % 3)
        if kernel.kind != "Reformat":
            kernel.tactic += f"_stage{variant}"
        kernel.cost_ns += 10 * variant
    plan = world.pack(
        "engine",
        kernels=network.as_json(kernels),
        tensors=[
            {
                "name": one.name,
                "is_input": one in parsed.inputs,
                "element": one.element,
                "shape": one.shape,
            }
            for one in [*parsed.inputs, *parsed.outputs]
        ],
        verbosity=state["verbosity"],
        weight_bytes=parsed.weight_bytes,
        file=base64.b64encode(parsed.content).decode(),
    )
    return world.make("IHostMemory", plan)


def _precisions(world: World, parsed: Any, flags: set[str]) -> Any:
    scaled = {node.output[0] for node in parsed.nodes if node.op_type == "DequantizeLinear"}
    plain = "tf32" if "TF32" in flags and world.gpu.gpu.capability >= (8, 0) else "fp32"
    typed = "fp16" if parsed.inputs[0].element == "HALF" else plain

    def precision_of(node: Any) -> str:
        if world.chooses is not None:
            return world.chooses
        if world.major >= 11:
            return "int8" if node.input[0] in scaled else typed
        if "INT8" in flags and node.input[0] in scaled:
            return "int8"
        return "fp16" if "FP16" in flags else plain

    return precision_of


def _bit(world: World, name: str, member: str) -> int:
    found = world.classes.get(name)
    value = getattr(found, member, None)
    return 0 if value is None else 1 << int(value)


def _an_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"(): incompatible function arguments: {value!r} is no int")
    return value


def _member(world: World, name: str, value: Any) -> str:
    if not isinstance(value, world.classes[name]):
        raise TypeError(f"(): incompatible function arguments: {value!r} is no {name}")
    return str(value.name)


#: What plays the classes, by name.
PLAYED: dict[str, type] = {
    one.__name__: one
    for one in (
        ILogger,
        Logger,
        Builder,
        INetworkDefinition,
        ILayer,
        ITensor,
        OnnxParser,
        ParserError,
        IBuilderConfig,
        ITimingCache,
        IHostMemory,
        Dims,
    )
}
