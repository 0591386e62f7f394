"""Networks that came from ONNX files go out as these files, with the merged regions replaced."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from merging import merge_blocks, merge_spans
from onnx import TensorProto, helper, numpy_helper
from onnx_exports import array, export, model
from span_oracle import random_span_mask
from torch import nn

import dshrink.merge.export
from dshrink.errors import CertificateError
from dshrink.merge.activations import WeightsOrigin
from dshrink.merge.certified_export import export_merged
from dshrink.merge.export import ExportError
from dshrink.merge.onnx_surgery import edited_model
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import load_network
from dshrink.network.onnx_files.source import source_of
from dshrink.network.tracing import import_timm

MASK = "10110111101111110"
node = helper.make_node


def image_of(*shape, seed=9):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run_file(path, image):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    half = entry.type == "tensor(float16)"
    return session.run(None, {entry.name: image.numpy().astype("f2" if half else "f4")})[0]


def relative(result, expected):
    return float(np.abs(np.asarray(result, np.float64) - expected).max() / np.abs(expected).max())


def merged_file(net, mask, path, *, segments="blocks", padding="bias_map", **options):
    changes = rewriting(net, mask, segments=segments)
    return export_merged(
        net,
        changes,
        path,
        padding=padding,
        certificate_file=path.with_suffix(".json"),
        origin=WeightsOrigin(trained="never", whose="random weights"),
        **options,
    )


@pytest.fixture(scope="session")
def exported(network, tmp_path_factory):
    """mobilenetv2_035 of the fixture as a file: norms folded or not, batch open or not."""
    folder = tmp_path_factory.mktemp("exported")
    net = network("mobilenetv2_035", 64, "random")

    def make(folded: bool = True, opened: bool = True) -> Path:
        path = folder / f"{folded}-{opened}.onnx"
        if not path.exists():
            library = import_timm().create_model(net.name, pretrained=False)
            library.load_state_dict(net.module.state_dict())
            axes = {"image": {0: "batch"}, "scores": {0: "batch"}} if opened else None
            image = image_of(1, *net.spec.input_shape)
            export(library, path, image, folded=folded, dynamic_axes=axes)
        return path

    return make


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
@pytest.mark.parametrize("folded", [True, False])
def test_a_merged_file_is_the_networks_that_its_source_merges_to(
    folded, padding, exported, network, tmp_path
):
    net = network("mobilenetv2_035", 64, "random")
    file = tmp_path / "merged.onnx"
    merged_file(load_network(str(exported(folded))), MASK, file, padding=padding)
    expected = merge_blocks(net, MASK, padding=padding).module(torch.float64)
    for batch in (1, 3):
        image = image_of(batch, *net.spec.input_shape)
        with torch.inference_mode():
            assert relative(run_file(file, image), expected(image.double()).numpy()) < 1e-5
    onnx.checker.check_model(str(file), full_check=True)


@pytest.mark.parametrize("seed", range(2))
def test_spans_of_a_file_merge_as_those_of_its_source(seed, exported, network, tmp_path):
    net = network("mobilenetv2_035", 64, "random")
    mask = random_span_mask(net.chain, random.Random(seed), 4)
    file = tmp_path / "merged.onnx"
    read = load_network(str(exported()))
    merged_file(read, mask, file, segments="spans", padding="repad")
    expected = merge_spans(net, mask).module(torch.float64)
    image = image_of(2, *net.spec.input_shape)
    with torch.inference_mode():
        assert relative(run_file(file, image), expected(image.double()).numpy()) < 1e-4


def test_the_rest_of_the_file_is_as_it_was(exported, tmp_path):
    source = onnx.load(exported())
    source.metadata_props.add(key="author", value="somebody")
    source.metadata_props.add(key="dshrink", value="null")
    source.doc_string, source.producer_name = "of a factory", "pytorch"
    source.graph.node.append(node("Constant", [], ["unused"], value_float=1.0, name="unused"))
    onnx.save(source, tmp_path / "a.onnx")
    merged_file(load_network(str(tmp_path / "a.onnx")), MASK, tmp_path / "b.onnx")
    made = onnx.load(tmp_path / "b.onnx")
    for field in ("opset_import", "ir_version", "doc_string", "producer_name", "producer_version"):
        assert getattr(made, field) == getattr(source, field)
    assert made.graph.name == source.graph.name
    assert made.graph.input == source.graph.input
    assert made.graph.output == source.graph.output
    said = {one.key: one.value for one in made.metadata_props}
    assert said["author"] == "somebody"
    assert json.loads(said["dshrink"])["keep_mask"] == MASK
    before = {one.name: one for one in source.graph.node}
    kept = [one for one in made.graph.node if one.name in before]
    assert all(one == before[one.name] for one in kept if one.op_type != "Conv" or one.input)
    new = [one.op_type for one in made.graph.node if one.name not in before]
    assert sorted(set(new)) == ["Add", "Clip", "Conv"]
    assert new.count("Conv") == MASK.count("0")
    assert "unused" in {one.name for one in kept}
    stored = {one.name: one for one in source.graph.initializer}
    used = {name for one in made.graph.node for name in one.input}
    for one in made.graph.initializer:
        assert one.name in used
        assert one.name not in stored or one == stored[one.name]


def test_a_fixed_batch_stays_fixed(exported, tmp_path):
    merged_file(load_network(str(exported(opened=False))), MASK, tmp_path / "b.onnx", batch=4)
    shape = onnx.load(tmp_path / "b.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [1, 3, 64, 64]


def test_nothing_is_written_that_differs(exported, tmp_path, monkeypatch):
    def wrong(merged, source, properties):
        made = edited_model(merged, source, properties)
        (bias,) = (one for one in made.graph.initializer if one.name == "classifier.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
        return made

    monkeypatch.setattr(dshrink.merge.export, "edited_model", wrong)
    with pytest.raises(ExportError, match="not written: the file gives results that differ"):
        merged_file(load_network(str(exported())), MASK, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def inverted(*, active_end=False):
    """Two inverted residuals with ReLU6, as nodes named by hand, around a skip."""
    weights, nodes = [], []

    def conv(name, x, y, out, into, k=1, groups=1):
        weights.extend(
            [
                array(f"{name}.w", out, into // groups, k, k, seed=len(weights)),
                array(f"{name}.b", out),
            ]
        )
        pads = [k // 2] * 4
        nodes.append(
            node("Conv", [x, f"{name}.w", f"{name}.b"], [y], name=name, pads=pads, group=groups)
        )

    def relu6(x, y):
        nodes.append(node("Clip", [x, "lo", "hi"], [y], name=f"clip {y}"))

    conv("stem", "x", "s", 8, 3, k=3)
    relu6("s", "s6")
    for block, x in (("one", "s6"), ("two", "one")):
        conv(f"{block}/expand", x, f"{block}.e", 16, 8)
        relu6(f"{block}.e", f"{block}.e6")
        conv(f"{block}/depthwise", f"{block}.e6", f"{block}.d", 16, 16, k=3, groups=16)
        relu6(f"{block}.d", f"{block}.d6")
        conv(f"{block}/project", f"{block}.d6", f"{block}.p", 8, 16)
        nodes.append(node("Add", [f"{block}.p", x], [block], name=f"{block}/add"))
    nodes.append(node("Relu", ["two"], ["y"]) if active_end else node("Identity", ["two"], ["y"]))
    bounds = [numpy_helper.from_array(np.float32(v), n) for n, v in (("lo", 0), ("hi", 6))]
    return nodes, [*weights, *bounds]


@pytest.mark.parametrize("active_end", [True, False])
@pytest.mark.parametrize("mask", ["01", "10", "00"])
def test_the_result_keeps_its_name_wherever_a_merge_ends(mask, active_end, tmp_path):
    nodes, weights = inverted(active_end=active_end)
    path = tmp_path / "a.onnx"
    onnx.save(model(nodes, weights, image=("n", 3, 16, 16)), path)
    net = load_network(str(path))
    merged_file(net, mask, tmp_path / "b.onnx")
    image = image_of(3, 3, 16, 16)
    expected = merge_blocks(net, mask).unmerged(torch.float64)
    with torch.inference_mode():
        assert (
            relative(run_file(tmp_path / "b.onnx", image), expected(image.double()).numpy()) < 1e-5
        )
    made = onnx.load(tmp_path / "b.onnx")
    assert [one.name for one in made.graph.output] == ["y"]
    left = {one.name for one in made.graph.initializer}
    merged_blocks = [b for b, sign in zip(("one", "two"), mask, strict=True) if sign == "0"]
    assert not any(name.startswith(f"{block}/") for block in merged_blocks for name in left)


@pytest.mark.parametrize(
    ("opset", "ir_version"), [(7, 3), (9, 4), (10, 5), (11, 6), (13, 7), (21, 10)]
)
def test_files_of_any_opset_and_ir_version_stay_valid(opset, ir_version, tmp_path):
    nodes, weights = inverted()
    if opset < 11:
        for one in nodes:
            if one.op_type == "Clip":
                del one.input[1:]
                one.attribute.extend(
                    helper.make_attribute(k, v) for k, v in (("min", 0.0), ("max", 6.0))
                )
        weights = weights[:-2]
    listed = [
        helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)) for one in weights
    ]
    made = model(
        nodes, weights, opset=opset, ir_version=ir_version, inputs=listed if ir_version < 4 else ()
    )
    shape = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 16, 16])
    made.graph.output[0].CopyFrom(shape)
    onnx.save(made, tmp_path / "a.onnx")
    merged_file(load_network(str(tmp_path / "a.onnx")), "00", tmp_path / "b.onnx")
    result = onnx.load(tmp_path / "b.onnx")
    onnx.checker.check_model(result)
    if ir_version < 4:
        stored = {one.name for one in result.graph.initializer}
        assert {one.name for one in result.graph.input} == {"x", *stored}


def test_a_file_in_half_precision_stays_in_half_precision(tmp_path):
    nodes, weights = inverted()
    halves = [
        numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name)
        for one in weights
    ]
    onnx.save(model(nodes, halves, element=TensorProto.FLOAT16), tmp_path / "a.onnx")
    net = load_network(str(tmp_path / "a.onnx"))
    merged_file(net, "00", tmp_path / "b.onnx")
    made = onnx.load(tmp_path / "b.onnx")
    assert {one.data_type for one in made.graph.initializer} == {TensorProto.FLOAT16}
    image = image_of(1, 3, 16, 16)
    expected = merge_blocks(net, "00").module(torch.float64)
    with torch.inference_mode():
        assert (
            relative(run_file(tmp_path / "b.onnx", image), expected(image.double()).numpy()) < 1e-2
        )


def test_open_sizes_are_those_that_the_merge_was_made_for(tmp_path):
    nodes, weights = inverted()
    onnx.save(model(nodes, weights, image=("n", 3, "h", "w")), tmp_path / "a.onnx")
    net = load_network(str(tmp_path / "a.onnx"), resolution=(24, 16))
    merged_file(net, "01", tmp_path / "b.onnx")
    shape = onnx.load(tmp_path / "b.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["n", 3, 24, 16]


def test_what_a_subgraph_reads_is_not_removed_with_a_block(tmp_path):
    """An If whose branches read a tensor that merging would take away, and one it would rename."""
    nodes, weights = inverted()
    nodes = nodes[:-1]
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(kind, ["two", "s6"], [f"{name}.y"], name=f"{name}/{kind}")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)],
        )
        for name, kind in (("then", "Add"), ("else", "Mul"))
    }
    nodes.append(node("If", ["choice"], ["y"], name="if", **branches))
    choice = numpy_helper.from_array(np.array(True), "choice")
    onnx.save(model(nodes, [*weights, choice]), tmp_path / "a.onnx")
    net = load_network(str(tmp_path / "a.onnx"))
    image = image_of(1, 3, 16, 16)
    with torch.inference_mode():
        same = relative(run_file(tmp_path / "a.onnx", image), net.module(image).numpy())
    assert same < 1e-5


class CrossStage(nn.Module):
    """A residual block, then a cross-stage part with split and concatenation, and SiLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.first = nn.Conv2d(8, 8, 1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.enter = nn.Conv2d(8, 16, 1)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.leave = nn.Conv2d(24, 8, 1)
        self.act, self.leaky = nn.SiLU(), nn.LeakyReLU(0.1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        a, b = self.leaky(self.enter(x)).split([8, 8], 1)
        x = self.act(self.leave(torch.cat([a, b, self.left(b)], 1)))
        return self.head(x.mean((2, 3)))


def test_a_block_before_a_cross_stage_merges_and_the_rest_stays(tmp_path):
    torch.manual_seed(0)
    axes = {"image": {0: "n"}, "scores": {0: "n"}}
    path = export(CrossStage(), tmp_path / "a.onnx", image_of(1, 3, 32, 32), dynamic_axes=axes)
    net = load_network(str(path))
    mask = "".join("1" if block.unmergeable else "0" for block in net.blocks)
    assert mask.startswith("0")
    done = merged_file(net, mask, tmp_path / "b.onnx")
    image = image_of(3, 3, 32, 32)
    with torch.inference_mode():
        expected = done.merged.unmerged(torch.float64)(image.double()).numpy()
    assert relative(run_file(tmp_path / "b.onnx", image), expected) < 1e-5
    kinds = [one.op_type for one in onnx.load(tmp_path / "b.onnx").graph.node]
    assert {"Split", "Concat", "LeakyRelu", "Sigmoid"} <= set(kinds)


def test_a_wrong_merge_of_a_file_is_refused(exported, monkeypatch, tmp_path):
    net = load_network(str(exported()))
    broken = source_of(net.module)
    assert broken is not None
    monkeypatch.setattr("dshrink.merge.verify.TOLERANCE", {torch.float64: 0.0, torch.float32: 0.0})
    with pytest.raises(CertificateError):
        merged_file(net, MASK, tmp_path / "b.onnx")
