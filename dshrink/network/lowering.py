"""A traced network as an ``OpSpec`` with the names and weights of its layers.

Any torch.fx graph lowers: what ``OpSpec`` has no words for becomes an opaque operator with its ONNX
nodes, so that the rest of the network can still be counted, measured and merged. A layer is known
by its very class, for a subclass may compute anything. Batch norm folds into the convolution before
it with the module's own eps; weights are read in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from dshrink.network.batch_norm import float64_array, folded_weights, scale_and_shift
from dshrink.network.counting import count_macs
from dshrink.network.fragments.closures import Closure
from dshrink.network.fragments.network_fragments import export_fragments
from dshrink.network.fragments.parts import Weight
from dshrink.network.layers import ConstantMap, attribute_at
from dshrink.network.onnx_files.operator import OnnxOperator
from dshrink.network.operators import (
    Call,
    find_operator,
    folds_into_convolution,
    is_identity,
)
from dshrink.network.tracing import IMAGE_SHAPE, without_fused_attention
from latency_tables.onnx_file import Arrays
from latency_tables.opspec import Conv, Op, Opaque, OpSpec, OpSpecError, Shape


@dataclass(frozen=True, kw_only=True)
class LoweredNetwork:
    """``spec`` and, operator by operator, the layer's name and the node that makes its output.

    ``modules`` names the submodules an operator takes its weights from: a convolution and, where
    one follows, the norm folded into it. ``fragments`` are the weights of opaque operators, by
    their number.
    """

    spec: OpSpec
    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    modules: tuple[tuple[str, ...], ...]
    fragments: Mapping[int, tuple[Weight, ...]] = field(default_factory=dict, compare=False)

    def tensor_nodes(self, traced: fx.GraphModule) -> list[fx.Node]:
        """The nodes of this graph, or of a copy, that give the tensors of ``spec``, by number."""
        nodes = {node.name: node for node in traced.graph.nodes}
        (image,) = (node for node in traced.graph.nodes if node.op == "placeholder")
        return [image, *(nodes[name] for name in self.nodes)]

    def weights(self, traced: fx.GraphModule) -> list[Arrays]:
        """Float64 arrays an operator, as ``write_onnx`` takes them, batch norm folded."""
        with torch.no_grad():
            return [
                tuple(_values(traced, weight) for weight in self.fragments[number])
                if number in self.fragments
                else _arrays([traced.get_submodule(name) for name in modules])
                for number, modules in enumerate(self.modules)
            ]


def _values(traced: fx.GraphModule, weight: Weight) -> npt.NDArray[np.floating[Any]]:
    return float64_array(attribute_at(traced, weight)) if isinstance(weight, str) else weight


def _arrays(modules: list[nn.Module]) -> Arrays:
    match modules:
        case [ConstantMap() as constant]:
            return (float64_array(constant.values),)
        case [nn.BatchNorm2d() as norm]:
            return scale_and_shift(norm)
        case [nn.Conv2d() | nn.Linear() as layer, *norms]:
            return folded_weights(layer, *norms)
        case _:
            return ()


def lower(traced: fx.GraphModule) -> LoweredNetwork:
    """Lower a graph that ``tracing.trace`` made (shapes are read from its nodes)."""
    return _Lowering(traced).run()


@dataclass(slots=True)
class _Lowering:
    """Walks the graph once; ``tensor`` maps a graph node to the tensor number that it gives.

    Nodes that give no tensor of images (sizes, parameters, the parts of a split) wait until an
    operator needs them, and are part of that operator then.
    """

    traced: fx.GraphModule
    tensor: dict[fx.Node, int] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    modules: list[list[str]] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    closures: dict[int, Closure] = field(default_factory=dict)

    def run(self) -> LoweredNetwork:
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self._read_image(node)
            elif node.op == "output":
                self._check_output(node)
            elif node.meta[IMAGE_SHAPE] is not None and self._reads_image(node):
                self._lower(node)
        fragments = self._finish_opaque()
        return LoweredNetwork(
            spec=OpSpec(input_shape=self.shapes[0], ops=tuple(self.ops)),
            layers=tuple(self.layers),
            nodes=tuple(self.nodes),
            modules=tuple(tuple(names) for names in self.modules),
            fragments=fragments,
        )

    def _read_image(self, node: fx.Node) -> None:
        if self.tensor:
            raise OpSpecError(f"network takes a second input {node.name!r}; one is allowed")
        self.tensor[node] = 0
        self.shapes.append(node.meta[IMAGE_SHAPE])

    def _check_output(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node):
            kind = type(result).__name__
            raise OpSpecError(
                f"network gives several results (a {kind}); one tensor is needed: wrap it in a "
                "module whose forward returns one of them"
            )
        if result not in self.tensor:
            raise OpSpecError(
                f"its result {result.name!r} is no tensor with an entry for each image"
            )
        if self.tensor[result] != len(self.ops):
            raise OpSpecError(f"network computes more than its result {result.name!r}")

    def _reads_image(self, node: fx.Node) -> bool:
        """Whether it depends on values of the image, not on sizes alone."""
        if node.op == "call_method" and node.target == "size":
            return False
        return any(one in self.tensor or self._reads_image(one) for one in node.all_input_nodes)

    def _emit(self, node: fx.Node, op: Op, shape: Shape) -> None:
        self.ops.append(op)
        self.layers.append(self._name(node))
        self.nodes.append(node.name)
        self.modules.append([str(node.target)] if node.op == "call_module" else [])
        self.shapes.append(shape)
        self.tensor[node] = len(self.ops)

    def _name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            base = str(node.target)
        else:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            path = stack[-1][0] if stack else ""
            base = f"{path}.{_function_name(node)}".lstrip(".")
        uses = sum(name == base or name.startswith(f"{base}@") for name in self.layers)
        return base if not uses else f"{base}@{uses + 1}"

    def _lower(self, node: fx.Node) -> None:
        call = self._call(node)
        if call.inputs and is_identity(call):
            self.tensor[node] = call.inputs[0]
        elif folds_into_convolution(call.layer) and self._folds(node):
            self.modules[call.inputs[0] - 1].append(str(node.target))
            self.nodes[call.inputs[0] - 1] = node.name
            self.tensor[node] = call.inputs[0]
        elif found := find_operator(call):
            for op in found:
                read = tuple(len(self.ops) if one == -1 else one for one in op.inputs)
                op = replace(op, inputs=read)
                self._emit(node, op, op.output_shape([self.shapes[one] for one in read]))
        else:
            self._emit_opaque(node, call)

    def _call(self, node: fx.Node) -> Call:
        sources: list[fx.Node] = []
        fx.node.map_arg((node.args, node.kwargs), sources.append)
        images = tuple(one for one in sources if one in self.tensor)
        inputs = tuple(self.tensor[one] for one in images)
        return Call(
            node=node,
            layer=self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None,
            alone=len(images) == len(sources),
            inputs=inputs,
            shapes=tuple(self.shapes[one] for one in inputs),
            result=node.meta[IMAGE_SHAPE],
        )

    def _folds(self, node: fx.Node) -> bool:
        """Whether a batch norm alone reads a convolution's result."""
        (before,) = node.all_input_nodes
        number = self.tensor.get(before, 0) - 1
        return (
            number >= 0
            and isinstance(self.ops[number], Conv)
            and self.nodes[number] == before.name
            and len(before.users) == 1
        )

    def _emit_opaque(self, node: fx.Node, call: Call) -> None:
        nodes: list[fx.Node] = []
        inputs: list[fx.Node] = []
        self._gather(node, nodes, inputs)
        self.closures[len(self.ops)] = Closure(
            nodes=tuple(nodes),
            inputs=tuple(inputs),
            shapes=tuple(self.shapes[self.tensor[one]] for one in inputs),
        )
        name = _function_name(node) if call.layer is None else _layer_kind(call.layer)
        read = tuple(self.tensor[one] for one in inputs)
        self._emit(node, Opaque(inputs=read, operator=name, shape=call.result), call.result)
        self.modules[-1] = []

    def _gather(self, node: fx.Node, nodes: list[fx.Node], inputs: list[fx.Node]) -> None:
        """What the node needs, in order: what nothing has made yet, and the tensors it reads."""
        for one in node.all_input_nodes:
            if one in self.tensor:
                if one not in inputs:
                    inputs.append(one)
            elif one not in nodes:
                self._gather(one, nodes, inputs)
        nodes.append(node)

    def _finish_opaque(self) -> dict[int, tuple[Weight, ...]]:
        """Give opaque operators their counts and ONNX nodes; the weights of these."""
        if not self.closures:
            return {}
        with without_fused_attention():
            counted = count_macs(self.traced, self.shapes[0])
            fragments = export_fragments(self.traced, tuple(self.closures.values()))
        seen: set[fx.Node] = set()
        for (number, closure), fragment in zip(self.closures.items(), fragments, strict=True):
            # What two operators share is counted once.
            macs = [counted[node] for node in closure.nodes if node not in seen]
            seen.update(closure.nodes)
            op = self.ops[number]
            assert isinstance(op, Opaque)
            self.ops[number] = replace(
                op,
                counted=None if None in macs else sum(one or 0 for one in macs),
                arrays=fragment.arrays,
                graph=fragment.graph,
                opset=fragment.opset,
                reason=fragment.reason,
            )
        return {
            number: fragment.weights
            for number, fragment in zip(self.closures, fragments, strict=True)
        }


def _layer_kind(layer: nn.Module) -> str:
    return layer.operator if isinstance(layer, OnnxOperator) else type(layer).__name__


def _function_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else node.target.__name__
