"""Fragments by torch's own exporter.

All of a network's are exported at once, each with inputs of its own, for two batches; what the
nodes compute is compared with torch.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import fx, nn

from dshrink.errors import first_line
from dshrink.network.fragments.closures import Closure
from dshrink.network.fragments.parts import Fragment, Part, fragment_of
from dshrink.network.fragments.static_values import without_static_nodes
from dshrink.network.onnx_files.runtime import run_as_written
from dshrink.network.value_tracer import BATCHES
from latency_tables.onnx_file import OPSET
from latency_tables.onnx_fragment import RESULT

#: The oldest, that of all our files, and one that has words for attention as well.
OPSETS = (OPSET, 17)


def exported_by_torch(traced: fx.GraphModule, closures: Sequence[Closure]) -> list[Fragment]:
    """A fragment for each closure, of the oldest opset that has words for all.

    What cannot be exported has a reason in place of a graph.
    """
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
            return [Fragment(reason=f"torch's exporter says: {first_line(error)[:160]}")]
    half = len(closures) // 2
    return [
        *_export_apart(traced, closures[:half], opset),
        *_export_apart(traced, closures[half:], opset),
    ]


def _export(traced: fx.GraphModule, closures: Sequence[Closure], opset: int) -> list[Fragment]:
    module = _module_of(traced, closures)
    weights = module.state_dict()
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

    Its weights are random, for the exporter makes one of equal ones. Buffers that are not saved
    keep their values: it takes them for constants.
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
        for tensor in module.state_dict().values():
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
    results = run_as_written(model.SerializeToString(), feeds)
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
