"""ONNX nodes for the operators that an ``OpSpec`` has no words for, by torch's own exporter.

All of a network's are exported at once, each with inputs of its own, for two batches: integer
constants that differ between the two depend on the batch (``latency_tables.onnx_fragment``).
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import fx, nn

from dshrink.network.onnx_fragments import FragmentError, converted, kept_nodes
from dshrink.network.onnx_operator import OnnxOperator
from dshrink.network.onnx_source import source_of
from dshrink.network.static_values import without_static_nodes
from dshrink.network.value_tracer import BATCHES
from latency_tables.onnx_file import OPSET
from latency_tables.onnx_fragment import BATCH, RESULT, from_text, to_text
from latency_tables.opspec import Shape

#: The oldest, that of all our files, and one that has words for attention as well.
OPSETS = (OPSET, 17)
#: A weight of a fragment: the name of a parameter or buffer, or a constant's values.
Weight = str | npt.NDArray[np.floating[Any]]
#: Float constants up to this size are part of the structure, larger ones are weights.
_SMALL = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Closure:
    """Nodes that together make one tensor of others, in order; ``inputs`` are those others."""

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fragment:
    """``graph`` is the text of an ``Opaque``; ``reason`` says why it is empty."""

    graph: str = ""
    opset: int = 0
    weights: tuple[Weight, ...] = ()
    arrays: tuple[Shape, ...] = ()
    reason: str = ""


def export_fragments(traced: fx.GraphModule, closures: Sequence[Closure]) -> list[Fragment]:
    """A fragment for each closure. What cannot be exported has a reason in place of a graph.

    They are of the oldest opset that has words for all.
    """
    layers = {
        node: traced.get_submodule(str(node.target))
        for closure in closures
        for node in closure.nodes
        if node.op == "call_module"
    }
    kept = [
        any(isinstance(layers.get(node), OnnxOperator) for node in closure.nodes)
        for closure in closures
    ]
    ours = _exported_by_torch(
        traced, [one for one, is_kept in zip(closures, kept, strict=True) if not is_kept]
    )
    waiting = iter(ours)
    return [
        _of_kept(traced, layers, closure) if is_kept else next(waiting)
        for closure, is_kept in zip(closures, kept, strict=True)
    ]


def _of_kept(
    traced: fx.GraphModule, layers: Mapping[fx.Node, nn.Module], closure: Closure
) -> Fragment:
    """Operators that a file has: their own nodes."""
    inputs = {node: f"x{at}" for at, node in enumerate(closure.inputs)}
    source = source_of(traced)
    assert source is not None  # only files have such operators
    try:
        nodes, constants, opset = kept_nodes(source, layers, closure.nodes, inputs)
        parts = [Part(nodes=nodes, constants=one) for one in constants]
        names = {name: name for name in inputs.values()} | {RESULT: RESULT, "": ""}
        fragment = fragment_of(parts, names, {}, opset)
        if fragment.graph and opset < OPSET:
            newer = converted(from_text(fragment.graph), opset, OPSET)
            fragment = replace(fragment, graph=to_text(newer), opset=OPSET)
        return fragment
    except FragmentError as error:
        return Fragment(reason=str(error))


def _exported_by_torch(traced: fx.GraphModule, closures: Sequence[Closure]) -> list[Fragment]:
    if not closures:
        return []
    *older, newest = OPSETS
    for opset in older:
        with suppress(Exception):  # the exporter raises what its passes raise
            return _export(traced, closures, opset)
    return _export_apart(traced, closures, newest)


def _export_apart(
    traced: fx.GraphModule, closures: Sequence[Closure], opset: int
) -> list[Fragment]:
    try:
        return _export(traced, closures, opset)
    except Exception as error:
        if len(closures) == 1:
            lines = str(error).strip().splitlines() or [repr(error)]
            return [Fragment(reason=f"torch's exporter says: {lines[0][:160]}")]
    half = len(closures) // 2
    return [
        *_export_apart(traced, closures[:half], opset),
        *_export_apart(traced, closures[half:], opset),
    ]


def _export(traced: fx.GraphModule, closures: Sequence[Closure], opset: int) -> list[Fragment]:
    module = _module_of(traced, closures)
    weights = dict(module.named_parameters()) | dict(module.named_buffers())
    images = [_images(closures, batch) for batch in BATCHES]
    feeds = [_feeds(closures, one, weights) for one in images]
    models = without_static_nodes(
        [_exported(module, closures, one, opset) for one in images], feeds
    )
    wrong = _wrong_results(module, models[0], images[0], feeds[0])
    graphs = [_Made.of(model.graph) for model in models]
    return [
        Fragment(reason="what torch's exporter makes of it gives other results")
        if number in wrong
        else _fragment(graphs, number, len(closure.inputs), weights, opset)
        for number, closure in enumerate(closures)
    ]


def _module_of(traced: fx.GraphModule, closures: Sequence[Closure]) -> fx.GraphModule:
    """One graph that computes all closures, each of inputs of its own.

    Its weights are random, for the exporter makes one of equal ones.
    """
    graph = fx.Graph()
    results = []
    placeholders = [
        [graph.placeholder(f"x{number}_{at}") for at in range(len(closure.inputs))]
        for number, closure in enumerate(closures)
    ]
    for closure, given in zip(closures, placeholders, strict=True):
        made = dict(zip(closure.inputs, given, strict=True))
        for node in closure.nodes:
            made[node] = graph.node_copy(node, made.__getitem__)
        results.append(made[closure.nodes[-1]])
    graph.output(tuple(results))
    module = copy.deepcopy(fx.GraphModule(traced, graph)).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def _exported(
    module: nn.Module, closures: Sequence[Closure], images: tuple[torch.Tensor, ...], opset: int
) -> onnx.ModelProto:
    file = io.BytesIO()
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module,
            images,
            file,  # type: ignore[arg-type]  # its types know paths alone
            opset_version=opset,
            dynamo=False,  # the other exporter writes newer opsets only
            do_constant_folding=False,
            export_params=False,
            keep_initializers_as_inputs=False,
            input_names=_input_names(closures),
            output_names=[f"y{number}" for number in range(len(closures))],
        )
    return onnx.load_from_string(file.getvalue())


def _images(closures: Sequence[Closure], batch: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(batch, *shape, generator=generator)
        for closure in closures
        for shape in closure.shapes
    )


def _feeds(
    closures: Sequence[Closure],
    images: Sequence[torch.Tensor],
    weights: Mapping[str, torch.Tensor],
) -> dict[str, npt.NDArray[Any]]:
    """Images and weights by the names of the exported model."""
    given = dict(zip(_input_names(closures), images, strict=True)) | dict(weights)
    return {name: one.numpy(force=True) for name, one in given.items()}


def _input_names(closures: Sequence[Closure]) -> list[str]:
    return [
        f"x{number}_{at}"
        for number, closure in enumerate(closures)
        for at in range(len(closure.inputs))
    ]


@torch.no_grad()
def _wrong_results(
    module: nn.Module,
    model: onnx.ModelProto,
    images: Sequence[torch.Tensor],
    feeds: Mapping[str, npt.NDArray[Any]],
) -> set[int]:
    """The results, by number, that ONNX Runtime gives otherwise than torch."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})
    return {
        number
        for number, (result, expected) in enumerate(zip(results, module(*images), strict=True))
        if not np.allclose(
            result,
            expected.numpy(),
            rtol=0,
            atol=1e-3 * float(expected.abs().max()),
            equal_nan=True,
        )
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns, logs, and prints the graph of what it cannot export: we have a reason."""
    log = logging.getLogger("torch.onnx")
    level, printing = log.level, torch._C._jit_onnx_log
    log.setLevel(logging.ERROR)
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = printing
        log.setLevel(level)


def _fragment(
    graphs: Sequence[_Made],
    number: int,
    inputs: int,
    weights: Mapping[str, torch.Tensor],
    opset: int,
) -> Fragment:
    parts = [_part(graph, number, weights) for graph in graphs]
    names = {f"x{number}_{at}": f"x{at}" for at in range(inputs)} | {f"y{number}": RESULT, "": ""}
    floats = {name: one for name, one in weights.items() if one.is_floating_point()}
    return fragment_of(parts, names, floats, opset)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Nodes in order, and the constants that they read, by name."""

    nodes: Sequence[onnx.NodeProto]
    constants: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """The nodes of a graph, and the place of the one that makes each tensor."""

    nodes: tuple[onnx.NodeProto, ...]
    place: Mapping[str, int]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> _Made:
        nodes = tuple(graph.node)
        place = {name: at for at, node in enumerate(nodes) for name in node.output}
        return cls(nodes=nodes, place=place)


def _part(graph: _Made, number: int, stored: Mapping[str, torch.Tensor]) -> Part:
    """What makes result ``number``: its nodes and constants; ``stored`` are the module's own."""
    result = f"y{number}"
    last = graph.nodes[graph.place[result]]
    if last.op_type == "Constant":  # what needs no input has a node all the same
        value = numpy_helper.to_array(last.attribute[0].t)
        copied = onnx.helper.make_node("Identity", [f"{result}_value"], [result])
        return Part(nodes=[copied], constants={f"{result}_value": value})
    constants: dict[str, npt.NDArray[Any]] = {}
    needed: set[int] = set()
    waiting = [result]
    while waiting:
        name = waiting.pop()
        if name in stored:
            constants[name] = stored[name].numpy(force=True)
        elif (at := graph.place.get(name)) is None or at in needed:
            continue
        elif graph.nodes[at].op_type == "Constant":
            constants[name] = numpy_helper.to_array(graph.nodes[at].attribute[0].t)
        else:
            needed.add(at)
            waiting += graph.nodes[at].input
    return Part(nodes=[graph.nodes[at] for at in sorted(needed)], constants=constants)


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
