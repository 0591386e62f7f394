"""What an ONNX file may ask of this machine, checked before any of it is computed.

A few bytes can name a tensor of terabytes, a loop without an end, or functions that call each other
a billion times. Sizes are taken from shape inference, which computes none of the tensors; what it
cannot tell is found when it is too late, as in any other network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import TensorProto, numpy_helper

from dshrink.errors import NetworkError, first_line

#: Of a serialized message; beyond it data must be outside, where no runtime here is sent them.
MOST_BYTES = 2**31 - 1
#: Of one tensor that is computed of images: 4 GiB in float32; of constants alone: 512 MiB.
MOST_VALUES, MOST_CONSTANT_VALUES = 1 << 30, 1 << 27
#: Of a graph in which functions are written out; the largest networks have some ten thousand.
MOST_NODES = 200_000
#: Of a loop that is measured as it is.
MOST_STEPS = 10_000
#: Values of a constant up to which shape inference may follow them: it holds each as an object.
_FOLLOWED = 1 << 16

_LOOPS = ("Loop", "Scan", "SequenceMap")
#: Bytes of a number, where its kind says so.
_FLOATS: Mapping[int, int] = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2}
#: Above, a tensor holds weights, and nothing that a shape is computed from.
_SMALL = 1024


def check_weights(path: Path, model: onnx.ModelProto) -> None:
    """Raise NetworkError for tensors that cannot be read, or have one name."""
    counts = Counter(one.name for one in model.graph.initializer)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise NetworkError(f"{path}: tensor {twice[:60]!r} is given twice: export it again")
    for tensor in model.graph.initializer:
        if problem := _misfit(tensor):
            raise NetworkError(
                f"{path}: tensor {tensor.name[:60]!r} {problem}: it is damaged; export it again"
            )
        try:
            numpy_helper.to_array(tensor)
        except Exception as error:  # what NumPy and onnx raise for types and sizes of any kind
            raise NetworkError(
                f"{path}: tensor {tensor.name[:60]!r} cannot be read ({first_line(error)[:160]}): "
                "it is damaged; export it again"
            ) from error


def check_numbers(path: Path, model: onnx.ModelProto) -> None:
    """Raise NetworkError for weights that are NaN; they can be read (``check_weights``)."""
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS and np.isnan(numpy_helper.to_array(tensor)).any():
            raise NetworkError(
                f"{path}: tensor {tensor.name!r} holds NaN: give a network that was trained without"
            )


def _misfit(tensor: onnx.TensorProto) -> str:
    """What is wrong with a tensor's dimensions, before an array is made of them."""
    if any(side < 0 for side in tensor.dims):
        return f"has negative dimensions {list(tensor.dims)}"
    count = math.prod(tensor.dims)
    if count > MOST_BYTES:
        return f"has {count} values"
    size = _FLOATS.get(tensor.data_type)
    if size and tensor.HasField("raw_data") and len(tensor.raw_data) != count * size:
        return f"of {list(tensor.dims)} holds {len(tensor.raw_data)} bytes of data"
    return ""


