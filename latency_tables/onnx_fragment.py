"""The ONNX nodes of an operator that an ``OpSpec`` has no words for, as text that goes into it.

A fragment is an ONNX graph with canonical names: ``x0``, ``x1``, ... are its inputs, ``w0``, ...
its weights (by shape only), ``y`` its result, and initializers its other constants. Sizes depend on
the batch, so an integer, constant or attribute, may have a companion (``BATCH`` behind its name)
that is added to it once for every image of the batch.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

#: Behind the name of a constant: what each image of the batch adds to it.
BATCH = "@batch"
RESULT = "y"

#: Inputs that stay float32 in a file of another type, by operator and position.
_ALWAYS_FLOAT32 = {("Resize", 1), ("Resize", 2), ("Upsample", 1)}
#: Operators that ONNX has no float16 of: how many inputs are float, and whether the result is.
_FLOAT32_ONLY = {"CumSum": (1, True), "IsInf": (1, False), "Range": (3, True)}
#: Attributes that name the type of the result.
_TYPES = {("Cast", "to"), ("EyeLike", "dtype")}


def to_text(graph: onnx.GraphProto) -> str:
    """A graph with canonical names as text, the same for equal graphs."""
    data: bytes = graph.SerializeToString(deterministic=True)
    return base64.b64encode(data).decode()


def from_text(text: str) -> onnx.GraphProto:
    graph = onnx.GraphProto()
    graph.ParseFromString(base64.b64decode(text))
    return graph


def bound_nodes(
    text: str,
    *,
    inputs: Sequence[str],
    weights: Sequence[str],
    output: str,
    batch: int,
    half: bool = False,
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants of a fragment between tensors of these names.

    What is made in between is named after ``output``, as are the nodes. ``half`` makes FLOAT16 of
    what is FLOAT.
    """
    graph = from_text(text)
    names = {
        **{f"x{at}": name for at, name in enumerate(inputs)},
        **{f"w{at}": name for at, name in enumerate(weights)},
        RESULT: output,
        "": "",
    }
    kept_float32 = {
        node.input[at]
        for node in graph.node
        for at in range(len(node.input))
        if (node.op_type, at) in _ALWAYS_FLOAT32
    }
    values = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    constants = [
        numpy_helper.from_array(
            _constant(values, name, batch, half and name not in kept_float32), f"{output}.{name}"
        )
        for name in values
        if not name.endswith(BATCH)
    ]
    nodes: list[onnx.NodeProto] = []
    in_float32 = _in_float32(graph, values) if half else set()
    for number, node in enumerate(graph.node):
        for field in (node.input, node.output):
            field[:] = [names.get(name, f"{output}.{name}") for name in field]
        node.name = f"{node.output[0]}/{node.op_type}"
        _bind_attributes(node, batch)
        if half:
            _make_half(node)
        nodes += _between_casts(node) if number in in_float32 else [node]
    return nodes, constants


def _constant(
    values: Mapping[str, npt.NDArray[np.generic]], name: str, batch: int, half: bool
) -> npt.NDArray[np.generic]:
    value = values[name]
    if (per_image := values.get(f"{name}{BATCH}")) is not None:
        value = np.asarray(value + batch * per_image, value.dtype)  # type: ignore[operator]
    return value.astype(np.float16) if half and value.dtype == np.float32 else value


def _bind_attributes(node: onnx.NodeProto, batch: int) -> None:
    found = {one.name: one for one in node.attribute}
    plain = [one for name, one in found.items() if not name.endswith(BATCH)]
    for one in plain:
        if (per_image := found.get(f"{one.name}{BATCH}")) is not None:
            one.i += batch * per_image.i
    del node.attribute[:]
    node.attribute.extend(plain)


def _make_half(node: onnx.NodeProto) -> None:
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = numpy_helper.from_array(np.zeros(1, np.float32))
        node.attribute.append(helper.make_attribute("value", zero))
    for attribute in node.attribute:
        if (node.op_type, attribute.name) in _TYPES:
            attribute.i = _half_type(attribute.i)
        elif attribute.type == onnx.AttributeProto.TENSOR:
            value = numpy_helper.to_array(attribute.t)
            if value.dtype == np.float32:
                attribute.t.CopyFrom(numpy_helper.from_array(value.astype(np.float16)))


def _half_type(element: int) -> int:
    return onnx.TensorProto.FLOAT16 if element == onnx.TensorProto.FLOAT else element


def _in_float32(graph: onnx.GraphProto, values: Mapping[str, npt.NDArray[np.generic]]) -> set[int]:
    """The nodes, by number, that have to compute in float32."""
    makers = {name: node for node in graph.node for name in node.output}
    return {
        number
        for number, node in enumerate(graph.node)
        if node.op_type in _FLOAT32_ONLY and _is_float(node.input[0], makers, values)
    }


def _is_float(
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    values: Mapping[str, npt.NDArray[np.generic]],
) -> bool:
    """Whether a value is no integer, by where it comes from."""
    while (node := makers.get(name)) is not None:
        for attribute in node.attribute:
            if (node.op_type, attribute.name) in _TYPES:
                return bool(attribute.i == onnx.TensorProto.FLOAT)
            if attribute.type == onnx.AttributeProto.TENSOR:
                return bool(attribute.t.data_type == onnx.TensorProto.FLOAT)
        if node.op_type == "ConstantOfShape":
            return True
        name = node.input[1 if node.op_type == "Where" else 0]
    return name not in values or values[name].dtype.kind == "f"


def _between_casts(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The node in float32, with what brings its tensors there and back."""
    inputs, has_float_result = _FLOAT32_ONLY[node.op_type]
    result = node.output[0]
    casts = [
        helper.make_node("Cast", [name], [f"{result}.float{at}"], to=onnx.TensorProto.FLOAT)
        for at, name in enumerate(node.input[:inputs])
    ]
    node.input[:inputs] = [one.output[0] for one in casts]
    nodes = [*casts, node]
    if has_float_result:
        node.output[0] = f"{result}.float"
        nodes.append(
            helper.make_node("Cast", [f"{result}.float"], [result], to=onnx.TensorProto.FLOAT16)
        )
    for one in nodes:
        one.name = f"{one.output[0]}/{one.op_type}"
    return nodes
