"""Constants in place of what an exported model computes from the sizes of its tensors alone.

torch's exporter writes ``x.shape`` as nodes that each run of the model would repeat. ONNX Runtime
and TensorRT fold them, but a runtime that takes a file at its word pays for them; and a size is a
constant of the piece, which is made for one batch. What is computed from weights stays: it is part
of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from dshrink.network.onnx_files.runtime import run_as_written

#: Values up to this size are sizes, axes and scales; larger ones are data, and stay computed.
_LARGEST = 64

Feeds = Mapping[str, npt.NDArray[Any]]


def without_static_nodes(
    models: Sequence[onnx.ModelProto], feeds: Sequence[Feeds]
) -> list[onnx.ModelProto]:
    """The models, which are one network for several batches, with what is static as constants.

    ``feeds`` are inputs of each. A value becomes a constant where it is an integer of the same
    shape for every batch, or the same for every batch. Results of a model are left as they are.
    """
    graphs = [model.graph for model in models]
    kinds = [[node.op_type for node in graph.node] for graph in graphs]
    places = list(_static_places(graphs[0]))
    if not places or any(one != kinds[0] for one in kinds):
        return list(models)
    values = [
        _computed(model, [model.graph.node[at].output[0] for at in places], given)
        for model, given in zip(models, feeds, strict=True)
    ]
    for at, *found in zip(places, *values, strict=True):
        if not _is_known(found):
            continue
        for graph, value in zip(graphs, found, strict=True):
            (name,) = graph.node[at].output
            constant = numpy_helper.from_array(value, name)
            graph.node[at].CopyFrom(helper.make_node("Constant", [], [name], value=constant))
    return list(models)


def _static_places(graph: onnx.GraphProto) -> Iterator[int]:
    """The nodes that need no value of an input, those that make a result of the model left out."""
    static = {one.name for one in graph.initializer}
    results = {one.name for one in graph.output}
    for at, node in enumerate(graph.node):
        if node.op_type == "Constant":
            static.update(node.output)
        elif len(node.output) == 1 and (
            node.op_type in ("Shape", "Size") or (node.input and {*node.input, ""} <= static | {""})
        ):
            static.update(node.output)
            if node.output[0] not in results:
                yield at


def _computed(model: onnx.ModelProto, names: Sequence[str], feeds: Feeds) -> list[npt.NDArray[Any]]:
    """What these values of the model are."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return run_as_written(asked.SerializeToString(), feeds)


def _is_known(values: Sequence[npt.NDArray[Any]]) -> bool:
    first, *others = values
    if first.size > _LARGEST or any(one.shape != first.shape for one in others):
        return False
    return first.dtype.kind == "i" or all(np.array_equal(one, first) for one in others)
