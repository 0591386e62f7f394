"""The PyTorch runtime's operators, one by one and in networks, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from devices.agent.checks import RequestError
from devices.agent.runtimes.pytorch import runtime as pytorch
from dshrink.network.lowering import lower
from dshrink.network.tracing import import_timm, trace
from latency_tables.onnx_file import write_onnx

MAP = (2, 6, 5, 4)
RAMP = np.arange(6, dtype=np.float32).reshape(6, 1, 1) / 6


@pytest.fixture
def runtime() -> Iterator[pytorch.PyTorch]:
    """The runtime; what it sets for the whole process is put back."""
    threads = torch.get_num_threads()
    made = pytorch.PyTorch()
    made.load()
    yield made
    torch.set_num_threads(threads)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Case:
    """Nodes that make ``y`` (or the names in ``results``) of ``x`` and constants.

    A node is (operator, inputs, outputs, attributes); names are separated by spaces, and ``-`` is
    an input that is left out.
    """

    def __init__(
        self,
        *nodes: tuple[str, str, str, dict[str, Any]],
        shape: tuple[int, ...] = MAP,
        opset: int = 13,
        results: str = "y",
        sizes: tuple[int, ...] | None = None,
        **constants: np.ndarray[Any, Any],
    ) -> None:
        made = [
            helper.make_node(
                kind,
                ["" if name == "-" else name for name in inputs.split()],
                outputs.split(),
                name=f"{kind}_{number}",
                **attributes,
            )
            for number, (kind, inputs, outputs, attributes) in enumerate(nodes)
        ]
        graph = helper.make_graph(
            made,
            "case",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
                for name in results.split()
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        self.content: bytes = inferred.SerializeToString()


def one(
    kind: str,
    inputs: str = "x",
    opset: int = 13,
    shape: tuple[int, ...] = MAP,
    constants: dict[str, Any] | None = None,
    **attributes: Any,
) -> Case:
    return Case((kind, inputs, "y", attributes), opset=opset, shape=shape, **(constants or {}))


def condition(kind: str) -> Case:
    """A comparison of ``x`` chooses between it and a constant."""
    return Case(
        (kind, "x half", "c", {}),
        ("Where", "c x ramp", "y", {}),
        half=np.array(0.5, np.float32),
        ramp=RAMP,
    )


def positive(kind: str, **attributes: Any) -> Case:
    return Case(("Abs", "x", "a", {}), (kind, "a", "y", attributes))


def resize(constants: dict[str, Any], inputs: str, **attributes: Any) -> Case:
    return one("Resize", inputs, constants=constants, **attributes)


NORM = {"scale": floats(4), "shift": floats(4)}
CASES: dict[str, Case] = {
    **{
        kind: one(kind)
        for kind in (
            "Abs",
            "Ceil",
            "Celu",
            "Cos",
            "Elu",
            "Erf",
            "Exp",
            "Floor",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "Identity",
            "LeakyRelu",
            "LogSoftmax",
            "Neg",
            "Reciprocal",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceSum",
            "Relu",
            "Selu",
            "Sigmoid",
            "Sign",
            "Sin",
            "Softmax",
            "Softplus",
            "Softsign",
            "Tanh",
            "Transpose",
        )
    },
    **{kind: positive(kind) for kind in ("Log", "Sqrt")},
    **{kind: condition(kind) for kind in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{
        f"{kind} of a number and a map": one(kind, "number x", constants={"number": np.float32(2)})
        for kind in ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")
    },
    **{
        f"{kind} of a map and an array": one(kind, "x ramp", constants={"ramp": RAMP})
        for kind in ("Add", "Max", "Min", "Mul", "PRelu", "Sub")
    },
    **{
        kind: one(kind, opset=opset)
        for kind, opset in {"HardSwish": 14, "Mish": 18, "Gelu": 20}.items()
    },
    "HardSigmoid": one("HardSigmoid", alpha=1 / 6),
    "places of maxima that nobody reads": Case(
        ("MaxPool", "x", "y i", {"kernel_shape": [2, 2]}),
    ),
    "Gelu by tanh": one("Gelu", opset=20, approximate="tanh"),
    "Elu of another slope": one("Elu", alpha=0.3),
    "LeakyRelu of another slope": one("LeakyRelu", alpha=0.3),
    "Sum": one("Sum", "x x ramp", constants={"ramp": RAMP}),
    "Pow of a whole number": one("Pow", "x two", constants={"two": np.array(2, np.int64)}),
    "PRelu of one slope": one("PRelu", "x slope", constants={"slope": floats(1)}),
    "PRelu of a slope a column": one("PRelu", "x slope", constants={"slope": floats(4)}),
    "Clip from below": one("Clip", "x low", constants={"low": np.float32(-0.2)}),
    "Clip from above": one("Clip", "x - high", constants={"high": np.float32(0.2)}),
    "Clip without bounds": one("Clip"),
    "two numbers": Case(
        ("Mul", "a b", "c", {}),
        ("Sqrt", "c", "d", {}),
        ("Mul", "x d", "y", {}),
        a=np.array(2, np.float32),
        b=np.array(3, np.float32),
    ),
    "conditions": Case(
        ("Less", "x low", "a", {}),
        ("Equal", "x x", "b", {}),
        ("Not", "a", "c", {}),
        ("And", "b c", "d", {}),
        ("Or", "d mask", "e", {}),
        ("Cast", "e", "y", {"to": 1}),
        low=np.float32(0.1),
        mask=np.array([True, False, True, False]),
    ),
    "Cast to a condition": Case(
        ("Relu", "x", "a", {}), ("Cast", "a", "b", {"to": 9}), ("Cast", "b", "y", {"to": 1})
    ),
    "CumSum": one("CumSum", "x axis", constants={"axis": np.array(2, np.int64)}),
    "Softmax of channels": one("Softmax", axis=1),
    "Softmax of an old opset": one("Softmax", opset=11, axis=3),
    "means of axes": one("ReduceMean", axes=[2, 3], keepdims=0),
    "means of an axis": one("ReduceMean", axes=[-3], keepdims=1),
    "means of axes, an input": one("ReduceMean", "x axes", 18, constants={"axes": ints(1, 2)}),
    "norm of an axis": one("ReduceL2", axes=[1], keepdims=1),
    "sum of no axes": one("ReduceSum", noop_with_empty_axes=1),
    "MatMul": Case(("Transpose", "x", "t", {"perm": [0, 1, 3, 2]}), ("MatMul", "x t", "y", {})),
    "MatMul of a weight": one("MatMul", "x w", constants={"w": floats(4, 7)}),
    "Einsum": one("Einsum", "x w", constants={"w": floats(4, 3)}, equation="bchw,wk->bckh"),
    "Gemm of a computed weight": Case(
        ("Transpose", "w", "t", {"perm": [1, 0]}),
        ("Gemm", "x t b", "y", {}),
        shape=(2, 5),
        w=floats(3, 5),
        b=floats(3),
    ),
    "Gemm of one weight twice": Case(
        ("Gemm", "x w", "a", {}), ("Gemm", "a w", "y", {"transB": 1}), shape=(2, 5), w=floats(5, 3)
    ),
    "Conv of a computed weight": Case(
        ("Mul", "w two", "v", {}),
        ("Conv", "x v", "y", {"kernel_shape": [3, 3]}),
        w=floats(2, 6, 3, 3),
        two=np.float32(2),
    ),
    "Conv of sequences": one(
        "Conv", "x w", shape=(2, 6, 9), constants={"w": floats(4, 6, 3)}, pads=[0, 2], strides=[2]
    ),
    "Conv of volumes": one(
        "Conv",
        "x w",
        shape=(1, 2, 5, 6, 7),
        constants={"w": floats(3, 2, 3, 3, 3)},
        pads=[1, 0, 2, 1, 1, 2],
    ),
    "ConvTranspose": one(
        "ConvTranspose",
        "x w b",
        constants={"w": floats(6, 2, 3, 3), "b": floats(4)},
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 0],
        group=2,
    ),
    "pools of sequences": Case(
        ("MaxPool", "x", "a", {"kernel_shape": [3], "pads": [1, 0]}),
        ("AveragePool", "a", "y", {"kernel_shape": [2], "strides": [2]}),
        shape=(2, 6, 9),
    ),
    "LayerNormalization": one(
        "LayerNormalization", "x scale shift", 17, constants=NORM, epsilon=1e-3
    ),
    "LayerNormalization of two axes": one(
        "LayerNormalization", "x scale", 17, constants={"scale": floats(5, 4)}, axis=2
    ),
    "InstanceNormalization": one(
        "InstanceNormalization",
        "x scale shift",
        epsilon=1e-3,
        constants={"scale": floats(6), "shift": floats(6)},
    ),
    "groups": Case(
        ("Reshape", "x groups", "a", {}),
        ("InstanceNormalization", "a one zero", "b", {}),
        ("Reshape", "b back", "y", {}),
        groups=ints(0, 3, -1),
        back=ints(*MAP),
        one=np.ones(3, np.float32),
        zero=np.zeros(3, np.float32),
    ),
    "Transpose in an order": one("Transpose", perm=[0, 2, 3, 1]),
    "Reshape": one("Reshape", "x s", constants={"s": ints(2, -1)}),
    "Reshape that keeps sizes": one("Reshape", "x s", constants={"s": ints(0, 0, -1)}),
    "Flatten": one("Flatten", axis=2),
    "Flatten of all": one("Flatten", axis=0),
    "Flatten from behind": one("Flatten", axis=-1),
    "Squeeze": one("Squeeze", "x a", shape=(2, 1, 5, 1), constants={"a": ints(-1, 1)}),
    "Squeeze of all": one("Squeeze", shape=(2, 1, 5, 1)),
    "Squeeze by attribute": one("Squeeze", "x", 11, (2, 1, 5, 1), axes=[1]),
    "Unsqueeze": one("Unsqueeze", "x a", constants={"a": ints(3, 0)}),
    "Unsqueeze from behind": one("Unsqueeze", "x a", constants={"a": ints(-1, 1)}),
    "Expand": one("Expand", "x s", shape=(2, 1, 4), constants={"s": ints(3, 1, 5, 1)}),
    "Expand of a constant": Case(
        ("Expand", "w s", "a", {}),
        ("Concat", "a x", "y", {"axis": 1}),
        w=floats(1, 1, 5, 4),
        s=ints(2, 1, 1, 1),
    ),
    "Tile": one("Tile", "x s", constants={"s": ints(1, 2, 1, 3)}),
    "Concat of a weight": one("Concat", "w x", constants={"w": floats(2, 1, 5, 4)}, axis=-3),
    "Split": Case(
        ("Split", "x s", "a b", {"axis": 1}),
        ("Identity", "b", "y", {}),
        s=ints(2, 4),
        results="a y",
    ),
    "Split into equal parts": Case(("Split", "x", "a b c", {"axis": -3}), results="c a b"),
    "Split with a smaller last part": Case(
        ("Split", "x", "a b", {"axis": 2, "num_outputs": 2}), opset=18, results="a b"
    ),
    "Split by attribute": Case(
        ("Split", "x", "a b", {"axis": 1, "split": [1, 5]}), opset=11, results="a b"
    ),
    "Slice": one(
        "Slice",
        "x s e a p",
        constants={"s": ints(1, -3), "e": ints(2**63 - 1, -1), "a": ints(-1, 1), "p": ints(2, 1)},
    ),
    "Slice of the first axes": one("Slice", "x s e", constants={"s": ints(0, 1), "e": ints(1, 9)}),
    "Gather of one": one("Gather", "x i", constants={"i": np.array(-2, np.int64)}, axis=1),
    "Gather of several": one("Gather", "x i", constants={"i": ints(4, 0, -1)}, axis=-2),
    "Gather in a table": Case(
        ("Gather", "table i", "a", {}),
        ("Add", "x a", "y", {}),
        table=floats(30, 4),
        i=np.arange(30).reshape(6, 5)[::-1].copy(),
    ),
    "Pad": one(
        "Pad", "x p v", constants={"p": ints(0, 1, 0, 2, 0, 0, 3, -1), "v": np.float32(0.7)}
    ),
    "Pad without a value": one("Pad", "x p", constants={"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}),
    "Pad by reflection": one(
        "Pad", "x p", constants={"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}, mode="reflect"
    ),
    "Pad by repetition": one(
        "Pad", "x p", constants={"p": ints(0, 0, 1, 2, 0, 0, 3, 1)}, mode="edge"
    ),
    "DepthToSpace": one("DepthToSpace", shape=(2, 8, 3, 4), blocksize=2, mode="CRD"),
    "Trilu": one("Trilu", "x k", 14, constants={"k": np.array(1, np.int64)}, upper=0),
    "Resize to the nearest": resize(
        {"s": np.array([1, 1, 2, 2.5], np.float32)},
        "x - s",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "Resize to a size": resize(
        {"s": ints(2, 6, 9, 7)},
        "x - - s",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    ),
    "Resize by corners": resize(
        {"s": ints(2, 6, 9, 7)},
        "x - - s",
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "Resize by scales": resize(
        {"s": np.array([1, 1, 1.5, 2], np.float32)},
        "x - s",
        mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    ),
    "Resize by cubes": resize(
        {"s": ints(2, 6, 9, 7)},
        "x - - s",
        mode="cubic",
        coordinate_transformation_mode="half_pixel",
    ),
}


def check(runtime: pytorch.PyTorch, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    model: Any = runtime.prepare(str(file), 1, 3, {})
    model.run(1)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    given = [one.contiguous().numpy() for one in model._inputs]
    wanted = session.run(None, dict(zip(names, given, strict=True)))
    for found, expected in zip(model.outputs, wanted, strict=True):
        limit = 1e-5 * np.nanmax(np.abs(expected))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=limit)
    model.facts()
    model.close()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_operator_computes_what_onnx_runtime_does(
    runtime: pytorch.PyTorch, tmp_path: Path, case: Case
) -> None:
    check(runtime, tmp_path / "model.onnx", case.content)


REFUSED = {
    "integers that are divided": (
        Case(
            ("Div", "a b", "c", {}),
            ("Cast", "c", "d", {"to": 1}),
            ("Mul", "x d", "y", {}),
            a=ints(7),
            b=ints(2),
        ),
        "divides integers",
    ),
    "a step back": (
        one(
            "Slice",
            "x s e a p",
            constants={"s": ints(3), "e": ints(0), "a": ints(3), "p": ints(-1)},
        ),
        r"has the steps \[-1\]",
    ),
    "a computed place": (
        Case(("Shape", "x", "s", {}), ("Reshape", "x s", "y", {}), sizes=MAP),
        "Shape 'Shape_0' is an operator",
    ),
    "an integer of a map": (
        Case(("Cast", "x", "a", {"to": 6}), ("Cast", "a", "y", {"to": 1})),
        "element type 6",
    ),
    "places that torch does not know": (
        resize(
            {"s": ints(2, 6, 9, 7)},
            "x - - s",
            mode="linear",
            coordinate_transformation_mode="asymmetric",
        ),
        r"is linear \(asymmetric",
    ),
    "another order of depth": (
        one("DepthToSpace", shape=(2, 8, 3, 4), blocksize=2),
        "has the mode DCR",
    ),
    "two results": (
        Case(
            ("MaxPool", "x", "m i", {"kernel_shape": [2, 2]}),
            ("Cast", "i", "y", {"to": 1}),
        ),
        "has 2 results",
    ),
    "the hard sigmoid of ONNX": (one("HardSigmoid"), "has alpha 0.2"),
    "a softmax of several axes": (one("Softmax", opset=11), "several axes in opset 11"),
}


@pytest.mark.parametrize(("case", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_run_names_the_operator_and_why(
    runtime: pytorch.PyTorch, tmp_path: Path, case: Case, said: str
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(case.content)
    with pytest.raises(RequestError, match=said) as caught:
        runtime.prepare(str(file), 1, 0, {})
    assert caught.value.kind == "bad_model" and "another runtime" in caught.value.advice


class Shapes(nn.Module):
    """What a runtime should not compute: sizes, and a scale of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, _, width = x.shape
        parts = x.reshape(batch, 2, channels // 2, -1).unbind(1)
        attended = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[1])
        return attended.reshape(batch, -1, width) + torch.ones_like(x).sum((1, 2))[:, None]


