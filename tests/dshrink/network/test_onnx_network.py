"""ONNX files read as networks: the structure of their source, and what ONNX Runtime computes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnx_exports import array, export, model
from torch import nn

from dshrink.errors import NetworkError
from dshrink.network.models import load_network
from dshrink.network.onnx_files.operator import OnnxOperator
from dshrink.network.onnx_files.reader import read_onnx
from dshrink.network.onnx_files.source import open_onnx
from dshrink.network.tracing import import_timm, only_batch
from profiler.workloads import build_onnx

node = helper.make_node


def saved(path, made):
    onnx.save(made, path)
    return path


def in_runtime(path, image):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return session.run(None, {entry.name: image.numpy()})[0]


def image_of(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_equal(path, module, image, tolerance=1e-4):
    with torch.inference_mode():
        result = module(image).numpy()
    expected = in_runtime(path, image)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= tolerance * np.abs(expected).max()


def library_file(net, path, batch=1, **options):
    """A network of the tests' own fixture, exported from its library's module."""
    library = import_timm().create_model(net.name, pretrained=False)
    library.load_state_dict(net.module.state_dict())
    return export(library, path, image_of(batch, *net.spec.input_shape), **options)


def kinds(module):
    """The layers of a module by path."""
    return {name: type(module.get_submodule(name)).__name__ for name in calls(module)}


def calls(module):
    return [n.target for n in module.graph.nodes if n.op == "call_module"]


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        *(("mobilenetv2_035", True), ("mobilenetv2_035", False)),
        *(("resnet18", True), ("repvgg_a0", False), ("mobilenetv3_small_050", False)),
    ],
)
def test_an_exported_network_has_the_structure_and_names_of_its_source(
    name, folded, network, tmp_path
):
    net = network(name, 64, "random")
    path = library_file(net, tmp_path / "net.onnx", folded=folded)
    read = load_network(str(path))
    assert read.name == "net.onnx"
    assert read.resolution == (64, 64)
    assert read.spec.digest == net.spec.digest
    assert [c.name for c in read.chain.body] == [c.name for c in net.chain.body]
    assert [replace(c, name="", break_after=None) for c in read.chain.convs] == [
        replace(c, name="", break_after=None) for c in net.chain.convs
    ]
    assert read.chain.skips == net.chain.skips
    assert read.chain.spans() == net.chain.spans()
    assert [b.name for b in read.blocks] == [b.name for b in net.blocks]
    check_equal(path, read.module, image_of(1, *net.spec.input_shape))


def test_an_open_batch_is_read_and_a_fixed_one_serves_any(network, tmp_path):
    net = network("mobilenetv2_035", 64, "random")
    axes = {"image": {0: "batch"}, "scores": {0: "batch"}}
    opened = library_file(net, tmp_path / "open.onnx", dynamic_axes=axes)
    fixed = library_file(net, tmp_path / "fixed.onnx", batch=3)
    assert open_onnx(opened).batch is None
    assert open_onnx(fixed).batch == 3
    for path in (opened, fixed):
        module = read_onnx(path)
        assert only_batch(module) is None
        image = image_of(3, *net.spec.input_shape)
        check_equal(path, module, image)
        with torch.inference_mode():
            one, three = module(image[:1]), module(image)
        assert float((one - three[:1]).abs().max() / one.abs().max()) < 1e-4


class Backbone(nn.Module):
    """A cross-stage block as YOLO has: split, convolve, concatenate; and an upsampled neck."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.enter = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.1))
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 3, padding=1)
        self.leave = nn.Sequential(nn.Conv2d(24, 16, 1), nn.BatchNorm2d(16), nn.SiLU())
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.enter(self.stem(x))
        a, b = x.chunk(2, 1)
        b = F.relu(self.left(b)) + b
        x = self.leave(torch.cat([a, b, self.right(b)], 1))
        x = x + F.interpolate(self.down(x), scale_factor=2, mode="nearest")
        groups = x.view(x.size(0), 2, 8, x.size(2), x.size(3)).transpose(1, 2).flatten(1, 2)
        return self.head(groups.mean((2, 3)))


