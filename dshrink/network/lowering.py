"""A traced network as an ``OpSpec`` with the names and weights of its layers.

Any torch.fx graph lowers: a layer that ``OpSpec`` cannot express becomes an opaque operator with
its name and shape, so that the rest of the network can still be counted, measured and merged. Batch
norm folds into the convolution before it with the module's own eps; weights are read in float64.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from dshrink.network.batch_norm import float64_array, folded_weights, scale_and_shift
from dshrink.network.layers import ConstantMap, PaddedConv2d
from dshrink.network.tracing import import_timm
from latency_tables.onnx_file import Arrays
from latency_tables.opspec import (
    Activation,
    Add,
    BatchNorm,
    BiasMap,
    Concat,
    Conv,
    Flatten,
    GlobalPool,
    Linear,
    Mul,
    Op,
    Opaque,
    OpSpec,
    OpSpecError,
    Pool,
    Shape,
)


@dataclass(frozen=True, kw_only=True)
class LoweredNetwork:
    """``spec`` and, operator by operator, the layer's name and the node that makes its output.

    ``modules`` names the submodules an operator takes its weights from: a convolution and, where
    one follows, the norm folded into it.
    """

    spec: OpSpec
    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    modules: tuple[tuple[str, ...], ...]

    def weights(self, traced: fx.GraphModule) -> list[Arrays]:
        """Float64 arrays an operator, as ``write_onnx`` takes them, batch norm folded."""
        with torch.no_grad():
            return [
                _arrays([traced.get_submodule(name) for name in modules])
                for modules in self.modules
            ]


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


#: By the lower-case name of a module's class, of a function or of a tensor's method.
_ACTIVATIONS = {
    **{name: name for name in ("relu", "relu6", "silu", "sigmoid", "tanh")},
    "swish": "silu",
    "hardswish": "hard_swish",
    "hardsigmoid": "hard_sigmoid",
}
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_IDENTITY_NAMES = ("DropPath", "DropBlock2d", "StochasticDepth", "Dropout")
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_PRODUCTS = (operator.mul, operator.imul, torch.mul)
_RESHAPES = (torch.flatten, "flatten", "view", "reshape")


@dataclass(slots=True)
class _Lowering:
    """Walks the graph once; ``tensor`` maps a graph node to the tensor number that it gives."""

    traced: fx.GraphModule
    tensor: dict[fx.Node, int] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    modules: list[list[str]] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)

    def run(self) -> LoweredNetwork:
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                if self.tensor:
                    raise OpSpecError(f"network takes a second input {node.name!r}; one is allowed")
                self.tensor[node] = 0
                self.shapes.append(_shape(node))
            elif node.op == "output":
                self._check_output(node)
            elif hasattr(node.meta.get("tensor_meta"), "shape") and self._tensors(node):
                self._lower(node)
        return LoweredNetwork(
            spec=OpSpec(input_shape=self.shapes[0], ops=tuple(self.ops)),
            layers=tuple(self.layers),
            nodes=tuple(self.nodes),
            modules=tuple(tuple(names) for names in self.modules),
        )

    def _check_output(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node):
            raise OpSpecError("network gives several results; one tensor is needed")
        if result not in self.tensor:
            raise OpSpecError(
                f"its result {result.name!r} comes from {self._lost(result)!r}, which splits a "
                "tensor into several: that is not supported"
            )
        if self.tensor[result] != len(self.ops):
            raise OpSpecError(f"network computes more than its result {result.name!r}")

    def _lost(self, node: fx.Node) -> str:
        """The layer whose result, not being one tensor, what follows could not be lowered from."""
        while node.all_input_nodes and not self._tensors(node):
            node = node.all_input_nodes[0]
        return self._name(node)

    def _tensors(self, node: fx.Node) -> list[int]:
        return [self.tensor[n] for n in node.all_input_nodes if n in self.tensor]

    def _emit(self, node: fx.Node, op: Op, shape: Shape | None = None) -> None:
        self.ops.append(op)
        self.layers.append(self._name(node))
        self.nodes.append(node.name)
        self.modules.append([str(node.target)] if node.op == "call_module" else [])
        self.shapes.append(shape or _shape(node))
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
        inputs = tuple(self._tensors(node))
        module = self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if self._is_identity(node, module):
            self.tensor[node] = inputs[0]
        elif isinstance(module, nn.BatchNorm2d) and self._folds(node):
            self.modules[inputs[0] - 1].append(str(node.target))
            self.nodes[inputs[0] - 1] = node.name
            self.tensor[node] = inputs[0]
        elif module is None:
            function, name = self._function_op(node, inputs), _function_name(node)
            self._emit(node, function or Opaque(inputs=inputs, operator=name, shape=_shape(node)))
        else:
            layer, name = self._module_op(node, module, inputs), type(module).__name__
            self._emit(node, layer or Opaque(inputs=inputs, operator=name, shape=_shape(node)))

    def _folds(self, node: fx.Node) -> bool:
        """Whether a batch norm alone reads a convolution's result."""
        (before,) = node.all_input_nodes
        number = self.tensor[before] - 1
        return (
            number >= 0
            and isinstance(self.ops[number], Conv)
            and self.nodes[number] == before.name
            and len(before.users) == 1
        )

    def _module_op(self, node: fx.Node, module: nn.Module, inputs: tuple[int, ...]) -> Op | None:
        shape = self.shapes[inputs[0]]
        activation = _module_activation(module)
        if activation is not None:
            return Activation(inputs=inputs, function=activation)
        match module:
            case nn.Conv2d():
                return _conv(module, inputs, shape, _shape(node))
            case nn.Linear() if len(shape) == 1:
                return Linear(inputs=inputs, out_features=module.out_features)
            case nn.Flatten() if len(_shape(node)) == 1:
                return Flatten(inputs=inputs)
            case nn.AdaptiveAvgPool2d():
                return _global_pool(inputs, shape, _shape(node))
            case nn.AvgPool2d() | nn.MaxPool2d():
                return _pool(module, inputs, shape, _shape(node))
            case nn.BatchNorm2d():
                return BatchNorm(inputs=inputs)
            case ConstantMap():
                return BiasMap(inputs=inputs)
            case _:
                return None

    def _is_identity(self, node: fx.Node, module: nn.Module | None) -> bool:
        """Dropout in eval mode, and reshapes that change nothing (a pool that is flat already)."""
        if module is not None:
            return isinstance(module, _IDENTITIES) or type(module).__name__ in _IDENTITY_NAMES
        if node.target in (F.dropout, F.dropout2d) or node.target == "contiguous":
            return True
        return node.target in _RESHAPES and _shape(node) == self.shapes[self._tensors(node)[0]]

    def _function_op(self, node: fx.Node, inputs: tuple[int, ...]) -> Op | None:
        target, shapes, result = node.target, [self.shapes[t] for t in inputs], _shape(node)
        if name := _ACTIVATIONS.get(_function_name(node)):
            return Activation(inputs=inputs, function=name)
        if target in _ADDITIONS and len(inputs) == 2 and shapes[0] == shapes[1]:
            return Add(inputs=inputs)
        if target in _PRODUCTS and len(inputs) == 2 and len(shapes[0]) == len(shapes[1]):
            return Mul(inputs=inputs)
        if target in (torch.cat, torch.concat) and _axis(node) == 1 and len(result) == 3:
            return Concat(inputs=inputs)
        if target in _RESHAPES and len(result) == 1:
            return Flatten(inputs=inputs)
        if target is F.adaptive_avg_pool2d:
            return _global_pool(inputs, shapes[0], result)
        if target in ("mean", torch.mean) and len(shapes[0]) == 3:
            return self._mean(node, inputs, result)
        return None

    def _mean(self, node: fx.Node, inputs: tuple[int, ...], result: Shape) -> Op | None:
        """Mean over both positions; without ``keepdim`` a flatten follows the pool."""
        channels = self.shapes[inputs[0]][0]
        if result == (channels, 1, 1):
            return GlobalPool(inputs=inputs)
        if result != (channels,):
            return None
        self._emit(node, GlobalPool(inputs=inputs), (channels, 1, 1))
        return Flatten(inputs=(len(self.ops),))