def test_what_follows_from_sizes_alone_is_computed_by_no_node() -> None:
    traced = trace(Shapes().eval(), (4, 6, 5))
    lowered = lower(traced)
    for batch in (1, 4):
        content = write_onnx(lowered.spec, lowered.weights(traced), batch=batch)
        kinds = {node.op_type for node in onnx.load_from_string(content).graph.node}
        assert not kinds & {"Shape", "Gather", "Cast", "ConstantOfShape", "Sqrt"}
        image = torch.randn(batch, 4, 6, 5)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(found, Shapes()(image).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size"),
    [("convnext_atto", 32), ("vit_tiny_patch16_224", 224), ("levit_128s", 224)],
)
def test_networks_compute_what_onnx_runtime_does_and_have_half_precision_files(
    runtime: pytorch.PyTorch, tmp_path: Path, name: str, size: int
) -> None:
    network = import_timm().create_model(name).eval()
    traced = trace(network, (3, size, size))
    lowered = lower(traced)
    weights = lowered.weights(traced)
    check(runtime, tmp_path / "model.onnx", write_onnx(lowered.spec, weights, batch=2))
    content = write_onnx(lowered.spec, weights, batch=2, precision="fp16")
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


class Sums(nn.Module):
    """Operators that ONNX has in float32 alone, and one of integers that stays as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        counted = torch.cumsum((x > 0).long(), 2).to(x.dtype)
        finite = torch.where(torch.isinf(x), torch.zeros_like(x), x)
        return x.cumsum(2) + counted + finite


def test_what_onnx_has_in_float32_alone_stands_between_casts_in_a_half_precision_file() -> None:
    traced = trace(Sums().eval(), (3, 6, 5))
    lowered = lower(traced)
    content = write_onnx(lowered.spec, lowered.weights(traced), batch=2, precision="fp16")
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    image = torch.randn(2, 3, 6, 5).half()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy()})
    np.testing.assert_allclose(found, Sums()(image.float()).numpy(), atol=0.05)
