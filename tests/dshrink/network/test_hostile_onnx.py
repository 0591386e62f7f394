"""ONNX files that ask for too much, or hold what cannot be: one line, before any computing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_exports import array, model
from torch import nn

from dshrink.errors import NetworkError
from dshrink.merge.export import METADATA_KEY, require_same_when_written
from dshrink.network.models import load_network
from dshrink.operations.bench_networks import network_of_file

node = helper.make_node
WEIGHT = array("w", 8, 3, 3, 3)
CONV = node("Conv", ["x", "w"], ["c"], name="first")


def constant(name: str, *values: float, dtype: Any = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def beside(*nodes: onnx.NodeProto, stored: tuple[TensorProto, ...]) -> onnx.ModelProto:
    """A convolution whose result is added to what the nodes make of constants alone, "t"."""
    total = node("ReduceSum", ["t"], ["sum"], keepdims=0)
    ends = [CONV, total, node("Add", ["c", "sum"], ["y"])]
    return model([*nodes, *ends], [WEIGHT, *stored], opset=13)


def behind(kind: str, *stored: TensorProto, **settings: Any) -> onnx.ModelProto:
    """An operator behind a convolution, with these constants."""
    last = node(kind, ["c", *(one.name for one in stored)], ["y"], name="last", **settings)
    return model([CONV, last], [WEIGHT, *stored], opset=13)


def with_tensor(**fields: Any) -> onnx.ModelProto:
    """A network with one more tensor, of these fields, that nobody reads."""
    made = model([node("Conv", ["x", "w"], ["y"])], [WEIGHT])
    made.graph.initializer.append(TensorProto(name="odd", **fields))
    return made


def loop(kind: str, **settings: Any) -> onnx.ModelProto:
    value, flag = helper.make_tensor_value_info, TensorProto.BOOL
    body = helper.make_graph(
        [node("Identity", ["go"], ["still"]), node("Add", ["s", "s"], ["more"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", flag, []), value("s", 1, None)],
        [value("still", flag, []), value("more", 1, None)],
    )
    repeated = node(kind, ["many", "go", "c"], ["y"], name="again", body=body, **settings)
    stored = [WEIGHT, constant("many", 10**9), numpy_helper.from_array(np.array(True), "go")]
    return model([CONV, repeated], stored)


def functions(*bodies: list[str]) -> onnx.ModelProto:
    """Local functions F0, F1, ... each of which calls those that its list names, in turn."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = model(
        [node(f"F{len(bodies) - 1}", ["x"], ["a"], domain="own"), node("Relu", ["a"], ["y"])],
        [],
        domains=["own"],
    )
    for number, calls in enumerate(bodies):
        names = ["i", *(f"t{at}" for at in range(1, len(calls))), "o"]
        steps = [
            node(call, [names[at]], [names[at + 1]], domain="" if call == "Relu" else "own")
            for at, call in enumerate(calls)
        ]
        made.functions.append(
            helper.make_function("own", f"F{number}", ["i"], ["o"], steps, imports)
        )
    return made


def doubled(times: int) -> onnx.ModelProto:
    joined = [node("Concat", [f"a{at}"] * 2, [f"a{at + 1}"], axis=1) for at in range(times)]
    first, last = node("Conv", ["x", "w"], ["a0"]), node("Relu", [f"a{times}"], ["y"])
    return model([first, *joined, last], [WEIGHT])


