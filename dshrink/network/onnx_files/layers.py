"""Which layer of torch an ONNX node is; None where it is none that dshrink knows.

A node's meaning is read from its attributes, its constant inputs and the shapes that it was seen
with, so spellings of any opset and exporter come to the same layers. Scaling or shifting each
channel by a constant is a batch norm without statistics of its own: it folds and merges like one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from dshrink.network.layers import ConstantMap, PaddedConv2d
from dshrink.network.onnx_files.operator import Array

Pads = tuple[int, int, int, int]  # top, left, bottom, right
_SMALL = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node with one input that depends on the image: its number ``data``, and that one's shape.

    ``constants`` has an entry an input, None where it is not constant.
    """

    node: onnx.NodeProto
    data: int
    shape: tuple[int, ...]
    constants: tuple[Array | None, ...]

    @property
    def attributes(self) -> Mapping[str, Any]:
        return attributes_of(self.node)

    def constant(self, number: int) -> Array | None:
        return self.constants[number] if number < len(self.constants) else None

    def given(self, number: int) -> bool:
        return number < len(self.node.input) and bool(self.node.input[number])

    def setting(self, name: str, number: int) -> Any:
        """What newer opsets take as input ``number`` and older ones as an attribute."""
        if self.given(number):
            return self.constant(number)
        return self.attributes.get(name)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return {
        name: numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
        for name, value in found.items()
    }


def layer_of(view: NodeView) -> nn.Module | None:
    """The layer that computes this node of its one input, in eval mode."""
    make = _LAYERS.get(view.node.op_type)
    layer = make(view) if make and view.node.domain in ("", "ai.onnx") else None
    return None if layer is None else layer.eval()


def convolution(view: NodeView, padding: Pads = (0, 0, 0, 0)) -> nn.Conv2d | None:
    """A convolution with constant weights; ``padding`` is that of a Pad node before it."""
    weight, bias = view.constant(1), view.constant(2)
    unknown = view.given(2) and bias is None
    if weight is None or unknown or view.data != 0 or {weight.ndim, len(view.shape)} != {4}:
        return None
    said = view.attributes
    kernel, dilation = weight.shape[2:], _pair(said.get("dilations", (1, 1)))
    stride, groups = _pair(said.get("strides", (1, 1))), int(said.get("group", 1))
    size = (view.shape[2] + padding[0] + padding[2], view.shape[3] + padding[1] + padding[3])
    own = _pads(said, size, (kernel[0], kernel[1]), stride, dilation)
    top, left, bottom, right = (a + b for a, b in zip(own, padding, strict=True))
    options: dict[str, Any] = {
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "bias": bias is not None,
    }
    channels = (weight.shape[1] * groups, weight.shape[0])
    layer: nn.Conv2d
    if (top, left) == (bottom, right) and min(top, left) >= 0:
        layer = nn.Conv2d(*channels, kernel, padding=(top, left), **options)
    else:
        layer = PaddedConv2d(*channels, kernel, pads=(top, left, bottom, right), **options)
    _fill(layer, weight, bias)
    return layer.eval()


def affine(channels: int, scale: Array, shift: Array, eps: float = 0.0) -> nn.BatchNorm2d:
    """``x * scale + shift`` for each channel, as a norm whose statistics are 0 and 1."""
    norm = nn.BatchNorm2d(channels, eps=eps)
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(np.broadcast_to(scale, channels).astype(np.float64)))
        norm.bias.copy_(torch.from_numpy(np.broadcast_to(shift, channels).astype(np.float64)))
    return norm.eval()


