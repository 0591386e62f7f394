"""A fragment composed of the same ONNX nodes for two batches, with canonical names.

Integer constants and attributes that differ between the two depend on the batch
(``latency_tables.onnx_fragment``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dshrink.network.value_tracer import BATCHES
from latency_tables.onnx_fragment import BATCH, to_text
from latency_tables.opspec import Shape

#: A weight of a fragment: the name of a parameter or buffer, or a constant's values.
Weight = str | npt.NDArray[np.floating[Any]]
#: Float constants up to this size are part of the structure, larger ones are weights.
_SMALL = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Fragment:
    """``graph`` is the text of an ``Opaque``; ``reason`` says why it is empty."""

    graph: str = ""
    opset: int = 0
    weights: tuple[Weight, ...] = ()
    arrays: tuple[Shape, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Nodes in order, and the constants that they read, by name."""

    nodes: Sequence[onnx.NodeProto]
    constants: Mapping[str, npt.NDArray[Any]]


def fragment_of(
    parts: Sequence[Part],
    names: Mapping[str, str],
    weights: Mapping[str, Any],
    opset: int,
) -> Fragment:
    """One fragment of the same nodes for each of ``BATCHES`` (or for one batch alone).

    ``names`` are those of inputs and result, ``weights`` the constants that are weights by name;
    large float constants are as well.
    """
    first = parts[0]
    if any([n.op_type for n in part.nodes] != [n.op_type for n in first.nodes] for part in parts):
        return Fragment(reason="its operators depend on the batch size")
    # By place, as the names of two exports need not be the same.
    slots = [
        list(zip(*(part.nodes[number].input for part in parts), strict=True))
        for number in range(len(first.nodes))
    ]
    renamed = dict(names)
    graph = onnx.GraphProto(name="fragment")
    found: list[Weight] = []
    for number, node in enumerate(first.nodes):
        for slot in slots[number]:
            if slot[0] in renamed:
                continue
            if slot[0] in weights:
                renamed[slot[0]] = f"w{len(found)}"
                found.append(slot[0])
                continue
            values = [part.constants[name] for part, name in zip(parts, slot, strict=True)]
            once = _without_batch(values)
            if once[0].dtype.kind == "f" and once[0].size > _SMALL and _equal(once):
                name = f"w{len(found)}"
                found.append(once[0])
            else:
                name = f"c{len(renamed)}"
                if problem := _add_constant(graph, name, once):
                    return Fragment(reason=problem)
            renamed[slot[0]] = name if once is values else _repeated(graph, name, once[0].shape)
        for name in node.output:
            renamed.setdefault(name, f"v{len(renamed)}")
        attributes = _attributes(node, *(part.nodes[number] for part in parts[1:]))
        if attributes is None:
            return Fragment(reason=f"the attributes of its {node.op_type} depend on the batch size")
        graph.node.append(_renamed(node, renamed, attributes))
    shapes = tuple(tuple(int(n) for n in np.shape(_value(one, weights))) for one in found)
    return Fragment(graph=to_text(graph), opset=opset, weights=tuple(found), arrays=shapes)


def _value(weight: Weight, weights: Mapping[str, Any]) -> Any:
    return weights[weight] if isinstance(weight, str) else weight


def _equal(values: Sequence[npt.NDArray[Any]]) -> bool:
    return all(np.array_equal(one, values[0]) for one in values[1:])


def _without_batch(values: Sequence[npt.NDArray[Any]]) -> Sequence[npt.NDArray[Any]]:
    """What a constant repeats for each image, or the constant as it is."""
    repeated = len(values) > 1 and all(
        one.ndim and one.shape[0] == batch and bool((one == one[:1]).all())
        for one, batch in zip(values, BATCHES, strict=True)
    )
    return [one[:1] for one in values] if repeated else values


def _repeated(graph: onnx.GraphProto, name: str, shape: Shape) -> str:
    """A tensor that holds this one once for each image."""
    sizes = [np.array([batch, *shape[1:]], np.int64) for batch in BATCHES]
    _add_constant(graph, f"{name}_sizes", sizes)
    graph.node.append(
        onnx.helper.make_node("Expand", [name, f"{name}_sizes"], [f"{name}_repeated"])
    )
    return f"{name}_repeated"


def _add_constant(graph: onnx.GraphProto, name: str, values: Sequence[npt.NDArray[Any]]) -> str:
    """Store a constant, with what each image adds to it; why that cannot be, or nothing."""
    first = values[0]
    if _equal(values):
        graph.initializer.append(numpy_helper.from_array(first, name))
        return ""
    if first.dtype.kind != "i" or any(one.shape != first.shape for one in values):
        return "its constants depend on the batch size"
    per_image = (values[1] - first) // (BATCHES[1] - BATCHES[0])
    graph.initializer.append(
        numpy_helper.from_array(np.asarray(first - BATCHES[0] * per_image, first.dtype), name)
    )
    companion = np.asarray(per_image, first.dtype)
    graph.initializer.append(numpy_helper.from_array(companion, f"{name}{BATCH}"))
    return ""


def _attributes(node: onnx.NodeProto, *others: onnx.NodeProto) -> list[Any] | None:
    """Those of a node for any batch: integers that differ have a companion, as constants have."""
    found = []
    for number, one in enumerate(node.attribute):
        same = [other.attribute[number] for other in others]
        if all(other == one for other in same):
            found.append(one)
            continue
        if one.type != onnx.AttributeProto.INT:
            return None
        per_image = (same[0].i - one.i) // (BATCHES[1] - BATCHES[0])
        found.append(onnx.helper.make_attribute(one.name, one.i - BATCHES[0] * per_image))
        found.append(onnx.helper.make_attribute(f"{one.name}{BATCH}", per_image))
    return found


def _renamed(
    node: onnx.NodeProto, names: Mapping[str, str], attributes: Sequence[Any]
) -> onnx.NodeProto:
    renamed = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    renamed.input.extend(names[name] for name in node.input)
    renamed.output.extend(names[name] for name in node.output)
    renamed.attribute.extend(attributes)
    return renamed