def test_a_backbone_with_split_concat_and_unknown_operators_is_read_whole(tmp_path):
    torch.manual_seed(0)
    axes = {"image": {0: "n"}, "scores": {0: "n"}}
    path = export(Backbone(), tmp_path / "y.onnx", image_of(1, 3, 32, 32), dynamic_axes=axes)
    read = load_network(str(path))
    layers = kinds(read.module)
    kept = [read.module.get_submodule(n).operator for n, k in layers.items() if k == "OnnxOperator"]
    assert sorted(kept) == [
        *("LeakyRelu", "Reshape", "Reshape", "Resize", "Slice", "Slice", "Transpose"),
    ]
    assert layers["stem.2"] == layers["leave.2"] == "SiLU"
    assert {"stem.0", "enter.0", "left", "right", "leave.0", "down", "head"} <= set(layers)
    for batch in (1, 4):
        check_equal(path, read.module, image_of(batch, 3, 32, 32))


def test_a_copy_in_float64_computes_in_float64(tmp_path):
    torch.manual_seed(0)
    net = Backbone().eval()
    module = read_onnx(export(net, tmp_path / "y.onnx", image_of(1, 3, 32, 32), folded=False))
    image = image_of(2, 3, 32, 32).double()
    with torch.inference_mode():
        expected = copy.deepcopy(net).double()(image)
        result = copy.deepcopy(module).to(torch.float64)(image)
    assert result.dtype == torch.float64
    assert float((result - expected).abs().max() / expected.abs().max()) < 1e-6  # LeakyReLU's 0.1


def conv(name, x, y, *, pads=(1, 1, 1, 1), **more):
    return node("Conv", [x, f"{name}.weight"], [y], name=name, pads=list(pads), **more)


@pytest.mark.parametrize("first", [True, False])
def test_weights_listed_as_inputs_are_no_inputs(first, tmp_path):
    weight = array("a.weight", 8, 3, 3, 3)
    listed = helper.make_tensor_value_info("a.weight", TensorProto.FLOAT, [8, 3, 3, 3])
    made = model([conv("a", "x", "y")], [weight], inputs=[listed], ir_version=3)
    if not first:
        made.graph.input.reverse()
    path = saved(tmp_path / "a.onnx", made)
    assert kinds(read_onnx(path)) == {"a": "Conv2d"}


def test_data_beside_the_file_is_read_and_missed_with_its_name(network, tmp_path):
    net = network("mobilenetv2_035", 64, "random")
    inside = library_file(net, tmp_path / "inside.onnx")
    outside = tmp_path / "outside.onnx"
    onnx.save(
        onnx.load(inside), outside, save_as_external_data=True, location="outside.data",
        size_threshold=0,
    )  # fmt: skip
    expected, result = (read_onnx(path).state_dict() for path in (inside, outside))
    assert all(torch.equal(result[name], tensor) for name, tensor in expected.items())
    (tmp_path / "outside.data").unlink()
    with pytest.raises(NetworkError, match=r"outside\.data.*cannot be read beside it"):
        read_onnx(outside)


ODD_NAMES = (
    "",
    "/",
    "a b/ö.weird\"name'/Conv",
    "training",
    "if",
    "forward/class/Conv",
    "x" * 500,
    "a\nb",
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_become_names_of_modules(name, tmp_path):
    nodes = [
        node("Conv", ["x", "w"], ["c"], name=name, pads=[1, 1, 1, 1]),
        node("Conv", ["c", "v"], ["d"], name=f"{name}'", pads=[1, 1, 1, 1]),
        node("Relu", ["d"], ["y"], name=f"{name}//Relu"),
    ]
    made = model(nodes, [array("w", 8, 3, 3, 3), array("v", 8, 8, 3, 3)])
    path = saved(tmp_path / "a.onnx", made)
    module = read_onnx(path)
    assert len(set(calls(module))) == 3
    assert max(map(len, calls(module))) < 140
    check_equal(path, copy.deepcopy(module), image_of(1, 3, 16, 16))


def relu6_bounds(opset):
    if opset < 11:
        return node("Clip", ["c"], ["y"], min=0.0, max=6.0), []
    bounds = [numpy_helper.from_array(np.float32(v), n) for n, v in (("lo", 0.0), ("hi", 6.0))]
    return node("Clip", ["c", "lo", "hi"], ["y"]), bounds


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 17, 21])
def test_the_bounds_of_relu6_are_found_in_every_opset(opset, tmp_path):
    clip, bounds = relu6_bounds(opset)
    made = model([conv("a", "x", "c"), clip], [array("a.weight", 8, 3, 3, 3), *bounds], opset=opset)
    assert "ReLU6" in kinds(read_onnx(saved(tmp_path / "a.onnx", made))).values()


def number(name, value):
    return numpy_helper.from_array(np.asarray(value, np.float32), name)


