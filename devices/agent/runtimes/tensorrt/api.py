"""Every difference between the versions of TensorRT's Python package, 8.2 to 11.

``Capabilities`` is made once, from the names that the imported module has; code that needs to
know what a version can do reads a field of it, or calls a function here that does.  Nothing else
asks for a version or for a name.
"""

import os
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

#: "bindings" takes the path of TensorRT 8.2 in versions that have both (8.5 to 9): to try on a
#: desktop what a Jetson TX2 will do.
API_VARIABLE = "DSHRINK_TENSORRT_API"
#: "own" builds with TensorRT's own kernels alone, for machines without cuBLAS and cuDNN.
TACTICS_VARIABLE = "DSHRINK_TENSORRT_TACTICS"
#: Tactic sources that are other libraries.
FOREIGN_SOURCES = ("CUBLAS", "CUBLAS_LT", "CUDNN")

NO_FOREIGN_TACTICS = "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"


class Capabilities(NamedTuple):
    """What this TensorRT has; see docs/gpus.md for the versions."""

    version: str
    #: 8.5 on: tensors have names, ``execute_async_v3``.
    named_tensors: bool
    #: To 9: tensors have numbers, ``execute_async_v2``.
    bindings: bool
    #: To 9: without the flag a network has an implicit batch, and the parser refuses it.
    explicit_batch: bool
    #: 8.4 on: ``set_memory_pool_limit``; before it ``max_workspace_size``.
    memory_pools: bool
    #: To 10: types are chosen by the builder; after it they are those of the file.
    precision_flags: bool
    tf32_flag: bool
    #: 8.6 on.
    optimization_level: bool
    #: 8.5 on: else a detailed engine reports each layer to NVTX as it is launched.
    nvtx_verbosity: bool
    #: 10 on: before it, errors of the parser have the number of a node alone.
    parser_names_nodes: bool
    #: 8.5 to 9.
    no_foreign_tactics: bool
    #: 8.6 on: branches may run on streams that TensorRT adds.
    auxiliary_streams: bool
    #: Names of the tactic sources.
    tactic_sources: Tuple[str, ...]

    @classmethod
    def of(cls, trt: Any) -> "Capabilities":
        """Look at the module's names."""
        engine, context, config = trt.ICudaEngine, trt.IExecutionContext, trt.IBuilderConfig
        return cls(
            version=str(trt.__version__),
            named_tensors=hasattr(engine, "num_io_tensors")
            and hasattr(context, "execute_async_v3"),
            bindings=hasattr(engine, "num_bindings") and hasattr(context, "execute_async_v2"),
            explicit_batch=hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
            and hasattr(trt.Builder, "max_batch_size"),
            memory_pools=hasattr(config, "set_memory_pool_limit"),
            precision_flags=hasattr(trt.BuilderFlag, "FP16"),
            tf32_flag=hasattr(trt.BuilderFlag, "TF32"),
            optimization_level=hasattr(config, "builder_optimization_level"),
            nvtx_verbosity=hasattr(context, "nvtx_verbosity"),
            parser_names_nodes=hasattr(trt.ParserError, "node_name"),
            no_foreign_tactics=hasattr(getattr(trt, "PreviewFeature", None), NO_FOREIGN_TACTICS),
            auxiliary_streams=hasattr(engine, "num_aux_streams"),
            tactic_sources=tuple(sorted(trt.TacticSource.__members__)),
        )

    def api(self, environment: Mapping[str, str] = os.environ) -> str:
        """Which of the two ways to run an engine is taken: "tensors" or "bindings"."""
        forced = environment.get(API_VARIABLE) == "bindings" and self.bindings
        return "tensors" if self.named_tensors and not forced else "bindings"


class Tensor(NamedTuple):
    """An input or output of an engine; ``element`` is the name of its type ("FLOAT")."""

    name: str
    is_input: bool
    shape: Tuple[int, ...]
    element: str


def network_flags(trt: Any, able: Capabilities) -> int:
    """The flags of a network whose batch is one of its dimensions."""
    if not able.explicit_batch:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def set_workspace(trt: Any, able: Capabilities, config: Any, count: int) -> None:
    """Bound the memory that a layer may use beside its tensors."""
    if able.memory_pools:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, count)
    else:
        config.max_workspace_size = count


