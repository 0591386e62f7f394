"""The operators that an ``OpSpec`` has words for, recognised in the spellings that torch allows.

A layer is what its class says only if it is that very class without hooks, a function only if it is
torch's own: names prove nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from dshrink.network.layers import ConstantMap, PaddedConv2d, is_hooked
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
    Pool,
    Shape,
)

_ACTIVATION_LAYERS: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.Hardswish: "hard_swish",
    nn.Hardsigmoid: "hard_sigmoid",
}
#: By the function, or by the name of a tensor's method.
_ACTIVATION_FUNCTIONS: Mapping[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    "relu": "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    "sigmoid": "sigmoid",
    F.tanh: "tanh",
    torch.tanh: "tanh",
    "tanh": "tanh",
    F.hardswish: "hard_swish",
    F.hardsigmoid: "hard_sigmoid",
}
_CLAMPS = (torch.clamp, torch.clip, "clamp", "clip")
_ADDITIONS = (operator.add, torch.add, "add")
_PRODUCTS = (operator.mul, torch.mul, "mul")
_RESHAPES = (torch.flatten, torch.reshape, "flatten", "view", "reshape")
_MEANS = (torch.mean, "mean")
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd)
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)

#: Where the argument of a function is, and its default.
_ARGUMENTS: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "max_pool": (
        ("input", None),
        ("kernel_size", None),
        ("stride", None),
        ("padding", 0),
        ("dilation", 1),
        ("ceil_mode", False),
        ("return_indices", False),
    ),
    "avg_pool": (
        ("input", None),
        ("kernel_size", None),
        ("stride", None),
        ("padding", 0),
        ("ceil_mode", False),
        ("count_include_pad", True),
        ("divisor_override", None),
    ),
    "clamp": (("input", None), ("min", None), ("max", None)),
    "hardtanh": (("input", None), ("min_val", -1.0), ("max_val", 1.0)),
    "gelu": (("input", None), ("approximate", "none")),
    "dropout": (("input", None), ("p", 0.5), ("training", True)),
    "cat": (("tensors", None), ("dim", 0)),
    "mean": (("input", None), ("dim", None), ("keepdim", False)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A node: its layer if it calls one, the tensors that it reads, and what it gives.

    ``inputs`` are the tensors of images among its arguments, in order and as often as they stand
    there, ``shapes`` theirs; ``alone`` says whether it reads nothing else that is computed.
    """

    node: fx.Node
    layer: nn.Module | None
    alone: bool
    inputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    result: Shape


def is_identity(call: Call) -> bool:
    """Dropout in eval mode, and reshapes that change nothing (a pool that is flat already)."""
    layer, node = call.layer, call.node
    if layer is not None:
        plain = type(layer).__module__.partition(".")[0] == "torch" and not is_hooked(layer)
        return plain and isinstance(layer, _IDENTITIES) and not layer.training
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target in _DROPOUTS:
        return _arguments(node, "dropout")["training"] is False
    if node.target == "contiguous":
        return True
    return node.target in _RESHAPES and call.result == call.shapes[0]


def folds_into_convolution(layer: nn.Module | None) -> bool:
    """Whether it is a batch norm that a convolution before it can take in."""
    return type(layer) is nn.BatchNorm2d and layer.running_mean is not None and not is_hooked(layer)


def find_operator(call: Call) -> tuple[Op, ...]:
    """The operators that a call is, the last one giving its result; none if there are no words."""
    if call.layer is not None:
        if is_hooked(call.layer) or len(call.inputs) != 1 or not call.alone:
            return ()
        return _some(_of_layer(call.layer, call))
    if call.node.op not in ("call_function", "call_method"):
        return ()
    if call.node.target in _RESHAPES and len(call.result) == 1:
        return (Flatten(inputs=call.inputs[:1]),)
    return _of_function(call) if call.alone else ()


def _some(op: Op | None) -> tuple[Op, ...]:
    return () if op is None else (op,)


