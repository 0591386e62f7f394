"""An ``OpSpec`` with weights as the bytes of an ONNX file, written without any exporter.

One writer serves the pieces that a device measures and the networks that a user ships, so what was
measured is what is shipped. Opset 13 and IR 7 are the oldest that every runtime we drive reads
(TensorRT 8.2, ONNX Runtime 1.10); nodes from a newer file keep their opset. Shapes are static, pads
stay inside the convolutions.

A runtime with an option for its precision gets an fp32 file. TensorRT 11 takes the types from the
file, so fp16 is a file whose every tensor is FLOAT16, and int8 an fp32 file with Q/DQ nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from latency_tables.onnx_fragment import bound_nodes
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

OPSET = 13
IR_VERSION = 7
INPUT_NAME = "image"
OUTPUT_NAME = "result"

#: What a file can be typed as.
PRECISIONS = ("fp32", "fp16", "int8")
#: Quantized activations reach so far: signals of size 1, as He-scaled weights give, never saturate.
ACTIVATION_RANGE = 8.0
INT8_MAX = 127

#: The arrays of one operator: convolution and linear (weight, and bias if any), bias map (map,),
#: batch norm (scale, shift); empty for the rest.
Arrays = tuple[npt.NDArray[np.floating], ...]


class NotRepresentableError(OpSpecError):
    """An operator of the network has neither words in an OpSpec nor nodes of its own."""


@dataclass(slots=True)
class _Writer:
    """Collects nodes and initializers; tensor k of the spec is named ``t<k>``."""

    precision: str
    batch: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    #: Float tensor -> the same after a Q/DQ pair; each tensor is quantized once.
    quantized: dict[str, str] = field(default_factory=dict)
    opset: int = OPSET

    def constant(self, array: npt.ArrayLike, name: str) -> str:
        element = np.float16 if self.precision == "fp16" else np.float32
        return self._initializer(np.ascontiguousarray(array, dtype=element), name)

    def activation(self, name: str) -> str:
        """The tensor as a convolution or linear layer reads it: through Q/DQ in an int8 file."""
        if self.precision != "int8":
            return name
        if name not in self.quantized:
            scale = np.float32(ACTIVATION_RANGE / INT8_MAX)
            self.quantized[name] = self._quantize(name, np.asarray(scale))
        return self.quantized[name]

    def kernel(self, array: npt.NDArray[np.floating], name: str, *, axis: int = 0) -> str:
        """The weights of a convolution or linear layer, with a scale an output channel in int8.

        Output channels are along ``axis``.
        """
        weight = self.constant(array, name)
        if self.precision != "int8":
            return weight
        others = tuple(at for at in range(array.ndim) if at != axis)
        largest = np.abs(array).max(axis=others)
        scale = np.where(largest > 0, largest, 1.0) / INT8_MAX
        return self._quantize(weight, scale.astype(np.float32), axis=axis)

    def affine(self, x: str, arrays: Arrays, output: str) -> list[str]:
        """The inputs of a convolution or linear layer."""
        biases = (self.constant(bias, f"{output}.bias") for bias in arrays[1:])
        return [self.activation(x), self.kernel(arrays[0], f"{output}.weight"), *biases]

    def _quantize(self, name: str, scale: npt.NDArray[np.float32], **axis: int) -> str:
        constants = [
            self._initializer(scale, f"{name}.q_scale"),
            self._initializer(np.zeros(scale.shape, np.int8), f"{name}.q_zero"),
        ]
        self.node("QuantizeLinear", [name, *constants], f"{name}.q", **axis)
        return self.node("DequantizeLinear", [f"{name}.q", *constants], f"{name}.dq", **axis)

    def _initializer(self, value: npt.NDArray[np.generic], name: str) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def is_from_conv(self, name: str) -> bool:
        return any(node.op_type == "Conv" and name in node.output for node in self.nodes)

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        node = helper.make_node(op_type, list(inputs), [output], name=f"{output}/{op_type}")
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self.nodes.append(node)
        return output


def _batch_norm(writer: _Writer, x: str, output: str, arrays: Arrays) -> None:
    scale, shift = arrays
    writer.node(
        "BatchNormalization",
        [
            x,
            writer.constant(scale, f"{output}.scale"),
            writer.constant(shift, f"{output}.shift"),
            writer.constant(np.zeros_like(scale), f"{output}.mean"),
            writer.constant(np.ones_like(scale), f"{output}.variance"),
        ],
        output,
        epsilon=0.0,
    )


def _activation(writer: _Writer, function: str, x: str, output: str) -> None:
    match function:
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
            scaled = writer.node("Div", [x, root], f"{output}.scaled")
            erf = writer.node("Erf", [scaled], f"{output}.erf")
            one = writer.constant(1.0, f"{output}.one")
            half = writer.constant(0.5, f"{output}.half")
            total = writer.node("Add", [erf, one], f"{output}.sum")
            gate = writer.node("Mul", [total, half], f"{output}.gate")
            writer.node("Mul", [x, gate], output)


def _linear(writer: _Writer, x: str, output: str, arrays: Arrays, *, flat: bool) -> None:
    if flat:
        writer.node("Gemm", writer.affine(x, arrays, output), output, transB=1)
        return
    # Gemm takes matrices only; a weight a column of MatMul is an output feature.
    kernel = writer.kernel(np.ascontiguousarray(arrays[0].T), f"{output}.weight", axis=1)
    if len(arrays) == 1:
        writer.node("MatMul", [writer.activation(x), kernel], output)
        return
    product = writer.node("MatMul", [writer.activation(x), kernel], f"{output}.product")
    writer.node("Add", [product, writer.constant(arrays[1], f"{output}.bias")], output)


def _opaque(writer: _Writer, op: Opaque, inputs: list[str], output: str, arrays: Arrays) -> None:
    if not op.graph:
        raise NotRepresentableError(
            f"operator {op.operator!r} cannot be written to ONNX: {op.reason or 'no nodes known'}"
        )
    names = [writer.constant(array, f"{output}.w{at}") for at, array in enumerate(arrays)]
    nodes, constants = bound_nodes(
        op.graph,
        inputs=inputs,
        weights=names,
        output=output,
        batch=writer.batch,
        half=writer.precision == "fp16",
    )
    writer.nodes += nodes
    writer.initializers += constants
    writer.opset = max(writer.opset, op.opset)


def _pool(writer: _Writer, op: Pool, inputs: list[str], output: str) -> None:
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


def _add(writer: _Writer, op: Add, inputs: list[str], output: str) -> None:
    # TensorRT fuses a residual addition into the int8 convolution before it where the other operand
    # is quantized, and the convolution's own output is not (Developer Guide, "Q/DQ Layer-Placement
    # Recommendations"). Of two convolutions it fuses the later.
    named = list(zip(op.inputs, inputs, strict=True))
    fused = max((tensor for tensor, name in named if writer.is_from_conv(name)), default=None)
    operands = [name if tensor == fused else writer.activation(name) for tensor, name in named]
    writer.node("Add", operands, output)


#: Operators without parameters of their own.
_PLAIN: Mapping[type[Op], tuple[str, Mapping[str, int]]] = {
    Mul: ("Mul", {}),
    Concat: ("Concat", {"axis": 1}),
    GlobalPool: ("GlobalAveragePool", {}),
    Flatten: ("Flatten", {"axis": 1}),
}


def _emit(
    writer: _Writer, op: Op, shape: Shape, inputs: list[str], output: str, arrays: Arrays
) -> None:
    """Write the nodes of one operator; ``shape`` is that of its first input."""
    match op:
        case Conv():
            writer.node(
                "Conv",
                writer.affine(inputs[0], arrays, output),
                output,
                kernel_shape=list(op.kernel),
                strides=list(op.stride),
                pads=list(op.pads),
                dilations=list(op.dilation),
                group=op.groups,
            )
        case Linear():
            _linear(writer, inputs[0], output, arrays, flat=len(shape) == 1)
        case BiasMap():
            added = writer.constant(arrays[0][None], f"{output}.map")
            writer.node("Add", [inputs[0], added], output)
        case BatchNorm():
            _batch_norm(writer, inputs[0], output, arrays)
        case Activation():
            _activation(writer, op.function, inputs[0], output)
        case Add():
            _add(writer, op, inputs, output)
        case Pool():
            _pool(writer, op, inputs, output)
        case Opaque():
            _opaque(writer, op, inputs, output, arrays)
        case _:
            op_type, attributes = _PLAIN[type(op)]
            writer.node(op_type, inputs, output, **attributes)


def write_onnx(
    spec: OpSpec,
    weights: Sequence[Arrays],
    *,
    batch: int = 1,
    metadata: Mapping[str, str] | None = None,
    precision: str = "fp32",
) -> bytes:
    """The serialized ONNX model of ``spec`` with one tuple of arrays an operator.

    Arrays are cast to float32, for ``precision="fp16"`` with everything else to float16. An int8
    file is the fp32 file with symmetric Q/DQ pairs on what convolutions and linear layers read (a
    scale a tensor), on their weights (a scale an output channel; kept as floats, for TensorRT 8
    reads no others), and on the residual operand of additions; biases stay floats. Its activation
    scales are one constant: right for measuring random weights, not for the answers of a trained
    network. ``metadata`` becomes the file's metadata properties. Raises NotRepresentableError for
    an opaque operator without nodes, OpSpecError for arrays of the wrong shapes or an unknown
    precision.
    """
    if precision not in PRECISIONS:
        raise OpSpecError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if len(weights) != len(spec.ops):
        raise OpSpecError(f"{len(spec.ops)} operators need as many entries of weights")
    names = [INPUT_NAME, *(f"t{n}" for n in range(1, len(spec.ops))), OUTPUT_NAME]
    writer = _Writer(precision, batch)
    for number, (op, arrays) in enumerate(zip(spec.ops, weights, strict=True)):
        needed, given = spec.array_shapes[number], tuple(array.shape for array in arrays)
        if given != needed:
            raise OpSpecError(
                f"operator {number} ({op.kind}) needs arrays of {needed}, got {given}"
            )
        inputs = [names[tensor] for tensor in op.inputs]
        _emit(writer, op, spec.shapes[op.inputs[0]], inputs, names[number + 1], arrays)
    return _serialize(spec, writer, metadata or {})


def _serialize(spec: OpSpec, writer: _Writer, metadata: Mapping[str, str]) -> bytes:
    element = TensorProto.FLOAT16 if writer.precision == "fp16" else TensorProto.FLOAT
    graph = helper.make_graph(
        writer.nodes,
        "dshrink",
        [helper.make_tensor_value_info(INPUT_NAME, element, [writer.batch, *spec.input_shape])],
        [helper.make_tensor_value_info(OUTPUT_NAME, element, [writer.batch, *spec.output_shape])],
        writer.initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", writer.opset)],
        ir_version=IR_VERSION,
        producer_name="dshrink",
    )
    helper.set_model_props(model, dict(metadata))
    data: bytes = model.SerializeToString()
    return data