def each(name, channels=8, seed=1):
    """A stored (C, 1, 1)."""
    return array(name, channels, 1, 1, seed=seed)


# What stands between a convolution's "c" and the result "y": (nodes, stored, layers after the conv)
SPELLINGS = {
    "silu": ([node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["y"])], [], ["SiLU"]),
    "silu, turned": ([node("Sigmoid", ["c"], ["s"]), node("Mul", ["s", "c"], ["y"])], [], ["SiLU"]),
    "hard swish": (
        [
            node("HardSigmoid", ["c"], ["s"], alpha=1 / 6, beta=0.5),
            node("Mul", ["c", "s"], ["y"]),
        ],
        [],
        ["Hardswish"],
    ),
    "hard swish by clip": (
        [
            node("Add", ["c", "3"], ["p"]),
            node("Clip", ["p", "0", "6"], ["q"]),
            node("Mul", ["c", "q"], ["r"]),
            node("Div", ["r", "6"], ["y"]),
        ],
        [number("3", 3), number("0", 0), number("6", 6)],
        ["Hardswish"],
    ),
    "hard sigmoid by clip": (
        [
            node("Add", ["3", "c"], ["p"]),
            node("Clip", ["p", "0", "6"], ["q"]),
            node("Div", ["q", "6"], ["y"]),
        ],
        [number("3", 3), number("0", 0), number("6", 6)],
        ["Hardsigmoid"],
    ),
    "gelu, half last": (
        [
            node("Div", ["c", "root"], ["p"]),
            node("Erf", ["p"], ["e"]),
            node("Add", ["e", "1"], ["f"]),
            node("Mul", ["c", "f"], ["g"]),
            node("Mul", ["g", "half"], ["y"]),
        ],
        [number("root", 2**0.5), number("1", 1), number("half", 0.5)],
        ["GELU"],
    ),
    "gelu, half first": (
        [
            node("Mul", ["c", "root"], ["p"]),
            node("Erf", ["p"], ["e"]),
            node("Add", ["e", "1"], ["f"]),
            node("Mul", ["f", "half"], ["g"]),
            node("Mul", ["c", "g"], ["y"]),
        ],
        [number("root", 0.5**0.5), number("1", 1), number("half", 0.5)],
        ["GELU"],
    ),
    "scale and shift": (
        [node("Mul", ["c", "a"], ["m"]), node("Add", ["b", "m"], ["y"])],
        [each("a"), each("b", seed=2)],
        ["BatchNorm2d", "BatchNorm2d"],
    ),
    "minus and over": (
        [node("Sub", ["c", "a"], ["m"]), node("Div", ["m", "b"], ["y"])],
        [each("a"), number("b", 0.3)],
        ["BatchNorm2d", "BatchNorm2d"],
    ),
    "from a constant": ([node("Sub", ["a", "c"], ["y"])], [each("a")], ["BatchNorm2d"]),
    "a constant map": (
        [node("Add", ["c", "m"], ["y"])],
        [array("m", 1, 8, 16, 16)],
        ["ConstantMap"],
    ),
    "sum that starts at 0": (
        [node("Add", ["0", "c"], ["p"]), node("Relu", ["p"], ["y"])],
        [number("0", 0)],
        ["ReLU"],
    ),
    "clip without an upper bound": ([node("Clip", ["c", "0"], ["y"])], [number("0", 0)], ["ReLU"]),
    "identity and dropout": (
        [node("Identity", ["c"], ["i"]), node("Dropout", ["i"], ["d"]), node("Relu", ["d"], ["y"])],
        [],
        ["ReLU"],
    ),
    "same padding": (
        [node("Conv", ["c", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])],
        [array("w", 8, 8, 3, 3)],
        ["PaddedConv2d"],
    ),
    "padding on one side": (
        [node("Conv", ["c", "w"], ["y"], pads=[0, 1, 2, 0])],
        [array("w", 8, 8, 3, 3)],
        ["PaddedConv2d"],
    ),
    "zeros in front of a convolution": (
        [
            node("Pad", ["c", "pads"], ["p"]),
            node("Conv", ["p", "w"], ["y"], strides=[2, 2]),
        ],
        [
            numpy_helper.from_array(np.array([0, 0, 0, 1, 0, 0, 1, 2], np.int64), "pads"),
            array("w", 8, 8, 3, 3),
        ],
        ["PaddedConv2d"],
    ),
    "ones in front of a convolution": (
        [node("Pad", ["c", "pads", "1"], ["p"]), node("Conv", ["p", "w"], ["y"])],
        [
            numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads"),
            number("1", 1),
            array("w", 8, 8, 3, 3),
        ],
        ["OnnxOperator", "Conv2d"],
    ),
    "pools": (
        [
            node("MaxPool", ["c"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("AveragePool", ["p"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        [],
        ["MaxPool2d", "AvgPool2d"],
    ),
    "parts": (
        [
            node("Split", ["c", "sizes"], ["p", "q"], axis=1),
            node("Concat", ["q", "p"], ["y"], axis=1),
        ],
        [numpy_helper.from_array(np.array([3, 5], np.int64), "sizes")],
        ["OnnxOperator", "OnnxOperator"],
    ),
    "pool padded on one side": (
        [node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])],
        [],
        ["OnnxOperator"],
    ),
    "product and bias": (
        [
            node("GlobalAveragePool", ["c"], ["g"]),
            node("Reshape", ["g", "shape"], ["f"]),
            node("MatMul", ["f", "w"], ["m"]),
            node("Add", ["b", "m"], ["y"]),
        ],
        [
            numpy_helper.from_array(np.array([1, 8], np.int64), "shape"),
            array("w", 8, 5),
            array("b", 5),
        ],
        ["AdaptiveAvgPool2d", "Flatten", "Linear"],
    ),
    "gemm with factors": (
        [
            node("GlobalAveragePool", ["c"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "w", "b"], ["y"], alpha=0.5, beta=3.0),
        ],
        [array("w", 8, 5), array("b", 5)],
        ["AdaptiveAvgPool2d", "Flatten", "Linear"],
    ),
    "a size that is asked for": (
        [
            node("Shape", ["c"], ["s"]),
            node("Gather", ["s", "at"], ["n"]),
            node("Concat", ["n", "rest"], ["t"], axis=0),
            node("Reshape", ["c", "t"], ["y"]),
        ],
        [
            numpy_helper.from_array(np.array([0], np.int64), "at"),
            numpy_helper.from_array(np.array([-1], np.int64), "rest"),
        ],
        ["Flatten"],
    ),
}


@pytest.mark.parametrize("batch", [1, "n"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_is_understood_and_computes_what_the_runtime_does(name, batch, tmp_path):
    nodes, stored, expected = SPELLINGS[name]
    if name == "product and bias" and batch == "n":
        pytest.skip("its target shape is for one image")
    made = model(
        [conv("a", "x", "c"), *nodes],
        [array("a.weight", 8, 3, 3, 3, seed=3), *stored],
        image=(batch, 3, 16, 16),
    )
    path = saved(tmp_path / "a.onnx", made)
    module = read_onnx(path)
    assert [*kinds(module).values()] == ["Conv2d", *expected]
    check_equal(path, module, image_of(1 if batch == 1 else 3, 3, 16, 16))


def test_norms_keep_their_own_eps(tmp_path):
    stored = [array("a.weight", 8, 3, 3, 3), *(array(n, 8, seed=4) for n in ("g", "b", "m"))]
    variance = numpy_helper.from_array(np.full(8, 1e-3, np.float32), "v")
    norm = node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], epsilon=1e-2)
    path = saved(tmp_path / "a.onnx", model([conv("a", "x", "c"), norm], [*stored, variance]))
    read = load_network(str(path))
    assert [op.kind for op in read.spec.ops] == ["conv"]
    check_equal(path, read.module, image_of(1, 3, 16, 16))


def test_half_precision_is_read_as_float32(tmp_path):
    made = model(
        [conv("a", "x", "c"), node("Relu", ["c"], ["y"])],
        [array("a.weight", 8, 3, 3, 3, element=np.float16)],
        element=TensorProto.FLOAT16,
    )
    path = saved(tmp_path / "a.onnx", made)
    assert read_onnx(path).get_submodule("a").weight.dtype == torch.float32
    # What a profile of it sends to a device has the types of the precision, not the file's.
    written = onnx.ModelProto.FromString(build_onnx(load_network(str(path)).spec))
    assert {one.data_type for one in written.graph.initializer} == {TensorProto.FLOAT}


def test_open_sizes_need_a_resolution_and_fixed_ones_refuse_another(tmp_path):
    weight = array("a.weight", 8, 3, 3, 3)
    opened = saved(
        tmp_path / "o.onnx", model([conv("a", "x", "y")], [weight], image=(1, 3, "h", "w"))
    )
    fixed = saved(tmp_path / "f.onnx", model([conv("a", "x", "y")], [weight]))
    assert load_network(str(opened), resolution=(24, 40)).resolution == (24, 40)
    with pytest.raises(NetworkError, match="open: give them with --resolution"):
        read_onnx(opened)
    with pytest.raises(NetworkError, match="made for 16x16, not 32x32"):
        read_onnx(fixed, (32, 32))


def test_a_batch_inside_the_constants_is_the_only_batch(tmp_path):
    shape = numpy_helper.from_array(np.array([8, 1, 16, 16], np.int64), "shape")
    back = numpy_helper.from_array(np.array([1, 8, 16, 16], np.int64), "back")
    nodes = [
        conv("a", "x", "c"),
        node("Reshape", ["c", "shape"], ["r"]),
        node("Reshape", ["r", "back"], ["y"]),
    ]
    made = model(nodes, [array("a.weight", 8, 3, 3, 3), shape, back])
    assert only_batch(read_onnx(saved(tmp_path / "a.onnx", made))) == 1


def refused(made, part, tmp_path):
    path = tmp_path / "bad.onnx"
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        onnx.save(made, path)
    with pytest.raises(NetworkError) as caught:
        load_network(str(path))
    said = str(caught.value)
    assert said.startswith(str(path)) and "\n" not in said and len(said) < 500
    assert part in said


WEIGHT = array("a.weight", 8, 3, 3, 3)
CONV = conv("a", "x", "c")


def with_input(name, element, shape):
    return [helper.make_tensor_value_info(name, element, shape)]


def not_a_number():
    tensor = np.zeros((8, 3, 3, 3), np.float32)
    tensor[0, 0, 0, 0] = np.nan
    return numpy_helper.from_array(tensor, "a.weight")


def two_results():
    made = model([CONV, node("Relu", ["c"], ["y"])], [WEIGHT])
    made.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    return made


TRAINING = node(
    "BatchNormalization",
    ["c", "one", "one", "one", "one"],
    ["y", "mean", "var"],
    name="bn",
    training_mode=1,
)
REFUSED = {
    "empty": (b"", "is empty: export it again"),
    "text": (b"not a model\n", "is not an ONNX model, or is damaged"),
    "page": (b"<html></html>", "is not an ONNX model, or is damaged"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "opset 99": (model([conv("a", "x", "y")], [WEIGHT], opset=99), "its opset is 99"),
    "opset 6": (model([conv("a", "x", "y")], [WEIGHT], opset=6), "its opset is 6"),
    "ir 99": (model([conv("a", "x", "y")], [WEIGHT], ir_version=99), "its IR version is 99"),
    "two inputs": (
        model([conv("a", "x", "y")], [WEIGHT], inputs=with_input("s", TensorProto.INT64, [2])),
        "takes 2 inputs (s, x)",
    ),
    "two results": (two_results(), "gives 2 results (y, c)"),
    "bytes": (
        model([conv("a", "x", "y")], [WEIGHT], element=TensorProto.UINT8),
        "its input 'x' is uint8 1x3x16x16",
    ),
    "bfloat16": (
        model([conv("a", "x", "y")], [WEIGHT], element=TensorProto.BFLOAT16),
        "is bfloat16 1x3x16x16: a float32 or float16 image",
    ),
    "no batch axis": (
        model([conv("a", "x", "y")], [WEIGHT], image=(3, 16, 16)),
        "with its batch axis",
    ),
    "channels last": (
        model([conv("a", "x", "y")], [WEIGHT], image=(1, 16, 16, 3)),
        "--inputs-as-nchw x",
    ),
    "open channels": (
        model([conv("a", "x", "y")], [WEIGHT], image=(1, "c", 16, 16)),
        "channels must be fixed",
    ),
    "plugin": (
        model([node("EfficientNMS_TRT", ["x"], ["y"], domain="TRT")], [], domains=["TRT"]),
        "operator 'EfficientNMS_TRT' of 'TRT'",
    ),
    "optimized": (
        model(
            [node("FusedConv", ["x", "a.weight"], ["y"], domain="com.microsoft")],
            [WEIGHT],
            domains=["com.microsoft"],
        ),
        "before ONNX Runtime optimized it",
    ),
    "by value": (
        model(
            [CONV, node("NonZero", ["c"], ["z"], name="nz"), node("Cast", ["z"], ["y"], to=1)],
            [WEIGHT],
        ),
        "NonZero (node 'nz')",
    ),
    "training": (
        model([CONV, TRAINING], [WEIGHT, numpy_helper.from_array(np.ones(8, np.float32), "one")]),
        "in training mode: call model.eval()",
    ),
    "nan": (model([conv("a", "x", "y")], [not_a_number()]), "tensor 'a.weight' holds NaN"),
    "missing weight": (model([conv("a", "x", "y")], []), "reads 'a.weight', which nothing makes"),
    "wrong weight": (
        model([conv("a", "x", "y")], [array("a.weight", 8, 4, 3, 3)]),
        "Conv (node 'a'",
    ),
    "constant": (
        model([node("Add", ["a.weight", "a.weight"], ["y"])], [WEIGHT]),
        "does not depend on the image",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_said_in_one_line(name, tmp_path):
    refused(*REFUSED[name], tmp_path)


def test_weights_of_ones_own_are_refused_for_a_file(tmp_path):
    path = saved(tmp_path / "A.ONNX", model([conv("a", "x", "y")], [WEIGHT]))
    assert load_network(str(path)).name == "A.ONNX"
    with pytest.raises(NetworkError, match="leave --weights out"):
        load_network(str(path), weights="random")


def test_a_reading_that_the_runtime_does_not_share_is_refused_with_the_node(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dshrink.network.onnx_files.layers._LAYERS", {"Relu": lambda view: nn.ReLU6()}
    )
    scale = numpy_helper.from_array(np.float32(100), "k")
    nodes = [
        node("Mul", ["x", "k"], ["m"]),
        node("Relu", ["m"], ["r"], name="wrong"),
        node("Sigmoid", ["r"], ["y"]),
    ]
    path = saved(tmp_path / "a.onnx", model(nodes, [scale]))
    with pytest.raises(NetworkError, match=r"first at Relu \(node 'wrong'\)"):
        read_onnx(path)


def test_nothing_is_trained_through_an_operator_without_a_gradient(tmp_path):
    nodes = [CONV, node("LeakyRelu", ["c"], ["y"], name="leak")]
    module = read_onnx(saved(tmp_path / "a.onnx", model(nodes, [WEIGHT])))
    with pytest.raises(NetworkError, match=r"LeakyRelu \(node 'leak'\).*has no gradient"):
        module.train()(image_of(1, 3, 16, 16))


def test_an_operator_of_several_results_gives_each_of_them(tmp_path):
    k = numpy_helper.from_array(np.array([2], np.int64), "k")
    nodes = [
        CONV,
        node("TopK", ["c", "k"], ["values", "places"], axis=1, name="top"),
        node("Relu", ["values"], ["y"]),
    ]
    path = saved(tmp_path / "a.onnx", model(nodes, [WEIGHT, k]))
    module = read_onnx(path)
    assert isinstance(module.get_submodule("top"), OnnxOperator)
    check_equal(path, module, image_of(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("image", "dims", "location", "said"),
    [
        ((1, 3, 10**6, 10**6), (), "", "input 'x': resolution 1000000x1000000: height and width"),
        ((1, 10**9, 32, 32), (), "", "input 'x': in_channels 1000000000: an image has 1 to 4096"),
        ((10**9, 3, 32, 32), (), "", "its batch of 1000000000 is above 4096"),
        ((1, 3, 32, 32), (2**40, 3, 3, 3), "", "tensor 'w' has 29686813949952 values"),
        ((1, 3, 32, 32), (-4, 3, 3, 3), "", "tensor 'w' has negative dimensions"),
        ((1, 3, 32, 32), (5, 3, 3, 3), "", "tensor 'w' of [5, 3, 3, 3] holds 432 bytes of data"),
        ((1, 3, 32, 32), (), "../a", "is in another file, '../a'"),
        ((1, 3, 32, 32), (), "/dev/zero", "is in another file, '/dev/zero'"),
    ],
)
def test_a_hostile_file_is_refused_before_anything_is_made_of_it(
    image: tuple[int, ...], dims: tuple[int, ...], location: str, said: str, tmp_path: Path
) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, image)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [weight],
    )
    opset = onnx.helper.make_opsetid("", 13)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=7)
    tensor = model.graph.initializer[0]
    if dims:
        del tensor.dims[:]
        tensor.dims.extend(dims)
    if location:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(NetworkError) as caught:
        open_onnx(tmp_path / "m.onnx")
    assert said in str(caught.value)
