"""What the fake parser understands of an ONNX file, and the layers that are built from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, shape_inference

#: ONNX operator -> type of TensorRT's layer.
LAYERS = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Relu": "ACTIVATION",
    "Clip": "ACTIVATION",
    "Sigmoid": "ACTIVATION",
    "HardSigmoid": "ACTIVATION",
    "Add": "ELEMENTWISE",
    "Mul": "ELEMENTWISE",
    "MaxPool": "POOLING",
    "AveragePool": "POOLING",
    "GlobalAveragePool": "REDUCE",
    "BatchNormalization": "SCALE",
    "Flatten": "SHUFFLE",
    "Concat": "CONCATENATION",
    "Identity": "IDENTITY",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
}
ELEMENTS = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
ITEM_BYTES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1}
#: What the inspector calls a type, in the versions' ways.
SHOWN = {"fp32": "Float", "tf32": "Float", "fp16": "Half", "int8": "Int8"}
FORMATS_8 = {
    "fp32": "Row major linear FP32",
    "tf32": "Channel major FP32 format where channel % 4 == 0",
    "fp16": "Channel major FP16 format where channel % 8 == 0",
    "int8": "Thirty-two wide channel vectorized row major Int8 format",
}
KERNELS = {
    "fp32": "implicit_convolve_sgemm",
    "tf32": "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16",
    "fp16": "sm75_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x64",
    "int8": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32",
}
#: Multiply-accumulates a ns.
SPEED = {"fp32": 5_000, "tf32": 20_000, "fp16": 40_000, "int8": 80_000}
LAUNCH_NS = 1_500
BYTES_PER_NS = 500


class ParseError(Exception):
    """What the parser says of a file: an error of ``ErrorCode`` at a node (-1: at none)."""

    def __init__(self, code: str, node: int, text: str, name: str = "") -> None:
        super().__init__(text)
        self.code, self.node, self.text, self.name = code, node, text, name


@dataclass(frozen=True)
class TensorInfo:
    name: str
    element: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.element]


@dataclass
class Parsed:
    """A file as the fake understands it."""

    nodes: list[Any]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, Any] = field(default_factory=dict)
    content: bytes = b""

    @property
    def weight_bytes(self) -> int:
        return sum(len(one.SerializeToString()) for one in self.constants.values())


@dataclass
class Kernel:
    """A layer of an engine."""

    name: str
    kind: str
    precision: str
    tactic: str
    cost_ns: int
    weights: str = ""
    parameters: str = ""


def parse(content: bytes) -> Parsed:
    """Read a file, or raise a ``ParseError``."""
    try:
        model = onnx.load_from_string(content)
        if content:  # an empty file is a network of nothing to both real parsers, 8.4's and 11's
            onnx.checker.check_model(model)
    except Exception as error:
        raise ParseError(
            "MODEL_DESERIALIZE_FAILED", -1, f"Failed to parse the ONNX model: {error}"
        ) from error
    for number, node in enumerate(model.graph.node):
        if node.op_type not in LAYERS:
            raise ParseError(
                "UNSUPPORTED_NODE",
                number,
                f"No importer registered for op: {node.op_type}. Attempting to import as plugin.",
                node.name,
            )
    inferred = shape_inference.infer_shapes(model).graph
    constants = {one.name: one for one in model.graph.initializer}
    known = [*inferred.value_info, *inferred.input, *inferred.output]
    return Parsed(
        nodes=list(model.graph.node),
        inputs=[_info(one) for one in model.graph.input],
        outputs=[_info(one) for one in model.graph.output],
        shapes={one.name: _info(one).shape for one in known},
        constants=constants,
        content=content,
    )


def compile_layers(parsed: Parsed, precision_of: Any, has_reformat: bool) -> list[Kernel]:
    """Fuse activations into what multiplies before them, and give each kernel a cost."""
    kernels: list[Kernel] = []
    made_by: dict[str, Kernel] = {}
    for node in parsed.nodes:
        layer = LAYERS[node.op_type]
        before = made_by.get(node.input[0])
        if layer in ("QUANTIZE", "DEQUANTIZE"):
            if before is not None:
                made_by[node.output[0]] = before
            continue
        if layer == "ACTIVATION" and before is not None and before.parameters:
            before.name += f" + {node.name}"
            made_by[node.output[0]] = before
            continue
        kernel = _kernel(parsed, node, layer, precision_of(node))
        kernels.append(kernel)
        made_by[node.output[0]] = kernel
    if has_reformat and kernels:
        name = f"Reformatting CopyNode for Input Tensor 0 to {kernels[0].name}"
        cost = LAUNCH_NS + parsed.inputs[0].bytes // BYTES_PER_NS
        kernels.insert(0, Kernel(name, "Reformat", "", "0x00000000000003e8", cost))
    return kernels


def inspector_layer(kernel: Kernel, major: int) -> dict[str, Any]:
    """A layer as the inspector of a version tells it."""
    tensor: dict[str, Any] = {"Name": "a tensor", "Location": "Device", "Dimensions": [1]}
    shown = kernel.precision or "fp32"
    if major < 10:
        tensor["Format/Datatype"] = FORMATS_8[shown]
    elif major == 10:
        tensor["Format/Datatype"] = SHOWN[shown]
    else:
        tensor.update(Format="Row major linear format (kLINEAR)", DataType=SHOWN[shown])
    found: dict[str, Any] = {"Name": kernel.name, "LayerType": kernel.kind}
    found.update(Inputs=[tensor], Outputs=[dict(tensor)])
    if kernel.parameters:
        found["ParameterType"] = kernel.parameters
    if kernel.weights:
        found["Weights"] = {"Type": kernel.weights, "Count": 9}
    if kernel.kind == "Reformat":
        found.update(ParameterType="Reformat", Origin="REFORMAT", TacticValue=kernel.tactic)
    else:
        found.update(TacticName=kernel.tactic, TacticValue="0x11bde0e1d9f2f35d")
    return found


def as_json(kernels: list[Kernel]) -> list[dict[str, Any]]:
    return [asdict(one) for one in kernels]


def _kernel(parsed: Parsed, node: Any, layer: str, precision: str) -> Kernel:
    out = math.prod(parsed.shapes.get(node.output[0], (1,)))
    if layer not in ("CONVOLUTION", "MATRIX_MULTIPLY", "DECONVOLUTION"):
        cost = LAUNCH_NS + out * 8 // BYTES_PER_NS
        kinds = {"POOLING": "CaskPooling", "REDUCE": "Reduce", "SHUFFLE": "NoOp"}
        kind = kinds.get(layer, "PointWiseV2")
        # fp32 data that is not multiplied is not rounded to TF32, and int8 ends at its Q/DQ pair.
        kept = {"tf32": "fp32", "int8": "fp32"}.get(precision, precision)
        return Kernel(node.name, kind, kept, f"pooling_or_pointwise_{kept}", cost)
    weight = _origin(parsed, node.input[1])
    per_output = math.prod(weight.dims) // weight.dims[0]
    cost = LAUNCH_NS + out * per_output // SPEED[precision]
    kind = "CaskConvolution" if layer == "CONVOLUTION" else "CaskGemmMatrixMultiply"
    parameters = "Convolution" if layer == "CONVOLUTION" else "MatrixMultiply"
    weights = SHOWN[precision] if layer == "CONVOLUTION" else ""
    return Kernel(node.name, kind, precision, KERNELS[precision], cost, weights, parameters)


def _origin(parsed: Parsed, name: str) -> Any:
    """The initializer that a weight comes from, behind its Q/DQ pair."""
    while name not in parsed.constants:
        name = next(node.input[0] for node in parsed.nodes if name in node.output)
    return parsed.constants[name]


def _info(value: Any) -> TensorInfo:
    tensor = value.type.tensor_type
    shape = tuple(one.dim_value if one.HasField("dim_value") else -1 for one in tensor.shape.dim)
    return TensorInfo(value.name, ELEMENTS.get(tensor.elem_type, "FLOAT"), shape)
