"""Files in fp16 made fp32: the file that is written in fp32 at once, and every place of a type."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from latency_tables.onnx_file import PRECISIONS, write_onnx
from latency_tables.onnx_types import widen
from latency_tables.opspec import Activation, Add, Conv, GlobalPool, Linear, Op, OpSpec

node = helper.make_node


def conv(source: int, channels: int, groups: int = 1) -> Conv:
    return Conv(
        inputs=(source,), out_channels=channels, kernel=(3, 3), pads=(1,) * 4, groups=groups
    )


OPS: tuple[Op, ...] = (
    conv(0, 4),
    Activation(inputs=(1,), function="relu6"),
    conv(2, 4, groups=4),
    Add(inputs=(3, 2)),
    GlobalPool(inputs=(4,)),
    Linear(inputs=(5,), out_features=5),
)
SPEC = OpSpec(input_shape=(3, 6, 6), ops=OPS)


def weights() -> list[tuple[npt.NDArray[np.floating], ...]]:
    """Numbers that halves hold."""
    rng = np.random.default_rng(0)
    return [
        tuple(rng.standard_normal(shape).astype(np.float16).astype(np.float32) for shape in shapes)
        for shapes in SPEC.array_shapes
    ]


def written(precision: str) -> onnx.ModelProto:
    found: onnx.ModelProto = onnx.ModelProto.FromString(
        write_onnx(SPEC, weights(), precision=precision)
    )
    return found


def test_an_fp16_file_becomes_the_file_that_is_written_in_fp32() -> None:
    half, single = written("fp16"), written("fp32")
    assert half != single
    assert widen(half) == len(half.graph.initializer) + 2
    assert half == single


@pytest.mark.parametrize("precision", [one for one in PRECISIONS if one != "fp16"])
def test_a_file_without_halves_stays_as_it_is(precision: str) -> None:
    model = written(precision)
    assert widen(model) == 0
    assert model == written(precision)


def halves(name: str, *values: float) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.float16), name)


def everywhere() -> onnx.ModelProto:
    """A model with halves in each place that can hold them."""
    half = TensorProto.FLOAT16
    branch = helper.make_graph(
        [node("Add", ["x", "inner"], ["of_branch"])],
        "branch",
        [],
        [helper.make_tensor_value_info("of_branch", half, [2])],
        [halves("inner", 0.5, 0.25)],
    )
    doubled = helper.make_function(
        "own", "Doubled", ["a"], ["b"],
        [
            node("Constant", [], ["two"], value=halves("two", 2)),
            node("Mul", ["a", "two"], ["twice"]),
            node("Cast", ["twice"], ["single"], to=TensorProto.FLOAT),
            node("Cast", ["single"], ["b"], to=half),
        ],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch),
        node("Doubled", ["chosen"], ["double"], domain="own"),
        node("ConstantOfShape", ["shape"], ["filled"], value=halves("", 1)),
        node("Add", ["double", "filled"], ["sum"]),
        node("EyeLike", ["square"], ["eye"], dtype=half),
        node("MatMul", ["sum", "eye"], ["product"]),
        node("Clip", ["product", "low", "high"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", half, [2])],
        [helper.make_tensor_value_info("y", half, [2])],
        [
            halves("low", -1),
            halves("high", 6),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array([2], np.int64), "shape"),
            numpy_helper.from_array(np.zeros((2, 2), np.int32), "square"),
        ],
        value_info=[helper.make_tensor_value_info("product", half, [2])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=[doubled], ir_version=8)


def run(model: onnx.ModelProto, image: list[float], element: type) -> list[float]:
    (result,) = ReferenceEvaluator(model).run(None, {"x": np.array(image, element)})
    assert result.dtype == element
    return [float(one) for one in result]


def test_no_place_of_a_type_is_left_out_and_the_result_is_the_same() -> None:
    model = everywhere()
    before = run(model, [1.0, 3.5], np.float16)
    assert before == [4.0, 6.0]
    widen(model)
    onnx.checker.check_model(model, full_check=True)
    said = str(model)
    assert f"data_type: {TensorProto.FLOAT16}\n" not in said
    assert f"elem_type: {TensorProto.FLOAT16}\n" not in said
    assert f"i: {TensorProto.FLOAT16}\n" not in said
    assert run(model, [1.0, 3.5], np.float32) == before


def test_a_number_that_is_no_type_is_left_alone() -> None:
    model = everywhere()
    model.graph.node.append(node("Flatten", ["y"], ["z"], axis=int(TensorProto.FLOAT16)))
    widen(model)
    assert model.graph.node[-1].attribute[0].i == TensorProto.FLOAT16