def _of_layer(layer: nn.Module, call: Call) -> Op | None:
    inputs, shape, kind = call.inputs, call.shapes[0], type(layer)
    if activation := _activation_of(layer):
        return Activation(inputs=inputs, function=activation)
    if kind in (nn.Conv2d, PaddedConv2d) or _is_timms(kind, "Conv2dSame"):
        return _conv(layer, call)
    if kind is nn.Linear or _is_timms(kind, "Linear"):
        return Linear(inputs=inputs, out_features=layer.out_features)  # type: ignore[arg-type]
    if kind in (nn.AvgPool2d, nn.MaxPool2d) or _is_timms(kind, "AvgPool2dSame", "MaxPool2dSame"):
        return _pool(
            vars(layer), call, isinstance(layer, nn.AvgPool2d), same="Same" in kind.__name__
        )
    if kind is nn.AdaptiveAvgPool2d:
        return _global_pool(call)
    if kind is nn.Flatten and len(call.result) == 1:
        return Flatten(inputs=inputs)
    if folds_into_convolution(layer) and len(shape) == 3:
        return BatchNorm(inputs=inputs)
    return BiasMap(inputs=inputs) if kind is ConstantMap else None


def _is_timms(kind: type[nn.Module], *names: str) -> bool:
    return kind.__name__ in names and kind.__module__.startswith("timm.layers.")


def _activation_of(layer: nn.Module) -> str | None:
    kind = type(layer)
    if kind is nn.GELU:
        return "gelu" if layer.approximate == "none" else None
    if kind is nn.Hardtanh:
        return _clamp(layer.min_val, layer.max_val)
    return _ACTIVATION_LAYERS.get(kind)


def _clamp(low: Any, high: Any) -> str | None:
    bounds = {(0, None): "relu", (0, 6): "relu6"}
    known = all(one is None or isinstance(one, int | float) for one in (low, high))
    return bounds.get((low, high)) if known else None


def _of_function(call: Call) -> tuple[Op, ...]:
    target, inputs, shapes = call.node.target, call.inputs, call.shapes
    if activation := _function_activation(call.node):
        return (Activation(inputs=inputs[:1], function=activation),)
    two = len(inputs) == 2 and not call.node.kwargs and len(call.node.args) == 2
    if target in _ADDITIONS and two and shapes[0] == shapes[1]:
        return (Add(inputs=inputs),)
    if target in _PRODUCTS and two and len(shapes[0]) == len(shapes[1]):
        return (Mul(inputs=inputs),)
    if target in _CONCATENATIONS and len(call.result) == 3:
        along = _arguments(call.node, "cat")["dim"]
        return (Concat(inputs=inputs),) if along in (1, -3) else ()
    if target is F.adaptive_avg_pool2d:
        return _some(_global_pool(call))
    if target in _MEANS and len(shapes[0]) == 3:
        return _mean(call)
    for name, pools in (("max_pool", _MAX_POOLS), ("avg_pool", _AVERAGE_POOLS)):
        if target in pools:
            return _some(_pool(_arguments(call.node, name), call, name == "avg_pool"))
    return ()


_MAX_POOLS: tuple[Callable[..., Any], ...] = (F.max_pool2d, torch.max_pool2d)
_AVERAGE_POOLS: tuple[Callable[..., Any], ...] = (F.avg_pool2d,)


def _function_activation(node: fx.Node) -> str | None:
    if node.target in _CLAMPS:
        given = _arguments(node, "clamp")
        return _clamp(given["min"], given["max"])
    if node.target is F.hardtanh:
        given = _arguments(node, "hardtanh")
        return _clamp(given["min_val"], given["max_val"])
    if node.target is F.gelu:
        return "gelu" if _arguments(node, "gelu")["approximate"] == "none" else None
    return _ACTIVATION_FUNCTIONS.get(node.target)


def _arguments(node: fx.Node, function: str) -> dict[str, Any]:
    known = _ARGUMENTS[function]
    given = dict(zip((name for name, _ in known), node.args, strict=False))
    return {**dict(known), **given, **node.kwargs}


