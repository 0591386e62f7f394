"""Nodes that stay ONNX nodes, with constants that hold for every batch.

Exporters write sizes into constants, the batch among them. Where a file leaves its batch open, each
constant is known for a probe of one image and one of two; what differs is written so that it grows
with the batch, or not to depend on it at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import helper

from dshrink.network.onnx_files.operator import Array, BatchPlace, OnnxOperator

#: One array a probe; the same object where the batch does not matter.
Known = tuple[Array, ...]
Samples = tuple[torch.Tensor, ...]

#: From this opset on Slice takes its bounds as inputs.
SLICE_BY_INPUT = 10
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")


class BatchInsideError(ValueError):
    """A constant whose dependence on the batch cannot be written; the message completes a line."""


def kept_operator(
    node: onnx.NodeProto,
    inputs: Mapping[str, Samples],
    known: Mapping[str, Known],
    opset: int,
    domains: Mapping[str, int],
) -> OnnxOperator:
    """The module of a node that reads ``inputs`` and ``known`` constants.

    Raises BatchInsideError.
    """
    known = dict(known)
    if node.op_type == "Reshape" and list(inputs) == [node.input[0]]:
        before = inputs[node.input[0]]
        node, known[node.input[1]] = _as_given(node, known[node.input[1]], before)
    if node.op_type in _ELEMENTWISE:
        known = {name: _for_one_image(values) for name, values in known.items()}
    grows = {n: v for n, v in known.items() if any(one is not v[0] for one in v)}
    if any(one.shape != v[0].shape for v in grows.values() for one in v):
        raise BatchInsideError("reads a constant that is as large as the batch")
    per_image = {name: np.asarray(v[1] - v[0], v[0].dtype) for name, v in grows.items()}
    return OnnxOperator(
        node,
        inputs=list(inputs),
        constants={n: v[0] - per_image[n] if n in grows else v[0] for n, v in known.items()},
        opset=opset,
        domains=domains,
        per_image=per_image,
        batch=_batch_place(list(inputs.values())) if grows else None,
    )


def slice_of(
    node: onnx.NodeProto, result: str, axis: int, bounds: tuple[int, int], opset: int
) -> OnnxOperator:
    """A part of what a Split divides along ``axis``."""
    values = {"starts": bounds[0], "ends": bounds[1], "axes": axis}
    source = node.input[0]
    return OnnxOperator(
        helper.make_node("Slice", [source, *values], [result], name=node.name),
        inputs=[source],
        constants={name: np.array([value], np.int64) for name, value in values.items()},
        opset=opset,
    )


def _batch_place(inputs: list[Samples]) -> BatchPlace:
    """Where an operator whose constants grow with the batch can see how large it is."""
    for number, (one, two) in enumerate(inputs):
        for axis, (few, many) in enumerate(zip(one.shape, two.shape, strict=True)):
            if many == 2 * few:
                return BatchPlace(number=number, axis=axis, times=few)
    raise BatchInsideError("computes a shape from the batch, which its input does not have")


def _for_one_image(values: Known) -> Known:
    """What repeats itself for each image, once: it broadcasts."""
    first = values[0]
    repeated = first.ndim and first.shape[0] == 1
    if repeated and all(
        one.shape[1:] == first.shape[1:] and (one == first).all() for one in values
    ):
        return (first,) * len(values)
    return values


def _as_given(node: onnx.NodeProto, shapes: Known, before: Samples) -> tuple[onnx.NodeProto, Known]:
    """A reshape that keeps the first axis, with the 0 that says so in any batch."""
    if not all(len(s) and s[0] == x.shape[0] for s, x in zip(shapes, before, strict=True)):
        return node, shapes
    kept = [np.array([0, *shape[1:]], np.int64) for shape in shapes]
    if any(not np.array_equal(kept[0], one) or 0 in one[1:] for one in kept):
        return node, shapes
    free = onnx.NodeProto()
    free.CopyFrom(node)
    del free.attribute[:]  # allowzero, with which 0 would be a size
    return free, (kept[0],) * len(kept)
