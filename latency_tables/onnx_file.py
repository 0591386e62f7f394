"""An ``OpSpec`` with weights as the bytes of an ONNX file, written without any exporter.

One writer serves the pieces that a device measures and the networks that a user ships, so what was
measured is what is shipped. Opset 13 and IR 7 are the oldest that every runtime we drive reads
(TensorRT 8.2, ONNX Runtime 1.10); shapes are static, pads stay inside the convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from latency_tables.opspec import (
    Activation,
    BatchNorm,
    BiasMap,
    Conv,
    Linear,
    Op,
    Opaque,
    OpSpec,
    OpSpecError,
    Pool,
)

OPSET = 13
IR_VERSION = 7
INPUT_NAME = "image"
OUTPUT_NAME = "result"

#: The arrays of one operator: convolution and linear (weight, bias), bias map (map,), batch norm
#: (scale, shift); empty for the rest.
Arrays = tuple[npt.NDArray[np.floating], ...]


class NotRepresentableError(OpSpecError):
    """An operator of the network has no words in an OpSpec, so no file can be written."""


@dataclass(slots=True)
class _Writer:
    """Collects nodes and initializers; tensor k of the spec is named ``t<k>``."""

    names: list[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, array: npt.ArrayLike, name: str) -> str:
        value = np.ascontiguousarray(array, dtype=np.float32)
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        node = helper.make_node(op_type, list(inputs), [output], name=f"{output}/{op_type}")
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self.nodes.append(node)
        return output


def _conv(writer: _Writer, op: Op, inputs: list[str], output: str, arrays: Arrays) -> None:
    assert isinstance(op, Conv)
    weight = writer.constant(arrays[0], f"{output}.weight")
    bias = writer.constant(arrays[1], f"{output}.bias")
    writer.node(
        "Conv",
        [inputs[0], weight, bias],
        output,
        kernel_shape=list(op.kernel),
        strides=list(op.stride),
        pads=list(op.pads),
        dilations=list(op.dilation),
        group=op.groups,
    )


def _bias_map(writer: _Writer, op: Op, inputs: list[str], output: str, arrays: Arrays) -> None:
    writer.node("Add", [inputs[0], writer.constant(arrays[0][None], f"{output}.map")], output)


def _batch_norm(writer: _Writer, op: Op, inputs: list[str], output: str, arrays: Arrays) -> None:
    scale, shift = arrays
    writer.node(
        "BatchNormalization",
        [
            inputs[0],
            writer.constant(scale, f"{output}.scale"),
            writer.constant(shift, f"{output}.shift"),
            writer.constant(np.zeros_like(scale), f"{output}.mean"),
            writer.constant(np.ones_like(scale), f"{output}.variance"),
        ],
        output,
        epsilon=0.0,
    )


def _activation(writer: _Writer, op: Op, inputs: list[str], output: str, arrays: Arrays) -> None:
    assert isinstance(op, Activation)
    x = inputs[0]
    match op.function:
        case "relu":
            writer.node("Relu", [x], output)
        case "relu6":
            low, high = writer.constant(0.0, f"{output}.low"), writer.constant(6.0, f"{output}.six")
            writer.node("Clip", [x, low, high], output)
        case "sigmoid":
            writer.node("Sigmoid", [x], output)
        case "tanh":
            writer.node("Tanh", [x], output)
        case "hard_sigmoid":
            writer.node("HardSigmoid", [x], output, alpha=1 / 6, beta=0.5)
        case "silu":
            writer.node("Mul", [x, writer.node("Sigmoid", [x], f"{output}.gate")], output)
        case "hard_swish":  # the operator itself came with opset 14
            gate = writer.node("HardSigmoid", [x], f"{output}.gate", alpha=1 / 6, beta=0.5)
            writer.node("Mul", [x, gate], output)
        case "gelu":
            root = writer.constant(np.sqrt(2.0), f"{output}.root")
            erf = writer.node(
                "Erf", [writer.node("Div", [x, root], f"{output}.scaled")], f"{output}.erf"
            )
            one = writer.constant(1.0, f"{output}.one")
            half = writer.constant(0.5, f"{output}.half")
            gate = writer.node(
                "Mul", [writer.node("Add", [erf, one], f"{output}.sum"), half], f"{output}.gate"
            )
            writer.node("Mul", [x, gate], output)


def _pool(writer: _Writer, op: Op, inputs: list[str], output: str, arrays: Arrays) -> None:
    assert isinstance(op, Pool)
    attributes: dict[str, object] = {
        "kernel_shape": list(op.kernel),
        "strides": list(op.stride),
        "pads": list(op.pads),
        "ceil_mode": int(op.ceil),
    }
    if op.function == "average":
        attributes["count_include_pad"] = int(op.count_pads)
    kind = "MaxPool" if op.function == "max" else "AveragePool"
    writer.node(kind, inputs, output, **attributes)


def _linear(writer: _Writer, op: Op, inputs: list[str], output: str, arrays: Arrays) -> None:
    weight = writer.constant(arrays[0], f"{output}.weight")
    bias = writer.constant(arrays[1], f"{output}.bias")
    writer.node("Gemm", [inputs[0], weight, bias], output, transB=1)


def _plain(op_type: str, **attributes: object) -> _Emit:
    def emit(writer: _Writer, op: Op, inputs: list[str], output: str, arrays: Arrays) -> None:
        writer.node(op_type, inputs, output, **attributes)

    return emit


_Emit = Callable[[_Writer, Op, list[str], str, Arrays], None]
_EMIT: Mapping[str, _Emit] = {
    "conv": _conv,
    "bias_map": _bias_map,
    "batch_norm": _batch_norm,
    "activation": _activation,
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "concat": _plain("Concat", axis=1),
    "pool": _pool,
    "global_pool": _plain("GlobalAveragePool"),
    "flatten": _plain("Flatten", axis=1),
    "linear": _linear,
}


def array_shapes(spec: OpSpec) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The shapes of every operator's arrays, as ``write_onnx`` wants them."""
    return tuple(_array_shapes(op, spec.shapes[op.inputs[0]]) for op in spec.ops)