def inlined(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions written out, so that a node is always an operator.

    Raises NetworkError where they have no end, or none that could be read.
    """
    if not model.functions:
        return model
    functions = {(one.domain, one.name): one for one in model.functions}
    try:
        count = _size(model.graph.node, functions, {})
    except RecursionError:
        count = math.inf
    if count > MOST_NODES:
        raise NetworkError(
            f"{path}: its functions call themselves, or come to more than {MOST_NODES} operators: "
            "export it without functions"
        )
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise NetworkError(
            f"{path}: its functions cannot be written out ({first_line(error)[:160]}): export it "
            "without functions"
        ) from error


def _size(
    nodes: Iterable[onnx.NodeProto],
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
    sizes: dict[tuple[str, str], float],
) -> float:
    """How many operators nodes come to; infinite where a function is within itself."""
    found = 0.0
    for node in nodes:
        called = (node.domain, node.op_type)
        if called not in functions:
            found += 1
        elif called not in sizes:
            sizes[called] = math.inf  # what it says while it is being counted
            sizes[called] = _size(functions[called].node, functions, sizes)
            found += sizes[called]
        else:
            found += sizes[called]
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found += _size(graph.node, functions, sizes)
    return found


def nodes_below(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes_below(inner)


def check_loops(path: Path, model: onnx.ModelProto, *, counted: bool = False) -> None:
    """Raise NetworkError for what repeats operators: how long it takes is known in the end.

    ``counted``: those that the file itself says to end are left in.
    """
    stored = {one.name: one for one in model.graph.initializer}
    for node in nodes_below(model.graph):
        if node.op_type not in _LOOPS or node.domain not in ("", "ai.onnx"):
            continue
        times = stored.get(node.input[0]) if node.input else None
        ends = node.op_type != "Loop" or (
            times is not None and numpy_helper.to_array(times).max(initial=0) <= MOST_STEPS
        )
        if not (counted and ends):
            raise NetworkError(
                f"{path}: {node.op_type} (node {node.name[:60]!r}) repeats operators, nobody knows "
                "how often: export the network by tracing, which writes its steps out"
            )


def check_sizes(path: Path, model: onnx.ModelProto, image: str, shape: Sequence[int]) -> None:
    """Raise NetworkError for a tensor above ``MOST_VALUES``, given an ``image`` of that shape."""
    if math.prod(shape) > MOST_VALUES:
        raise NetworkError(
            f"{path}: takes {'x'.join(map(str, shape))} at once, more than {MOST_VALUES} "
            "values: export the network for smaller images, or a smaller batch"
        )
    outline = _outline(model, image, shape)
    if _check_inferred(path, outline, image, follow_values=False):
        _check_inferred(path, outline, image, follow_values=True)


def _check_inferred(
    path: Path, outline: onnx.ModelProto, image: str, *, follow_values: bool
) -> bool:
    """Whether constants are few enough for their values to be followed into shapes."""
    try:
        found = onnx.shape_inference.infer_shapes(outline, data_prop=follow_values)
    except Exception:  # what is wrong with the file is said where it is read
        return True
    makers: dict[str, onnx.NodeProto] = {}
    of_images = {image}
    for node in found.graph.node:
        makers.update((name, node) for name in node.output)
        if not of_images.isdisjoint(node.input):
            of_images.update(node.output)
    are_few = True
    for value in (*found.graph.value_info, *found.graph.output):
        sides = [one.dim_value for one in value.type.tensor_type.shape.dim]
        if value.name not in makers or not sides:
            continue
        count, is_of_images = math.prod(sides), value.name in of_images
        if count > (MOST_VALUES if is_of_images else MOST_CONSTANT_VALUES):
            node = makers[value.name]
            raise NetworkError(
                f"{path}: {node.op_type} (node {(node.name or value.name)[:60]!r}) makes a tensor "
                f"of {'x'.join(map(str, sides))}, more than "
                f"{MOST_VALUES if is_of_images else MOST_CONSTANT_VALUES} values: export the "
                "network for smaller images, or a smaller batch"
            )
        are_few = are_few and (is_of_images or count <= _FOLLOWED)
    return are_few


def _outline(model: onnx.ModelProto, image: str, shape: Sequence[int]) -> onnx.ModelProto:
    """The model without its weights, whose shapes stay, and with an input of this shape."""
    made = onnx.ModelProto(ir_version=model.ir_version)
    made.opset_import.extend(model.opset_import)
    graph = made.graph
    graph.name = "outline"
    graph.node.extend(model.graph.node)
    graph.output.extend(onnx.ValueInfoProto(name=one.name) for one in model.graph.output)
    entry = next(one for one in model.graph.input if one.name == image)
    element = entry.type.tensor_type.elem_type
    graph.input.append(onnx.helper.make_tensor_value_info(image, element, shape))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _SMALL:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        else:
            graph.initializer.append(tensor)
    return made
