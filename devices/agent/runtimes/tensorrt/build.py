"""From an ONNX file to an engine, with everything that decides what is built set explicitly.

The builder times kernels and keeps the fastest.  Its timing cache lets later builds choose among
the same times; it is refused by another version or GPU, and then replaced by an empty one.
"""

import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ...checks import RequestError, bad_model, clip, missing_runtime
from .. import check_static, out_of_memory, says_out_of_memory
from .api import (
    Capabilities,
    network_flags,
    parser_error_node,
    set_detail,
    set_io,
    set_precision,
    set_tactics,
    set_workspace,
)

#: The default of 8.6 to 11: higher levels take many times as long.
OPTIMIZATION_LEVEL = 3
#: Times that each kernel is timed and averaged; the default of 1 lets noise choose.
AVERAGED_TIMINGS = 4
#: The share of the GPU's memory that one layer may take beside its tensors, and the most.
WORKSPACE_SHARE = 4
WORKSPACE_MOST_BYTES = 4 << 30

KEPT_LINES = 20
SHOWN_LINES = 5

#: Types of a network's layers that multiply.
PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED", "MATRIX_MULTIPLY"}
#: The type of the layers that have the scales of int8.
SCALED = "QUANTIZE"
#: Types of an input that are not what fp16 needs.
FLOATS = ("FLOAT", "BF16")
GRAPH_OF_MODEL, NODE_OF_GRAPH, NAME_OF_NODE, OPERATOR_OF_NODE = 7, 1, 3, 4
#: Protobuf's kinds of fields: those of fixed size, and those that say their size first.
VARINT, WITH_LENGTH, FIXED_BYTES = 0, 2, {1: 8, 5: 4}


class Built(NamedTuple):
    """An engine's bytes, and how it was built; ``cache`` is what the next build starts from."""

    plan: bytes
    build_s: float
    tactic_sources: List[str]
    flags: Dict[str, Any]
    cache: Optional[bytes]


