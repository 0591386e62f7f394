"""Layers that an ONNX file spells as several nodes.

A pattern looks back from the node that ends it. The nodes before it may have other readers: they
stay where they have, and are nobody's otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import onnx
from torch import nn

from dshrink.network.onnx_files.layers import (
    NodeView,
    close,
    convolution,
    linear,
    scalar,
    zero_pads,
)
from dshrink.network.onnx_files.operator import Array


class Reading(Protocol):
    """What is known where a pattern ends.

    ``nodes`` are tensors that depend on the image, ``producer`` the node that makes each, and
    ``layers`` what those became that are layers already, with the tensor that these read.
    """

    nodes: dict[str, Any]
    producer: dict[str, onnx.NodeProto]
    layers: dict[str, tuple[nn.Module, str]]

    def constant(self, name: str) -> Array | None: ...

    def view(self, node: onnx.NodeProto) -> NodeView | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Several nodes that are one layer of the tensor ``source``."""

    layer: nn.Module
    source: str
    kind: str


def _constant_operand(reader: Reading, node: onnx.NodeProto | None, kind: str) -> tuple[str, float]:
    """(other operand, value) where ``node`` is that operator with one number, else ("", nan)."""
    if node is None or node.op_type != kind or len(node.input) != 2:
        return "", float("nan")
    first, second = node.input
    if (value := scalar(reader.constant(second))) is not None:
        return first, value
    if kind != "Div" and (value := scalar(reader.constant(first))) is not None:
        return second, value
    return "", float("nan")


def _gate(reader: Reading, node: onnx.NodeProto) -> Match | None:
    """``x * sigmoid(x)`` and ``x * hard_sigmoid(x)``."""
    for source, gate in (tuple(node.input), tuple(node.input)[::-1]):
        made = reader.producer.get(gate)
        if made is None or source not in reader.nodes:
            continue
        layer = reader.layers.get(gate)
        if layer and layer[1] == source:
            if isinstance(layer[0], nn.Sigmoid):
                return Match(layer=nn.SiLU(), source=source, kind="Silu")
            if isinstance(layer[0], nn.Hardsigmoid):
                return Match(layer=nn.Hardswish(), source=source, kind="HardSwish")
    return None


def _six_of_three(reader: Reading, name: str) -> str:
    """The x of ``clip(x + 3, 0, 6)``, or ""."""
    layer = reader.layers.get(name)
    if not layer or not isinstance(layer[0], nn.ReLU6):
        return ""
    source, value = _constant_operand(reader, reader.producer.get(layer[1]), "Add")
    return source if close(value, 3.0) else ""


def _hard(reader: Reading, node: onnx.NodeProto) -> Match | None:
    """``clip(x + 3, 0, 6) / 6`` and ``x * clip(x + 3, 0, 6) / 6``, by a product too."""
    inner, value = _constant_operand(reader, node, node.op_type)
    if not close(value, 6.0 if node.op_type == "Div" else 1 / 6):
        return None
    if source := _six_of_three(reader, inner):
        return Match(layer=nn.Hardsigmoid(), source=source, kind="HardSigmoid")
    product = reader.producer.get(inner)
    if product is not None and product.op_type == "Mul" and len(product.input) == 2:
        for x, gate in (tuple(product.input), tuple(product.input)[::-1]):
            if x in reader.nodes and _six_of_three(reader, gate) == x:
                return Match(layer=nn.Hardswish(), source=x, kind="HardSwish")
    return None


def _gelu(reader: Reading, node: onnx.NodeProto) -> Match | None:
    """``x * (erf(x / sqrt(2)) + 1) * 0.5``, the half where exporters put it."""
    inner, value = _constant_operand(reader, node, "Mul")
    if close(value, 0.5):
        product = reader.producer.get(inner)
        factors = tuple(product.input) if product is not None and product.op_type == "Mul" else ()
        pairs = [(x, y, False) for x, y in zip(factors, factors[::-1], strict=True)]
    else:
        pairs = [(x, y, True) for x, y in zip(node.input, node.input[::-1], strict=True)]
    for x, gate, halved in pairs:
        if halved:
            gate, value = _constant_operand(reader, reader.producer.get(gate), "Mul")
            if not close(value, 0.5):
                continue
        total, one = _constant_operand(reader, reader.producer.get(gate), "Add")
        erf = reader.producer.get(total)
        if erf is None or erf.op_type != "Erf" or not close(one, 1.0):
            continue
        scaled = reader.producer.get(erf.input[0])
        by, root = _constant_operand(reader, scaled, "Div")
        times, inverse = _constant_operand(reader, scaled, "Mul")
        if (by == x and close(root, 2**0.5)) or (times == x and close(inverse, 0.5**0.5)):
            return Match(layer=nn.GELU(), source=x, kind="Gelu")
    return None


def _product_and_bias(reader: Reading, node: onnx.NodeProto) -> Match | None:
    """A linear layer spelled as a product with a matrix and an addition."""
    for product, bias in (tuple(node.input), tuple(node.input)[::-1]):
        layer, value = reader.layers.get(product), reader.constant(bias)
        if layer and isinstance(layer[0], nn.Linear) and value is not None:
            weight = layer[0].weight.numpy()
            if layer[0].bias is None and value.size == len(weight) == value.shape[-1]:
                return Match(layer=linear(weight, value), source=layer[1], kind="Linear")
    return None


def _padded_convolution(reader: Reading, node: onnx.NodeProto) -> Match | None:
    """A convolution of what a node pads with zeros: the pads are its own."""
    pad = reader.producer.get(node.input[0])
    if pad is None or pad.op_type != "Pad":
        return None
    before, own = reader.view(pad), reader.view(node)
    padding = zero_pads(before) if before is not None else None
    if padding is None or before is None or own is None:
        return None
    layer = convolution(replace(own, shape=before.shape), padding)
    return None if layer is None else Match(layer=layer, source=pad.input[0], kind="Conv")


PATTERNS: Mapping[str, tuple[Callable[[Reading, onnx.NodeProto], Match | None], ...]] = {
    "Mul": (_gate, _hard, _gelu),
    "Div": (_hard,),
    "Add": (_product_and_bias,),
    "Conv": (_padded_convolution,),
}
