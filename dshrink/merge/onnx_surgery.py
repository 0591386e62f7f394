"""A merged network as the ONNX file that it came from, with only the merged regions changed.

Whoever reads a tensor goes on reading it by its name: a merged convolution makes the tensor that
its region made, and a free activation takes over the name of the tensor that it follows. Nodes and
weights that nobody needs any more are removed; those that nobody needed before stay, as do names,
inputs, results, opset and metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dshrink.merge.merged_network import MergedNetwork, MergedRegion
from dshrink.network.onnx_files.operator import Array
from dshrink.network.onnx_files.source import VALUE_KEY, OnnxSource, opset_of, reads_of

_ELEMENTS: dict[int, npt.DTypeLike] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}
#: From here on Clip takes its bounds as inputs.
_CLIP_BY_INPUT = 11
#: From here on initializers need not be listed as inputs.
_IR_WITHOUT_LISTED_WEIGHTS = 4


def edited_model(
    merged: MergedNetwork, source: OnnxSource, properties: Mapping[str, str]
) -> onnx.ModelProto:
    """The model of ``source`` with the regions of ``merged`` in place of what they replace.

    ``properties`` are added to its metadata. The height and width of its input are fixed, to the
    size that the merge was made for; an open batch stays open.
    """
    edit = _Edit(source.model)
    values = tensor_names(merged, source)
    for entry in merged.regions:
        edit.replace(entry, values[entry.region.enters], values[entry.region.result])
    for number in merged.changes.removed:
        edit.remove(values[number + 1])
    for tensor, path in merged.changes.activated.items():
        edit.activate(values[tensor], f"{path}.free_activation")
    edit.sweep()
    _fix_size(edit.model.graph, source.image, merged.source.resolution)
    _set_properties(edit.model, properties)
    return edit.model


def tensor_names(merged: MergedNetwork, source: OnnxSource) -> list[str]:
    """What each tensor of the network's ``OpSpec`` is called in the file."""
    nodes = {node.name: node for node in merged.source.module.graph.nodes}
    made = (nodes[name].meta[VALUE_KEY][0] for name in merged.source.lowered.nodes)
    return [source.image, *made]


