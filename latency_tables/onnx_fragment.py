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
from onnx import numpy_helper

#: Behind the name of a constant: what each image of the batch adds to it.
BATCH = "@batch"
RESULT = "y"

#: Inputs that stay float32 in a file of another type, by operator and position.
_ALWAYS_FLOAT32 = {("Resize", 1), ("Resize", 2), ("Upsample", 1)}


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
    nodes = []
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, f"{output}.{name}") for name in field]
        node.name = f"{node.output[0]}/{node.op_type}"
        _bind_attributes(node, batch)
        if half:
            _make_half(node)
        nodes.append(node)
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
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            attribute.i = _half_type(attribute.i)
        elif attribute.type == onnx.AttributeProto.TENSOR:
            value = numpy_helper.to_array(attribute.t)
            if value.dtype == np.float32:
                attribute.t.CopyFrom(numpy_helper.from_array(value.astype(np.float16)))


def _half_type(element: int) -> int:
    return onnx.TensorProto.FLOAT16 if element == onnx.TensorProto.FLOAT else element