def linear(weight: Array, bias: Array | None) -> nn.Linear:
    """``weight`` is (out, in)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    _fill(layer, weight, bias)
    return layer.eval()


def zero_pads(view: NodeView) -> Pads | None:
    """What a Pad node adds around each image: zeros above, left, below and right, or None."""
    said = view.attributes
    pads, value = view.setting("pads", 1), view.setting("value", 2)
    axes = view.constant(3)
    if pads is None or said.get("mode", b"constant") != b"constant" or len(view.shape) != 4:
        return None
    if (view.given(2) and value is None) or (value is not None and np.any(value)):
        return None
    where = [int(axis) % 4 for axis in axes] if axes is not None else list(range(4))
    begin, end = [0] * 4, [0] * 4
    for number, axis in enumerate(where):
        begin[axis], end[axis] = int(pads[number]), int(pads[number + len(where)])
    if any((*begin[:2], *end[:2])):
        return None
    return begin[2], begin[3], end[2], end[3]


def scalar(value: Array | None) -> float | None:
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def close(value: float | None, to: float) -> bool:
    return value is not None and abs(value - to) <= 1e-3 * max(1.0, abs(to))


def _fill(layer: nn.Conv2d | nn.Linear, weight: Array, bias: Array | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(weight)))
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(np.array(bias).reshape(-1)))


def _batch_norm(view: NodeView) -> nn.Module | None:
    parameters = [view.constant(number) for number in range(1, 5)]
    if view.data != 0 or len(view.shape) != 4 or any(one is None for one in parameters):
        return None
    scale, shift, mean, variance = (one for one in parameters if one is not None)
    norm = affine(view.shape[1], scale, shift, float(view.attributes.get("epsilon", 1e-5)))
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(torch.from_numpy(np.array(mean)))
    norm.running_var.copy_(torch.from_numpy(np.array(variance)))
    return norm


def _clip(view: NodeView) -> nn.Module | None:
    low, high = (
        None if value is None else scalar(np.asarray(value))
        for value in (view.setting("min", 1), view.setting("max", 2))
    )
    if low != 0.0 or any(view.given(n) and view.constant(n) is None for n in (1, 2)):
        return None
    if high is None or high > 3e38 or high == 65504.0:  # the largest float32 and float16
        return nn.ReLU()
    return nn.ReLU6() if high == 6.0 else None


def _hard_sigmoid(view: NodeView) -> nn.Module | None:
    said = view.attributes
    slope, shift = said.get("alpha", 0.2), said.get("beta", 0.5)
    sixth = abs(slope - 1 / 6) < _SMALL and abs(shift - 0.5) < _SMALL
    return nn.Hardsigmoid() if sixth else None


def _gelu(view: NodeView) -> nn.Module | None:
    exact = view.attributes.get("approximate", b"none") == b"none"
    return nn.GELU() if exact else None


def _max_pool(view: NodeView) -> nn.Module | None:
    said = view.attributes
    if len([name for name in view.node.output if name]) != 1 or said.get("storage_order", 0):
        return None
    window = _window(view)
    if window is None:
        return None
    dilation = _pair(said.get("dilations", (1, 1)))
    return nn.MaxPool2d(**window, dilation=dilation)


def _average_pool(view: NodeView) -> nn.Module | None:
    said = view.attributes
    window = _window(view)
    if window is None or any(one != 1 for one in said.get("dilations", ())):
        return None
    if window["kernel_size"] == view.shape[2:] and window["padding"] == (0, 0):
        return nn.AdaptiveAvgPool2d(1)
    return nn.AvgPool2d(**window, count_include_pad=bool(said.get("count_include_pad", 0)))


def _window(view: NodeView) -> dict[str, Any] | None:
    """Arguments of a pool of torch's, which pads both sides alike, by half a window at most."""
    said = view.attributes
    if len(view.shape) != 4:
        return None
    kernel, stride = _pair(said["kernel_shape"]), _pair(said.get("strides", (1, 1)))
    dilation = _pair(said.get("dilations", (1, 1)))
    top, left, bottom, right = _pads(said, view.shape[2:], kernel, stride, dilation)
    if (top, left) != (bottom, right) or top > kernel[0] // 2 or left > kernel[1] // 2:
        return None
    return {
        "kernel_size": kernel,
        "stride": stride,
        "padding": (top, left),
        "ceil_mode": bool(said.get("ceil_mode", 0)),
    }


