"""Fragments of the operators that an ONNX file's network keeps: their own nodes, bound together."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter
from torch import fx, nn

from dshrink.errors import first_line
from dshrink.network.onnx_files.operator import Array, OnnxOperator
from dshrink.network.onnx_files.source import VALUE_KEY, OnnxSource
from dshrink.network.value_tracer import BATCHES


class FragmentError(Exception):
    """Nodes that cannot be written as a fragment, and why."""


def kept_nodes(
    source: OnnxSource,
    layers: Mapping[fx.Node, nn.Module],
    nodes: tuple[fx.Node, ...],
    names: Mapping[fx.Node, str],
) -> tuple[list[onnx.NodeProto], list[dict[str, Array]], int]:
    """The ONNX nodes of a closure, their constants for each of ``BATCHES``, and their opset.

    ``names`` are those of the tensors that enter; the last node of the closure makes the tensor
    "y". Layers of torch between kept operators are the nodes of the file that they were read from.
    Raises FragmentError where there are no such.
    """
    made: dict[fx.Node, str] = dict(names)
    found: list[onnx.NodeProto] = []
    constants: list[dict[str, Array]] = [{} for _ in BATCHES]
    for number, node in enumerate(nodes):
        name = "y" if node is nodes[-1] else f"n{number}"
        layer = layers.get(node)
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            part = f"{made[node.args[0]]}_{node.args[1]}"
            found.append(helper.make_node("Identity", [part], [name]))
            made[node] = name
            continue
        if not isinstance(layer, OnnxOperator):
            entering = {one.meta[VALUE_KEY][0]: made[one] for one in node.all_input_nodes}
            entering[node.meta[VALUE_KEY][0]] = made[node] = name
            found += _cut(source, node, entering, f"k{number}_", constants)
            continue
        made[node] = name
        found.append(_named(layer, node, made, name, f"k{number}_"))
        for batch, values in zip(BATCHES, constants, strict=True):
            for key, value in layer.constants.items():
                per_image = layer.per_image.get(key)
                values[f"k{number}_{key}"] = (
                    value if per_image is None else (value + batch * per_image).astype(value.dtype)
                )
    return found, constants, source.opset


def _cut(
    source: OnnxSource,
    node: fx.Node,
    names: Mapping[str, str],
    prefix: str,
    constants: list[dict[str, Array]],
) -> list[onnx.NodeProto]:
    """The file's nodes that one layer of torch stands for; their constants are added."""
    graph = source.model.graph
    stored = {one.name: one for one in graph.initializer}
    stored |= {one.output[0]: one.attribute[0].t for one in graph.node if one.op_type == "Constant"}
    maker = {name: one for one in graph.node for name in one.output if name not in stored}
    entering = {one.meta[VALUE_KEY][0] for one in node.all_input_nodes} | {""}
    needed: set[str] = set()
    waiting = [node.meta[VALUE_KEY][0]]
    while waiting:
        name = waiting.pop()
        if name in entering | needed:
            continue
        needed.add(name)
        if name in stored:
            array = numpy_helper.to_array(stored[name])
            for values in constants:
                values[f"{prefix}{name}"] = array
        elif name in maker:
            waiting += maker[name].input
        else:
            raise FragmentError(f"{node.name} reads {name!r} between operators of the file")
    found = [one for one in graph.node if needed.intersection(one.output) - stored.keys()]
    return [_prefixed(one, names, prefix) for one in found]


def _prefixed(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    for field in (renamed.input, renamed.output):
        field[:] = [names.get(name, f"{prefix}{name}" if name else "") for name in field]
    return renamed


def _named(
    layer: OnnxOperator, node: fx.Node, made: Mapping[fx.Node, str], name: str, prefix: str
) -> onnx.NodeProto:
    renamed = onnx.NodeProto()
    renamed.CopyFrom(layer.node)
    read = dict(zip(layer.inputs, (made[one] for one in node.args), strict=True))  # type: ignore[index]
    renamed.input[:] = [read.get(one, f"{prefix}{one}" if one else "") for one in layer.node.input]
    outputs = [one for one in layer.node.output if one]
    numbered = {one: f"{name}_{at}" for at, one in enumerate(outputs)}
    renamed.output[:] = [
        "" if not one else name if len(outputs) == 1 else numbered[one] for one in layer.node.output
    ]
    return renamed


def converted(graph: onnx.GraphProto, opset: int, target: int) -> onnx.GraphProto:
    """A fragment's graph in a newer opset. Raises FragmentError where that cannot be."""
    model = onnx.ModelProto(ir_version=8)
    model.opset_import.append(helper.make_opsetid("", opset))
    model.graph.CopyFrom(graph)
    made = {name for node in graph.node for name in node.output}
    stored = {one.name for one in graph.initializer}
    read = dict.fromkeys(name for node in graph.node for name in node.input if name)
    model.graph.input.extend(_value(name) for name in read if name not in made | stored)
    model.graph.output.append(_value("y"))
    try:
        found = version_converter.convert_version(model, target).graph
    except Exception as error:  # the converter raises what its passes raise
        reason = first_line(error)
        raise FragmentError(f"opset {opset} cannot be converted to {target}: {reason}") from error
    result = onnx.GraphProto(name=graph.name)
    result.node.extend(found.node)
    result.initializer.extend(found.initializer)
    return result


def _value(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