def set_precision(trt: Any, able: Capabilities, config: Any, precision: str) -> Dict[str, bool]:
    """Allow what the precision needs and nothing else; returns the flags as they are now."""
    flags: Dict[str, bool] = {}
    if able.tf32_flag:  # on by default from Ampere on
        config.clear_flag(trt.BuilderFlag.TF32)
        flags["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
    if able.precision_flags:
        if precision in ("fp16", "int8"):
            config.set_flag(trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
        flags["fp16"] = config.get_flag(trt.BuilderFlag.FP16)
        flags["int8"] = config.get_flag(trt.BuilderFlag.INT8)
    return flags


def set_io(trt: Any, able: Capabilities, network: Any, precision: str) -> Dict[str, str]:
    """Make floating inputs and outputs fp16 where the layers may be; returns a flag that says so.

    They stay fp32 in a weakly typed network otherwise, and each is converted in every run.  In int8
    they are fp32 in all versions: the scales of the neighbours are not the piece's own.
    """
    if precision == "int8":
        return {"io": "fp32"}
    if not (able.precision_flags and precision == "fp16"):
        return {}
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in tensors:
        if tensor.dtype == trt.DataType.FLOAT:
            tensor.dtype = trt.DataType.HALF
    return {"io": "fp16"}


def set_tactics(
    trt: Any, able: Capabilities, config: Any, environment: Mapping[str, str] = os.environ
) -> List[str]:
    """Set the tactic sources, by default those that this version has on; returns their names."""
    bits = config.get_tactic_sources()
    members = {name: 1 << int(getattr(trt.TacticSource, name)) for name in able.tactic_sources}
    names = [name for name, bit in members.items() if bits & bit]
    if environment.get(TACTICS_VARIABLE) == "own":
        names = [name for name in able.tactic_sources if name not in FOREIGN_SOURCES]
        if able.no_foreign_tactics:
            config.set_preview_feature(getattr(trt.PreviewFeature, NO_FOREIGN_TACTICS), True)
    config.set_tactic_sources(sum(members[name] for name in names))
    return names


def set_detail(trt: Any, able: Capabilities, config: Any, level: int) -> bool:
    """Make the engine describe all of its layers; set the optimization level if there is one."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if able.optimization_level:
        config.builder_optimization_level = level
    return able.optimization_level


def auxiliary_streams(able: Capabilities, engine: Any) -> int:
    """On how many streams beside ours the engine runs branches; how many is TensorRT's choice."""
    return int(engine.num_aux_streams) if able.auxiliary_streams else 0


def quiet_context(trt: Any, able: Capabilities, engine: Any) -> Any:
    """A context of an engine that spends no time on describing its layers."""
    context = engine.create_execution_context()
    if context is not None and able.nvtx_verbosity:
        context.nvtx_verbosity = trt.ProfilingVerbosity.NONE
    return context


def parser_error_node(able: Capabilities, error: Any) -> Tuple[int, str]:
    """The number of the node that an error of the parser is about, and its name if it has it."""
    return int(error.node()), str(error.node_name()) if able.parser_names_nodes else ""


def tensors_of(trt: Any, api: str, engine: Any) -> List[Tensor]:
    """Inputs and outputs, in the order of the bindings."""
    if api == "tensors":
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [
            Tensor(
                name,
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                tuple(engine.get_tensor_shape(name)),
                engine.get_tensor_dtype(name).name,
            )
            for name in names
        ]
    return [
        Tensor(
            engine.get_binding_name(index),
            engine.binding_is_input(index),
            tuple(engine.get_binding_shape(index)),
            engine.get_binding_dtype(index).name,
        )
        for index in range(engine.num_bindings)
    ]


def enqueuer(
    api: str, context: Any, buffers: Sequence[Tuple[Tensor, int]], stream: int
) -> Callable[[], bool]:
    """Bind the tensors to addresses; returns what enqueues one run, and says whether it could."""
    if api == "bindings":
        bindings = [address for _, address in buffers]
        return lambda: bool(context.execute_async_v2(bindings, stream))
    for tensor, address in buffers:
        if not context.set_tensor_address(tensor.name, address):
            raise RuntimeError(f"TensorRT does not take an address for tensor {tensor.name!r}")
    return lambda: bool(context.execute_async_v3(stream))