class _Edit:
    """A copy of a model, and what its tensors are."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.opset = opset_of(model)
        self.elements = _elements(model)
        self.names = {name for node in self.graph.node for name in (node.name, *node.output)}
        self.names |= {one.name for one in (*self.graph.input, *self.graph.initializer)}
        self.needed = _needed(self.graph)

    def replace(self, entry: MergedRegion, enters: str, result: str) -> None:
        """A convolution, and its bias map where there is one, in place of a region."""
        conv, path = entry.merged.conv, entry.region.path
        element = self.elements.get(enters, self.default_element)
        weights = [
            self._store(f"{path}.merged_0.weight", conv.weight.numpy(), element),
            self._store(f"{path}.merged_0.bias", conv.bias.numpy(), element),
        ]
        bias_map = entry.merged.bias_map
        made = result if bias_map is None else self._new(f"{path}.merged_0.output")
        nodes = [
            helper.make_node(
                "Conv",
                [enters, *weights],
                [made],
                name=self._new(f"{path}.merged_0"),
                kernel_shape=list(conv.kernel),
                strides=list(conv.stride),
                pads=list(conv.pads),
                dilations=[1, 1],
                group=conv.groups,
            )
        ]
        if bias_map is not None:
            values = self._store(f"{path}.merged_1.values", bias_map.numpy()[None], element)
            name = self._new(f"{path}.merged_1")
            nodes.append(helper.make_node("Add", [made, values], [result], name=name))
        self._put(self._maker(result), nodes, instead=True)

    def remove(self, result: str) -> None:
        """Whoever reads what an activation gives reads what it was given."""
        at = self._maker(result)
        before = self.graph.node[at].input[0]
        if any(one.name == result for one in self.graph.output):
            name = self._new(f"{result}.removed")
            self._put(
                at, [helper.make_node("Identity", [before], [result], name=name)], instead=True
            )
            return
        del self.graph.node[at]
        for node in self.graph.node:
            _rename_reads(node, result, before)

    def activate(self, result: str, path: str) -> None:
        """A ReLU6 between what makes a tensor and whoever reads it."""
        at = self._maker(result)
        maker, inner = self.graph.node[at], self._new(f"{path}.input")
        maker.output[:] = [inner if name == result else name for name in maker.output]
        name = self._new(path)
        if self.opset < _CLIP_BY_INPUT:
            clip = helper.make_node("Clip", [inner], [result], name=name, min=0.0, max=6.0)
        else:
            element = self.elements.get(result, self.default_element)
            bounds = [
                self._store(f"{path}.{end}", np.asarray(value), element)
                for end, value in (("min", 0.0), ("max", 6.0))
            ]
            clip = helper.make_node("Clip", [inner, *bounds], [result], name=name)
        self._put(at, [clip], instead=False)

    def sweep(self) -> None:
        """Remove what was needed before and is not any more."""
        needed = _needed(self.graph)
        gone = self.needed - needed
        for number in reversed(range(len(self.graph.node))):
            outputs = set(self.graph.node[number].output)
            if outputs & gone and not outputs & needed:
                del self.graph.node[number]
        made = {name for node in self.graph.node for name in node.output}
        for field in (
            self.graph.initializer,
            self.graph.input,
            self.graph.value_info,
            self.graph.quantization_annotation,
        ):
            for number in reversed(range(len(field))):
                one = field[number]
                name = getattr(one, "tensor_name", "") or one.name
                if name in gone and name not in made:
                    del field[number]

    @property
    def default_element(self) -> int:
        return self.elements.get("", TensorProto.FLOAT)

    def _maker(self, value: str) -> int:
        return next(n for n, node in enumerate(self.graph.node) if value in node.output)

    def _put(self, at: int, nodes: Sequence[onnx.NodeProto], *, instead: bool) -> None:
        """``nodes`` after node ``at``, or instead of it."""
        following = list(self.graph.node)[at + 1 :]
        del self.graph.node[at if instead else at + 1 :]
        self.graph.node.extend([*nodes, *following])

    def _store(self, name: str, value: Array, element: int) -> str:
        tensor = numpy_helper.from_array(
            np.asarray(value, dtype=_ELEMENTS[element]),
            self._new(name),
        )
        self.graph.initializer.append(tensor)
        if self.model.ir_version < _IR_WITHOUT_LISTED_WEIGHTS:
            self.graph.input.append(
                helper.make_tensor_value_info(tensor.name, element, list(tensor.dims))
            )
        return str(tensor.name)

    def _new(self, name: str) -> str:
        """The name, or the first of ``name_2``, ... that nothing has."""
        found, count = name, 1
        while found in self.names:
            count += 1
            found = f"{name}_{count}"
        self.names.add(found)
        return found


def _needed(graph: onnx.GraphProto) -> set[str]:
    """Every name that the results depend on."""
    needed = {one.name for one in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(reads_of(node))
    return needed


def _elements(model: onnx.ModelProto) -> dict[str, int]:
    """Types of tensors, as far as ONNX can infer them; "" has that of the image."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # it is stricter than the runtimes: the image's type is what it will be
        graph = model.graph
    known = {
        one.name: one.type.tensor_type.elem_type
        for one in (*graph.value_info, *graph.input, *graph.output)
    }
    stored = {one.name for one in graph.initializer}
    image = next(one for one in graph.input if one.name not in stored)
    found = {"": image.type.tensor_type.elem_type, **known}
    return {name: element for name, element in found.items() if element in _ELEMENTS}


def _rename_reads(node: onnx.NodeProto, name: str, to: str) -> None:
    """In a node and its subgraphs, unless one of these has a tensor of its own of that name."""
    node.input[:] = [to if one == name else one for one in node.input]
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            if any(one.name == name for one in (*graph.input, *graph.initializer)):
                continue
            for inner in graph.node:
                _rename_reads(inner, name, to)
            for number, one in enumerate(graph.output):
                if one.name == name and not any(name in node.output for node in graph.node):
                    graph.output[number].name = to


def _fix_size(graph: onnx.GraphProto, image: str, size: tuple[int, int]) -> None:
    (entry,) = (one for one in graph.input if one.name == image)
    for dimension, value in zip(entry.type.tensor_type.shape.dim[2:], size, strict=True):
        dimension.dim_value = value


def _set_properties(model: onnx.ModelProto, properties: Mapping[str, str]) -> None:
    kept = [one for one in model.metadata_props if one.key not in properties]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