def _module_activation(module: nn.Module) -> str | None:
    name = type(module).__name__.lower()
    if name == "gelu" and getattr(module, "approximate", "none") == "none":
        return "gelu"
    return _ACTIVATIONS.get(name)


def _function_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else node.target.__name__


def _shape(node: fx.Node) -> Shape:
    return tuple(node.meta["tensor_meta"].shape[1:])


def _axis(node: fx.Node) -> Any:
    return node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _pads(module: Any, shape: Shape, dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """top, left, bottom, right of a convolution or pooling module, timm's "same" ones included."""
    if isinstance(module, PaddedConv2d):
        return module.pads
    kernel, stride = _pair(module.kernel_size), _pair(module.stride)
    if type(module).__name__.endswith("Same") or module.padding == "same":
        same = import_timm().layers.padding.pad_same_arg
        left, right, top, bottom = same(shape[1:], kernel, stride, dilation)
        return top, left, bottom, right
    if module.padding == "valid":
        return (0, 0, 0, 0)
    y, x = _pair(module.padding)
    return (y, x, y, x)


def _conv(module: nn.Conv2d, inputs: tuple[int, ...], shape: Shape, result: Shape) -> Op | None:
    known = ("Conv2d", "Conv2dSame", "PaddedConv2d")
    if module.padding_mode != "zeros" or type(module).__name__ not in known:
        return None
    dilation = _pair(module.dilation)
    op = Conv(
        inputs=inputs,
        out_channels=module.out_channels,
        kernel=_pair(module.kernel_size),
        stride=_pair(module.stride),
        pads=_pads(module, shape, dilation),
        dilation=dilation,
        groups=module.groups,
    )
    return op if op.output_shape([shape]) == result else None


def _pool(module: Any, inputs: tuple[int, ...], shape: Shape, result: Shape) -> Op | None:
    average = isinstance(module, nn.AvgPool2d)
    if not average and _pair(module.dilation) != (1, 1):
        return None
    op = Pool(
        inputs=inputs,
        function="average" if average else "max",
        kernel=_pair(module.kernel_size),
        stride=_pair(module.stride),
        pads=_pads(module, shape, (1, 1)),
        ceil=bool(module.ceil_mode),
        count_pads=average and bool(module.count_include_pad),
    )
    return op if op.output_shape([shape]) == result else None


def _global_pool(inputs: tuple[int, ...], shape: Shape, result: Shape) -> Op | None:
    if len(shape) != 3 or result[0] != shape[0]:
        return None
    if result == (shape[0], 1, 1):
        return GlobalPool(inputs=inputs)
    if any(size % out for size, out in zip(shape[1:], result[1:], strict=True)):
        return None
    window = (shape[1] // result[1], shape[2] // result[2])
    return Pool(inputs=inputs, function="average", kernel=window, stride=window)
