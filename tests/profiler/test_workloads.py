"""The files that a runtime measures, in each precision, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from latency_tables.onnx_file import IR_VERSION, OPSET, PRECISIONS, write_onnx
from latency_tables.opspec import (
    ACTIVATIONS,
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
    OpSpec,
    OpSpecError,
    Pool,
)
from profiler.workloads import build_onnx


def conv(tensor: int, out: int, kernel: int = 3, groups: int = 1) -> Conv:
    """A convolution that keeps the size."""
    return Conv(
        inputs=(tensor,),
        out_channels=out,
        kernel=(kernel, kernel),
        pads=(kernel // 2,) * 4,
        groups=groups,
    )


def relu(tensor: int, function: str = "relu") -> Activation:
    return Activation(inputs=(tensor,), function=function)


def spec_of(*ops: Op, channels: int = 8) -> OpSpec:
    return OpSpec(input_shape=(channels, 10, 10), ops=ops)


BLOCK = spec_of(
    conv(0, 24, 1),
    relu(1, "relu6"),
    conv(2, 24, 3, groups=24),
    relu(3, "relu6"),
    conv(4, 8, 1),
    Add(inputs=(0, 5)),
)
NETWORK = spec_of(
    conv(0, 16),
    relu(1),
    Pool(inputs=(2,), function="max", kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1)),
    conv(3, 16),
    relu(4),
    conv(5, 16),
    Add(inputs=(3, 6)),
    relu(7),
    GlobalPool(inputs=(8,)),
    Flatten(inputs=(9,)),
    Linear(inputs=(10,), out_features=10),
)
MANY = {
    "block": BLOCK,
    "network": NETWORK,
    "grouped": spec_of(conv(0, 16, 5, groups=4)),
    "bias map and norm": spec_of(conv(0, 8), BiasMap(inputs=(1,)), BatchNorm(inputs=(2,))),
    "two convolutions added": spec_of(conv(0, 8), conv(0, 8, 1), Add(inputs=(1, 2)), relu(3)),
    "gate": spec_of(GlobalPool(inputs=(0,)), conv(1, 8, 1), relu(2, "sigmoid"), Mul(inputs=(0, 3))),
    "concat": spec_of(conv(0, 4), Concat(inputs=(0, 1)), conv(2, 6)),
    "average": spec_of(Pool(inputs=(0,), function="average", kernel=(2, 2), stride=(2, 2))),
} | {function: spec_of(conv(0, 8), relu(1, function)) for function in ACTIVATIONS}


def run(content: bytes, image: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    element = np.float16 if wanted.type == "tensor(float16)" else np.float32
    (result,) = session.run(None, {wanted.name: image.astype(element)})
    found: npt.NDArray[np.float32] = result.astype(np.float32)
    return found


def image_for(spec: OpSpec, batch: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((batch, *spec.input_shape), dtype=np.float32)


def correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def op_types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_the_bytes_of_an_fp32_file_are_those_that_existing_tables_were_measured_with() -> None:
    ops = (
        conv(0, 6),
        relu(1, "relu6"),
        conv(2, 6, groups=6),
        Add(inputs=(1, 3)),
        relu(4, "gelu"),
        BatchNorm(inputs=(5,)),
        GlobalPool(inputs=(6,)),
        Flatten(inputs=(7,)),
        Linear(inputs=(8,), out_features=4),
    )
    spec = OpSpec(input_shape=(3, 5, 5), ops=ops)
    weights = [
        tuple(np.linspace(-1, 1, math.prod(shape)).reshape(shape) for shape in shapes)
        for shapes in spec.array_shapes
    ]
    content = write_onnx(spec, weights, batch=2, metadata={"a": "b"})
    digest = "917276532325ae31be31a34ce1cb45d396c955ecb9d80fb4590f973fbf805f3f"
    assert hashlib.sha256(content).hexdigest() == digest
    assert build_onnx(spec, precision="fp32") == build_onnx(spec)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spec", MANY.values(), ids=MANY)
def test_a_file_of_each_precision_is_valid_and_of_the_opset_that_we_say(
    spec: OpSpec, precision: str
) -> None:
    model = onnx.load_from_string(build_onnx(spec, batch=2, precision=precision))
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("spec", MANY.values(), ids=MANY)
def test_every_tensor_of_an_fp16_file_is_half_and_it_computes_what_fp32_does(spec: OpSpec) -> None:
    content = build_onnx(spec, batch=2, precision="fp16")
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    assert {one.type.tensor_type.elem_type for one in values} == {TensorProto.FLOAT16}
    assert {one.data_type for one in model.graph.initializer} <= {TensorProto.FLOAT16}
    image = image_for(spec)
    expected = run(build_onnx(spec, batch=2), image)
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(run(content, image), expected, atol=0.02 * scale)


@pytest.mark.parametrize("spec", MANY.values(), ids=MANY)
def test_an_int8_file_computes_nearly_what_fp32_does(spec: OpSpec) -> None:
    image = image_for(spec)
    expected = run(build_onnx(spec, batch=2), image)
    found = run(build_onnx(spec, batch=2, precision="int8"), image)
    assert correlation(found, expected) > 0.98


def test_an_int8_file_quantizes_weights_a_channel_and_activations_a_tensor() -> None:
    model = onnx.load_from_string(build_onnx(NETWORK, precision="int8"))
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weighted) == 4
    for node in weighted:
        x, weight = (makers[name] for name in node.input[:2])
        assert x.op_type == weight.op_type == "DequantizeLinear"
        assert constants[x.input[1]].shape == ()
        kernel = constants[makers[weight.input[0]].input[0]]
        scale = constants[weight.input[1]]
        assert kernel.dtype == np.float32  # TensorRT 8 quantizes floats itself
        largest = np.abs(kernel.reshape(len(kernel), -1)).max(axis=1)
        np.testing.assert_allclose(scale * 127, largest, rtol=1e-6)
        assert [one.i for one in weight.attribute if one.name == "axis"] == [0]
        assert constants[node.input[2]].dtype == np.float32
    zeros = [value for name, value in constants.items() if name.endswith("q_zero")]
    assert zeros and all(one.dtype == np.int8 and not one.any() for one in zeros)


def test_a_channel_of_zeros_still_has_a_scale() -> None:
    spec = spec_of(conv(0, 4))
    weights = [(np.zeros((4, 8, 3, 3)), np.ones(4))]
    found = run(write_onnx(spec, weights, precision="int8"), image_for(spec, batch=1))
    np.testing.assert_array_equal(found, np.ones((1, 4, 10, 10)))


@pytest.mark.parametrize(
    ("spec", "quantized"),
    [(BLOCK, ["image.dq", "t5"]), (MANY["two convolutions added"], ["t1.dq", "t2"])],
)
def test_of_a_residual_addition_all_but_the_last_convolution_is_quantized(
    spec: OpSpec, quantized: list[str]
) -> None:
    model = onnx.load_from_string(build_onnx(spec, precision="int8"))
    (add,) = (node for node in model.graph.node if node.op_type == "Add")
    assert list(add.input) == quantized


def test_a_tensor_that_is_read_twice_is_quantized_once() -> None:
    model = onnx.load_from_string(build_onnx(BLOCK, precision="int8"))
    readers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert [n.input[0] for n in readers].count("image") == 1
    # Three weights, three inputs of convolutions, of which the first is the residual too.
    assert len(readers) == 6


def test_onnx_runtime_makes_int8_convolutions_of_the_pairs(tmp_path: Path) -> None:
    """Of those without a bias: it wants biases quantized, which TensorRT does not take."""
    model = onnx.load_from_string(build_onnx(spec_of(conv(0, 16), conv(1, 8)), precision="int8"))
    for node in model.graph.node:
        if node.op_type == "Conv":
            del node.input[2]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the file fits this machine alone
    content = model.SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    # The last one's result is not quantized again, so it stays a float convolution.
    assert [one for one in op_types(optimized) if "Conv" in one] == ["QLinearConv", "Conv"]


def test_an_unknown_precision_is_refused_by_name() -> None:
    with pytest.raises(OpSpecError, match=r"'bf16'.*fp32, fp16, int8"):
        build_onnx(BLOCK, precision="bf16")


def test_the_weights_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    assert build_onnx(BLOCK, seed=1) == build_onnx(BLOCK, seed=1) != build_onnx(BLOCK, seed=2)