FLOAT = TensorProto.FLOAT
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a loop of a billion steps": (lambda: loop("Loop"), "Loop (node 'again') repeats operators"),
    "a function of itself": (lambda: functions(["F0"]), "its functions call themselves"),
    "two functions of each other": (lambda: functions(["F1"], ["F0"]), "call themselves"),
    "functions of 10^8 operators": (
        lambda: functions(["Relu"], *([f"F{at}"] * 10 for at in range(8))),
        "more than 200000 operators",
    ),
    "a map that doubles": (
        lambda: doubled(30),
        "Concat (node 'a20') makes a tensor of 1x8388608x14x14",
    ),
    "padding of kilometres": (
        lambda: model([node("Conv", ["x", "w"], ["y"], pads=[2**30] * 4)], [WEIGHT]),
        "Conv (node 'y') makes a tensor of 1x8x2147483662x2147483662, more than 1073741824",
    ),
    "tiles": (
        lambda: behind("Tile", constant("n", 1, 1, 10**4, 10**4)),
        "Tile (node 'last') makes a tensor of 1x8x140000x140000",
    ),
    "a batch by Expand": (
        lambda: behind("Expand", constant("n", 10**6, 8, 14, 14)),
        "Expand (node 'last') makes a tensor of 1000000x8x14x14",
    ),
    "a constant of terabytes": (
        lambda: beside(node("ConstantOfShape", ["n"], ["t"]), stored=(constant("n", 10**12),)),
        "ConstantOfShape (node 't') makes a tensor of 1000000000000, more than 134217728 values",
    ),
    "a batch of 4096": (
        lambda: model([node("Conv", ["x", "w"], ["y"])], [WEIGHT], image=(4096, 3, 2048, 2048)),
        "takes 4096x3x2048x2048 at once",
    ),
    "integers cut short": (
        lambda: with_tensor(data_type=TensorProto.INT64, dims=[2], raw_data=b"\0" * 7),
        "tensor 'odd' cannot be read",
    ),
    "floats left out": (
        lambda: with_tensor(data_type=FLOAT, dims=[2, 2], float_data=[1.0]),
        "tensor 'odd' cannot be read",
    ),
    "no data": (lambda: with_tensor(data_type=FLOAT, dims=[2]), "tensor 'odd' cannot be read"),
    "a type nobody knows": (
        lambda: with_tensor(data_type=99, dims=[1], raw_data=b"\0" * 4),
        "tensor 'odd' cannot be read",
    ),
    "texts that do not decode": (
        lambda: with_tensor(data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"]),
        "tensor 'odd' cannot be read",
    ),
    "a tensor twice": (
        lambda: model([node("Conv", ["x", "w"], ["y"])], [WEIGHT, WEIGHT]),
        "tensor 'w' is given twice",
    ),
    "an expression of exponential time": (
        lambda: model(
            [CONV, node("RegexFullMatch", ["c"], ["y"], pattern="(a+)+$", name="re")],
            [WEIGHT],
            opset=20,
        ),
        "RegexFullMatch (node 're') is for texts",
    ),
    "infinite weights": (
        lambda: model(
            [node("Conv", ["x", "w"], ["y"])],
            [numpy_helper.from_array(np.full((8, 3, 3, 3), np.inf, np.float32), "w")],
        ),
        "gives NaN or infinity for a random image",
    ),
    "one result for all images": (
        lambda: behind("ReduceMean", keepdims=0),
        "is no tensor with an entry for each image",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_asks_for_too_much_is_one_line(name: str, tmp_path: Path) -> None:
    make, part = HOSTILE[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(make().SerializeToString())
    said = refusal(path)
    assert part in said and "m.onnx" in said and len(said) < 500


def test_a_benchmark_takes_loops_that_the_file_says_to_end(tmp_path: Path) -> None:
    made = loop("Loop")
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(NetworkError, match="repeats operators"):
        network_of_file(path, 1)
    made.graph.initializer[1].CopyFrom(constant("many", 3))
    path.write_bytes(made.SerializeToString())
    assert network_of_file(path, 1).resolution == (16, 16)


def test_what_a_file_says_of_itself_is_no_reason_to_fail(tmp_path: Path) -> None:
    made = model([node("Conv", ["x", "w"], ["y"])], [WEIGHT])
    made.metadata_props.add(key=METADATA_KEY, value="[" * 100_000)
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    assert network_of_file(path, 1).original


def refusal(path: Path) -> str:
    with pytest.raises(NetworkError) as caught:
        load_network(str(path))
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_functions_that_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(functions(["Relu"], ["F0", "F0"]).SerializeToString())
    assert len(load_network(str(path)).spec.ops) == 3


@pytest.mark.parametrize("kind", ["folder", "sparse", "link"])
def test_what_is_no_file_of_a_model_is_named_for_what_it_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(3 << 30)
    parts = {"folder": "is a folder, no regular file", "link": "is a device, no regular file"}
    assert parts.get(kind, "is above 2048 MiB") in refusal(path)


@pytest.mark.parametrize("location", ["a/" * 3000 + "w", "w.bin"])
def test_data_beside_a_file_has_a_name_and_a_size(location: str, tmp_path: Path) -> None:
    made = model([node("Conv", ["x", "w"], ["y"])], [WEIGHT])
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(3 << 30)
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    expected = "is above 2 GiB" if location == "w.bin" else "cannot be read beside it"
    assert expected in refusal(path)


@pytest.mark.parametrize(
    "name", ["tiles", "a type nobody knows", "a batch of 4096", "a function of itself"]
)
def test_a_benchmark_refuses_it_before_a_device_is_asked(name: str, tmp_path: Path) -> None:
    make, part = HOSTILE[name]
    made = make()
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    batch = made.graph.input[-1].type.tensor_type.shape.dim[0].dim_value
    with pytest.raises(NetworkError) as caught:
        network_of_file(path, batch)
    assert part in str(caught.value)


def test_operators_without_a_layer_run_as_fast_as_the_runtime(tmp_path: Path) -> None:
    """The reference implementation takes minutes for such a map: it visits every pixel."""
    made = model(
        [CONV, node("ConvTranspose", ["c", "u"], ["y"], strides=[2, 2], name="up")],
        [WEIGHT, array("u", 8, 16, 3, 3)],
        image=(1, 3, 192, 192),
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    begun = time.monotonic()
    net = load_network(str(path))
    assert net.spec.shapes[-1] == (16, 381, 381)
    assert time.monotonic() - begun < 20


def test_an_operator_keeps_the_precision_that_it_is_called_in(tmp_path: Path) -> None:
    made = model([CONV, node("Softsign", ["c"], ["y"], name="sign")], [WEIGHT])
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    layer = load_network(str(path)).module.get_submodule("sign")
    image = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    found = [layer(image.to(kind)) for kind in (torch.float32, torch.float64)]
    assert [one.dtype for one in found] == [torch.float32, torch.float64]
    expected = nn.Softsign()(image)
    assert float((found[1] - expected).abs().max()) < 1e-15
    assert float((found[0] - expected).abs().max()) < 1e-6


def test_constants_that_double_are_refused_without_following_their_values(tmp_path: Path) -> None:
    joined = [node("Concat", [f"a{at}"] * 2, [f"a{at + 1}"], axis=0) for at in range(33)]
    made = beside(*joined, node("Identity", ["a33"], ["t"]), stored=(constant("a0", 1, 2, 3, 4),))
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    begun = time.monotonic()
    assert "Concat (node 'a26') makes a tensor of 268435456" in refusal(path)
    assert time.monotonic() - begun < 5


def test_a_quantised_file_that_float64_cannot_compute_says_so(tmp_path: Path) -> None:
    steps = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("ConvInteger", ["q", "i", "z"], ["r"]),
        node("Cast", ["r"], ["f"], to=FLOAT),
        node("Mul", ["f", "s"], ["y"], name="scaled"),
    ]
    path = tmp_path / "m.onnx"
    weight = numpy_helper.from_array(np.ones((8, 3, 3, 3), np.uint8), "i")
    path.write_bytes(model(steps, [weight]).SerializeToString())
    net = load_network(str(path))
    with pytest.raises(NetworkError, match=r"operator Mul \(node 'scaled'\).* in float64"):
        require_same_when_written(net)