def logger_of(trt: Any) -> Any:
    """A logger that keeps the last errors and warnings, and writes them to standard error.

    ``last`` returns some of them, for a message: of the warnings, where there is no error. Builds
    that go well warn a lot, and a driver that does not fit TensorRT is a warning too.
    """
    levels = trt.ILogger

    class Lines(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: List[str] = []
            self.warnings: List[str] = []

        def forget(self) -> None:
            del self.errors[:]
            del self.warnings[:]

        def last(self) -> str:
            said = self.errors or self.warnings
            return "; ".join(said[-SHOWN_LINES:]) or "TensorRT said nothing"

        def log(self, severity: Any, msg: str) -> None:
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                kept = self.errors
            elif severity == levels.WARNING:
                kept = self.warnings
            else:
                return
            kept.append(str(msg))
            del kept[:-KEPT_LINES]
            sys.stderr.write(f"TensorRT: {msg}\n")

    return Lines()


def make(kind: Callable[[Any], Any], able: Capabilities, logger: Any, gpu: Any) -> Any:
    """A new ``Builder`` or ``Runtime``; ``missing_runtime`` where TensorRT cannot make one.

    Its bindings then say no more than that a function returned nothing; the reason is in the log.
    """
    logger.forget()
    try:
        return kind(logger)
    except Exception as error:
        raise missing_runtime(
            f"TensorRT {able.version} does not start on {gpu.name}: {clip(logger.last())} "
            f"({error})",
            f"its driver serves CUDA {gpu.driver_cuda}: install a TensorRT that was built for this "
            "CUDA or an older one, or a newer driver (docs/gpus.md says which)",
        ) from error


def build(
    trt: Any,
    able: Capabilities,
    logger: Any,
    gpu: Any,
    file: str,
    precision: str,
    cache: Optional[bytes],
) -> Built:
    """Build an engine for this GPU (a ``GpuInfo``).

    ``cache`` is a serialized timing cache, empty for a new one; None builds without.
    """
    content = Path(file).read_bytes()
    builder = make(trt.Builder, able, logger, gpu)
    network = builder.create_network(network_flags(trt, able))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        raise _bad_model(able, parser, file, content)
    layers = _layer_types(network)
    _check_network(able, network, layers, file, precision)

    config = builder.create_builder_config()
    workspace = min(gpu.memory_bytes // WORKSPACE_SHARE, WORKSPACE_MOST_BYTES)
    set_workspace(trt, able, config, workspace)
    config.avg_timing_iterations = AVERAGED_TIMINGS
    # Without scales nothing can be in int8; fp16 is what is allowed beside it.
    allowed = "fp16" if precision == "int8" and SCALED not in layers else precision
    flags: Dict[str, Any] = dict(set_precision(trt, able, config, allowed))
    flags.update(set_io(trt, able, network, precision))
    flags.update(workspace_bytes=workspace, avg_timing_iterations=AVERAGED_TIMINGS)
    if set_detail(trt, able, config, OPTIMIZATION_LEVEL):
        flags["optimization_level"] = OPTIMIZATION_LEVEL
    sources = set_tactics(trt, able, config)
    flags["timing_cache"] = _set_cache(config, cache)

    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - start
    if plan is None:
        raise _refused(
            logger,
            f"TensorRT {able.version} cannot build {file}",
            "the whole of what it said is in the agent's standard error",
        )
    learned = None
    if cache is not None:
        learned = bytes(memoryview(config.get_timing_cache().serialize()))
    return Built(
        plan=bytes(memoryview(plan)),
        build_s=build_s,
        tactic_sources=sources,
        flags=flags,
        cache=learned,
    )


def _set_cache(config: Any, content: Optional[bytes]) -> str:
    """Give the config a timing cache; says which: "none", "new", "used" or "replaced"."""
    if content is None:
        return "none"
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, False):
        return "used" if content else "new"
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return "replaced"


def _layer_types(network: Any) -> Set[str]:
    return {network.get_layer(index).type.name for index in range(network.num_layers)}


def _check_network(
    able: Capabilities, network: Any, layers: Set[str], file: str, precision: str
) -> None:
    """Refuse what would be built as something else than what was asked for."""
    if not network.num_outputs:  # as in an empty file, which the parsers take
        raise bad_model(f"{file} holds no network: it has no outputs", "export the model again")
    if precision == "int8" and layers & PRODUCTS and SCALED not in layers:
        raise bad_model(
            f"{file} has no QuantizeLinear nodes: without them int8 would have no scales",
            "write the file with quantize and dequantize nodes (precision int8)",
        )
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        check_static(f"{file}: input {tensor.name!r}", tuple(tensor.shape))
        if precision == "fp16" and not able.precision_flags and tensor.dtype.name in FLOATS:
            raise bad_model(
                f"{file}: input {tensor.name!r} is a {tensor.dtype.name}, and TensorRT "
                f"{able.version} takes all types from the file: it would not be built in fp16",
                "write the file with FLOAT16 tensors (precision fp16)",
            )


def _bad_model(able: Capabilities, parser: Any, file: str, content: bytes) -> RequestError:
    said = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        number, name = parser_error_node(able, error)
        operator, in_file = _operator_and_name(content, number)
        node = f"{operator} {name or in_file}".strip()
        where = f"node {number} ({node}): " if node else ""
        said.append(f"{where}{' '.join(error.desc().split())} [{error.code().name}]")
    shown = clip("; ".join(said) or "it gave no error")
    return bad_model(
        f"TensorRT {able.version} cannot read {file}: {shown}",
        "check the file with onnx.checker, and its operators and opset against what this version "
        "of TensorRT reads (13 is what 8.2 reads)",
    )


def _operator_and_name(content: bytes, number: int) -> Tuple[str, str]:
    """Of a node of the graph, by the number that the parser gives; "" for what it lacks.

    Before TensorRT 10 the number is all there is, and the device may lack the onnx package.
    """
    try:
        (graph,) = _parts(memoryview(content), GRAPH_OF_MODEL)
        node = list(_parts(graph, NODE_OF_GRAPH))[number] if number >= 0 else memoryview(b"")
        return _text(node, OPERATOR_OF_NODE), _text(node, NAME_OF_NODE)
    except (ValueError, LookupError):
        return "", ""


def _text(message: memoryview, wanted: int) -> str:
    return "".join(bytes(part).decode("utf-8") for part in _parts(message, wanted))


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Each field of that number which holds bytes, in a message as protobuf writes it."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        size, at = (FIXED_BYTES[kind], at) if kind in FIXED_BYTES else _varint(message, at)
        if kind == WITH_LENGTH:
            if tag >> 3 == wanted:
                yield message[at : at + size]
        elif kind == VARINT:
            size = 0
        at += size


def _varint(message: memoryview, at: int) -> Tuple[int, int]:
    """The number that begins there, and where the next byte is."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return value, at


def not_taken(logger: Any, able: Capabilities) -> RequestError:
    """The error of an engine that TensorRT does not load."""
    return _refused(
        logger,
        f"TensorRT {able.version} does not take the engine",
        "run it again, which builds it anew: an engine is for the version, the GPU and the driver "
        "that it was built with",
    )


def _refused(logger: Any, what: str, advice: str) -> RequestError:
    said = clip(logger.last())
    if says_out_of_memory("; ".join(logger.errors)):
        return out_of_memory(said)
    return RequestError("runtime_error", f"{what}: {said}", advice)