def _mean(call: Call) -> tuple[Op, ...]:
    """Mean over both positions; without ``keepdim`` a flatten follows the pool."""
    channels = call.shapes[0][0]
    pool = GlobalPool(inputs=call.inputs)
    axes = _arguments(call.node, "mean")["dim"]
    positions = isinstance(axes, Sequence) and {axis % 4 for axis in axes} == {2, 3}
    if not positions or call.result not in ((channels, 1, 1), (channels,)):
        return ()
    return (pool,) if len(call.result) == 3 else (pool, Flatten(inputs=(-1,)))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _pads(module: Any, shape: Shape, dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """top, left, bottom, right of a convolution, timm's "same" ones included."""
    if isinstance(module, PaddedConv2d):
        return module.pads
    kernel, stride = _pair(module.kernel_size), _pair(module.stride)
    if type(module).__name__.endswith("Same"):
        return _same_pads(shape, kernel, stride, dilation)
    if module.padding == "same":  # torch's own: the smaller half comes first, whatever the stride
        begins, ends = [], []
        for k, d in zip(kernel, dilation, strict=True):
            begins.append(d * (k - 1) // 2)
            ends.append(d * (k - 1) - begins[-1])
        return begins[0], begins[1], ends[0], ends[1]
    if module.padding == "valid":
        return (0, 0, 0, 0)
    y, x = _pair(module.padding)
    return (y, x, y, x)


def _same_pads(
    shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """TensorFlow's: as many positions as the stride leaves of the input."""
    begins, ends = [], []
    for n, k, s, d in zip(shape[1:], kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        begins.append(total // 2)
        ends.append(total - total // 2)
    return begins[0], begins[1], ends[0], ends[1]


def _conv(module: Any, call: Call) -> Op | None:
    shape = call.shapes[0]
    if module.padding_mode != "zeros" or len(shape) != 3:
        return None
    dilation = _pair(module.dilation)
    pads = _pads(module, shape, dilation)
    if min(pads) < 0:
        return None
    op = Conv(
        inputs=call.inputs,
        out_channels=module.out_channels,
        kernel=_pair(module.kernel_size),
        stride=_pair(module.stride),
        pads=pads,
        dilation=dilation,
        groups=module.groups,
    )
    return op if op.output_shape([shape]) == call.result else None


def _pool(given: Mapping[str, Any], call: Call, average: bool, *, same: bool = False) -> Op | None:
    """``given`` are a layer's attributes or a function's arguments."""
    shape = call.shapes[0]
    if len(shape) != 3 or len(call.inputs) != 1:
        return None
    if not average and (_pair(given["dilation"]) != (1, 1) or given["return_indices"]):
        return None
    if average and given.get("divisor_override") is not None:
        return None
    kernel = _pair(given["kernel_size"])
    stride = _pair(given["stride"] or kernel)
    if same:
        pads = _same_pads(shape, kernel, stride, (1, 1))
    else:
        y, x = _pair(given["padding"])
        pads = (y, x, y, x)
    op = Pool(
        inputs=call.inputs,
        function="average" if average else "max",
        kernel=kernel,
        stride=stride,
        pads=pads,
        ceil=bool(given["ceil_mode"]),
        count_pads=average and bool(given["count_include_pad"]),
    )
    return op if op.output_shape([shape]) == call.result else None


def _global_pool(call: Call) -> Op | None:
    inputs, shape, result = call.inputs, call.shapes[0], call.result
    if len(shape) != 3 or len(result) != 3 or result[0] != shape[0]:
        return None
    if result[1:] == (1, 1):
        return GlobalPool(inputs=inputs)
    if any(size % out for size, out in zip(shape[1:], result[1:], strict=True)):
        return None
    window = (shape[1] // result[1], shape[2] // result[2])
    return Pool(inputs=inputs, function="average", kernel=window, stride=window)