def _array_shapes(op: Op, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    match op:
        case Conv():
            return op.weight_shape(shape[0]), (op.out_channels,)
        case BiasMap():
            return (shape,)
        case BatchNorm():
            return (shape[0],), (shape[0],)
        case Linear():
            return (op.out_features, shape[0]), (op.out_features,)
        case _:
            return ()


def write_onnx(
    spec: OpSpec,
    weights: Sequence[Arrays],
    *,
    batch: int = 1,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The serialized ONNX model of ``spec`` with one tuple of arrays an operator.

    Arrays are cast to float32. ``metadata`` becomes the file's metadata properties. Raises
    NotRepresentableError for an opaque operator, OpSpecError for arrays of the wrong shapes.
    """
    shapes = array_shapes(spec)
    if len(weights) != len(shapes):
        raise OpSpecError(f"{len(shapes)} operators need as many entries of weights")
    writer = _Writer(names=[INPUT_NAME, *(f"t{n}" for n in range(1, len(spec.ops))), OUTPUT_NAME])
    for number, (op, arrays) in enumerate(zip(spec.ops, weights, strict=True)):
        if isinstance(op, Opaque):
            raise NotRepresentableError(
                f"operator {op.operator!r} cannot be written to ONNX by dshrink"
            )
        if tuple(a.shape for a in arrays) != shapes[number]:
            raise OpSpecError(
                f"operator {number} ({op.kind}) needs arrays of {shapes[number]}, "
                f"got {tuple(a.shape for a in arrays)}"
            )
        inputs = [writer.names[tensor] for tensor in op.inputs]
        _EMIT[op.kind](writer, op, inputs, writer.names[number + 1], arrays)
    return _serialize(spec, writer, batch, metadata or {})


def _serialize(spec: OpSpec, writer: _Writer, batch: int, metadata: Mapping[str, str]) -> bytes:
    graph = helper.make_graph(
        writer.nodes,
        "dshrink",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [batch, *spec.input_shape])],
        [
            helper.make_tensor_value_info(
                OUTPUT_NAME, TensorProto.FLOAT, [batch, *spec.output_shape]
            )
        ],
        writer.initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="dshrink",
    )
    helper.set_model_props(model, dict(metadata))
    data: bytes = model.SerializeToString()
    return data