def _global_pool(view: NodeView) -> nn.Module | None:
    return nn.AdaptiveAvgPool2d(1) if len(view.shape) == 4 else None


def _mean(view: NodeView) -> nn.Module | None:
    axes = view.setting("axes", 1)
    if axes is None or len(view.shape) != 4 or not view.attributes.get("keepdims", 1):
        return None
    return nn.AdaptiveAvgPool2d(1) if {int(axis) % 4 for axis in axes} == {2, 3} else None


def _gemm(view: NodeView) -> nn.Module | None:
    said, weight, bias = view.attributes, view.constant(1), view.constant(2)
    if view.data != 0 or weight is None or said.get("transA", 0) or len(view.shape) != 2:
        return None
    weight = weight if said.get("transB", 0) else weight.T
    if view.given(2) and (bias is None or bias.size not in (1, len(weight))):
        return None
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), len(weight)) * said.get("beta", 1.0)
    return linear(weight * said.get("alpha", 1.0), bias)


def _matrix_product(view: NodeView) -> nn.Module | None:
    weight = view.constant(1)
    if view.data != 0 or weight is None or weight.ndim != 2 or len(view.shape) != 2:
        return None
    return linear(weight.T, None)


def _by_constant(view: NodeView) -> nn.Module | None:
    """An image plus, minus, times or divided by a constant a channel; or plus a constant map."""
    value = view.constant(1 - view.data)
    if value is None or len(view.shape) != 4 or value.dtype.kind != "f":
        return None
    kind, channels = view.node.op_type, view.shape[1]
    image = value.shape[-3:] == view.shape[1:] and value.size == np.prod(view.shape[1:])
    if kind == "Add" and image and view.shape[2:] != (1, 1):
        return ConstantMap(torch.from_numpy(np.array(value.reshape(view.shape[1:]))))
    if value.size != 1 and (value.ndim < 3 or value.shape[-3:] != (channels, 1, 1)):
        return None
    if value.size not in (1, channels):
        return None
    each, one, zero = value.reshape(-1).astype(np.float64), np.ones(1), np.zeros(1)
    match kind, view.data:
        case "Add", _:
            return affine(channels, one, each)
        case "Mul", _:
            return affine(channels, each, zero)
        case "Sub", 0:
            return affine(channels, one, -each)
        case "Sub", _:
            return affine(channels, -one, each)
        case "Div", 0 if np.all(each != 0):
            return affine(channels, 1 / each, zero)
        case _:
            return None


def _pair(value: Any) -> tuple[int, int]:
    return int(value[0]), int(value[1])


def _pads(
    said: Mapping[str, Any],
    size: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Pads:
    """top, left, bottom, right, "same" resolved for an input of this size."""
    auto = said.get("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b""):
        top, left, bottom, right = said.get("pads", (0, 0, 0, 0))
        return int(top), int(left), int(bottom), int(right)
    if auto == b"VALID":
        return 0, 0, 0, 0
    before, after = [], []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        less, more = total // 2, total - total // 2
        before.append(more if auto == b"SAME_LOWER" else less)
        after.append(less if auto == b"SAME_LOWER" else more)
    return before[0], before[1], after[0], after[1]


def _plain(layer: type[nn.Module]) -> Callable[[NodeView], nn.Module]:
    return lambda view: layer()


_LAYERS: Mapping[str, Callable[[NodeView], nn.Module | None]] = {
    "Conv": convolution,
    "BatchNormalization": _batch_norm,
    "Relu": _plain(nn.ReLU),
    "Sigmoid": _plain(nn.Sigmoid),
    "Tanh": _plain(nn.Tanh),
    "HardSwish": _plain(nn.Hardswish),
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool,
    "ReduceMean": _mean,
    "Gemm": _gemm,
    "MatMul": _matrix_product,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _by_constant),
}
