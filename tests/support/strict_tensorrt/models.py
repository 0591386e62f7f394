"""Small ONNX files, as dshrink writes them: named nodes, opset 13, IR 7, static shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]


def write(
    nodes: list[Any],
    constants: dict[str, Array] | None = None,
    shape: list[Any] | None = None,
    result: list[Any] | None = None,
    kind: int = TensorProto.FLOAT,
) -> bytes:
    """A model from ``image`` to ``result``."""
    shape = shape or [2, 8, 16, 16]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("result", kind, result or shape)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opset = helper.make_opsetid("", 13)
    content: bytes = helper.make_model(
        graph, opset_imports=[opset], ir_version=7
    ).SerializeToString()
    return content


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    """A node, named as the files of dshrink name theirs."""
    return helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes)


def convolution(channels: int = 8, half: bool = False, size: int = 16) -> bytes:
    """A 3x3 convolution with its ReLU6, and a pooling."""
    number = np.float16 if half else np.float32
    constants = {
        "w": np.full((channels, channels, 3, 3), 0.01, number),
        "low": np.array(0, number),
        "six": np.array(6, number),
    }
    nodes = [
        node("Conv", ["image", "w"], "t1", pads=[1, 1, 1, 1]),
        node("Clip", ["t1", "low", "six"], "t2"),
        node("GlobalAveragePool", ["t2"], "result"),
    ]
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    return write(nodes, constants, [2, channels, size, size], [2, channels, 1, 1], kind)


def quantized() -> bytes:
    """A convolution between quantize and dequantize nodes."""
    constants = {
        "w": np.full((8, 8, 1, 1), 0.01, np.float32),
        "scale": np.array(0.05, np.float32),
        "zero": np.array(0, np.int8),
    }
    nodes = [
        node("QuantizeLinear", ["image", "scale", "zero"], "image.q"),
        node("DequantizeLinear", ["image.q", "scale", "zero"], "image.dq"),
        node("QuantizeLinear", ["w", "scale", "zero"], "w.q"),
        node("DequantizeLinear", ["w.q", "scale", "zero"], "w.dq"),
        node("Conv", ["image.dq", "w.dq"], "result"),
    ]
    return write(nodes, constants)


def pooling() -> bytes:
    """A piece that multiplies nothing."""
    return write([node("Relu", ["image"], "result")])
