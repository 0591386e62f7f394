"""The fragments of a network's opaque operators: the file's own nodes, or torch's exporter's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import fx, nn

from dshrink.network.fragments.closures import Closure
from dshrink.network.fragments.exporter import exported_by_torch
from dshrink.network.fragments.parts import Fragment, Part, fragment_of
from dshrink.network.onnx_files.kept_nodes import FragmentError, converted, kept_nodes
from dshrink.network.onnx_files.operator import OnnxOperator
from dshrink.network.onnx_files.source import source_of
from latency_tables.onnx_file import OPSET
from latency_tables.onnx_fragment import RESULT, from_text, to_text


def export_fragments(traced: fx.GraphModule, closures: Sequence[Closure]) -> list[Fragment]:
    """A fragment for each closure. What cannot be written has a reason in place of a graph."""
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
    ours = exported_by_torch(
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
