"""What a user reads when TensorRT refuses a file or an engine: one line, with what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from real.workers import Bindings, Parser

if TYPE_CHECKING:
    from real.environment import Environment

pytestmark = pytest.mark.tensorrt

CHECK = "check the file with onnx.checker, and its operators and opset"


def node(operator: str, *inputs: str, name: str = "", **attributes: object) -> NodeProto:
    return helper.make_node(operator, ["image", *inputs], ["result"], name=name, **attributes)


def content(
    *nodes: NodeProto,
    shape: Sequence[object] = (1, 3, 8, 8),
    weights: Sequence[int] = (),
    domain: str = "",
) -> bytes:
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info("image", floats, shape)],
        [helper.make_tensor_value_info("result", floats, None)],
        [numpy_helper.from_array(np.ones(weights, np.float32), "weights")] if weights else [],
    )
    opsets = [helper.make_opsetid("", 13)] + [helper.make_opsetid(domain, 1)] * bool(domain)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=7)
    written: bytes = model.SerializeToString()
    return written


CONVOLUTION = content(node("Conv", "weights", name="a/Conv"), weights=(4, 3, 3, 3))
REFUSED = {
    "garbage": (
        b"\x80 no model at all" * 20,
        "Failed to parse the ONNX model. [MODEL_DESERIALIZE_FAILED]",
        CHECK,
    ),
    "cut": (
        CONVOLUTION[: len(CONVOLUTION) // 2],
        "Failed to parse the ONNX model. [MODEL_DESERIALIZE_FAILED]",
        CHECK,
    ),
    "empty": (b"", "holds no network: it has no outputs", "export the model again"),
    "unknown_operator": (
        content(node("Nonsense", name="a/Nonsense")),
        'node 0 (Nonsense a/Nonsense): creator && "Plugin not found',
        CHECK,
    ),
    "unknown_operator_without_a_name": (
        content(node("Fancy", domain="com.example"), domain="com.example"),
        "node 0 (Fancy): ",
        CHECK,
    ),
    "wrong_weights": (
        content(node("Conv", "weights", name="a/Conv"), weights=(4, 5, 3, 3)),
        "node 0 (Conv a/Conv): Assertion failed: (nchan == -1 || kernelWeights.shape.d[1] * "
        "ngroup == nchan): Kernel weight dimension failed to broadcast to input. [INVALID_NODE]",
        CHECK,
    ),
    "no_weights": (
        content(node("Conv", "weights", name="a/Conv")),
        "node 0 (Conv a/Conv): ",
        CHECK,
    ),
    "kernel_larger_than_the_image": (
        content(node("Conv", "weights", name="a/Conv"), weights=(4, 3, 9, 9)),
        "image size is smaller than filter size",
        CHECK,
    ),
    "dynamic_shape": (
        content(node("Conv", "weights"), shape=("n", 3, 8, 8), weights=(4, 3, 3, 3)),
        "input 'image' has the shape [-1, 3, 8, 8]: only fixed sizes above 0 can be measured",
        "export the model with static shapes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_tensorrt_cannot_take_is_a_bad_model_in_one_line(
    bindings: Bindings, tmp_path: Path, name: str
) -> None:
    written, message, advice = REFUSED[name]
    file = tmp_path / f"{name}.onnx"
    file.write_bytes(written)
    found = bindings.build(file)
    assert found["kind"] == "bad_model"
    assert str(file) in found["message"] and message in found["message"]
    assert advice in found["advice"]
    assert "\n" not in found["message"] + found["advice"]


@pytest.mark.parametrize(
    ("precision", "message", "advice"),
    [
        ("fp16", "input 'image' is a FLOAT", "write the file with FLOAT16 tensors"),
        ("int8", "has no QuantizeLinear nodes", "write the file with quantize and dequantize"),
    ],
)
def test_a_file_in_another_precision_is_refused_before_it_is_built(
    bindings: Bindings, tmp_path: Path, precision: str, message: str, advice: str
) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(CONVOLUTION)
    found = bindings.build(file, precision)
    assert found["kind"] == "bad_model"
    assert message in found["message"] and advice in found["advice"]
    assert "\n" not in found["message"] + found["advice"]


ENGINES = {
    "whole": "CUDA driver version is insufficient for CUDA runtime version",
    "cut": "plan.header.size == blobSize failed",
    "garbage": "Check that the engine was not created using safety runtime",
}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_not_taken_is_told_with_tensorrt_s_reason(
    bindings: Bindings, tmp_path: Path, name: str
) -> None:
    """Without a GPU no engine is taken; of a damaged one that is not the first reason."""
    file, engine = tmp_path / "network.onnx", tmp_path / "network.engine"
    file.write_bytes(CONVOLUTION)
    assert "message" not in bindings.build(file, plan=str(engine))
    if name == "cut":
        engine.write_bytes(engine.read_bytes()[:-100])
    elif name == "garbage":
        engine.write_bytes(b"no engine at all" * 20)
    found = bindings.load(engine)
    assert found["kind"] == "runtime_error"
    assert "does not take the engine: " in found["message"] and ENGINES[name] in found["message"]
    assert "builds it anew" in found["advice"] and "driver" in found["advice"]
    assert "\n" not in found["message"] + found["advice"]


@pytest.mark.parametrize("name", ["garbage", "cut", "unknown_operator", "wrong_weights"])
def test_the_parser_of_8_4_refuses_the_same_and_numbers_the_node(
    parser: Parser, tmp_path: Path, name: str
) -> None:
    file = tmp_path / f"{name}.onnx"
    file.write_bytes(REFUSED[name][0])
    (error,) = parser.parse(file)["errors"]
    assert error["node"] == (-1 if name in ("garbage", "cut") else 0)


def test_a_call_that_is_not_recorded_is_named(
    part: Callable[[str], Environment], tmp_path: Path
) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(content(node("Softmax", axis=1)))
    with (
        Parser(part("recorder"), tmp_path / "said.log") as parser,
        pytest.raises(AssertionError, match=r"called function \d+ of the network"),
    ):
        parser.parse(file)
