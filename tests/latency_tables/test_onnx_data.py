"""ONNX files whose data is elsewhere are refused on the host, before anything is sent."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_tables.errors import OnnxFileError
from latency_tables.onnx_data import complete_content, load_complete

PASSWD = "../../../../../../etc/passwd"


def inside(name: str) -> TensorProto:
    """A tensor with its data."""
    return numpy_helper.from_array(np.ones((2, 3), np.float32), name)


def outside(name: str = "stolen", location: str = PASSWD) -> TensorProto:
    """A tensor with its data in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[64])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(*initializers: TensorProto, nodes: tuple[Any, ...] = ()) -> onnx.GraphProto:
    """A graph with these tensors and nodes."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_graph(list(nodes), "g", [value], [value], list(initializers))


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    """A sparse tensor of these two."""
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def node(**attribute: Any) -> onnx.NodeProto:
    """A node with one attribute."""
    made = onnx.NodeProto(op_type="Constant", output=["y"])
    made.attribute.append(onnx.AttributeProto(name="value", **attribute))
    return made


def model(main: onnx.GraphProto, **fields: Any) -> onnx.ModelProto:
    """A model of this graph."""
    return onnx.ModelProto(ir_version=8, graph=main, **fields)


def nested(depth: int, innermost: TensorProto) -> onnx.GraphProto:
    """A graph in a graph in a graph."""
    made = graph(innermost)
    for _ in range(depth):
        made = graph(inside("w"), nodes=(node(g=made),))
    return made


def in_training() -> onnx.ModelProto:
    made = model(graph(inside("w")))
    made.training_info.add().algorithm.CopyFrom(graph(outside()))
    return made


def in_a_sparse_initializer(values: TensorProto, indices: TensorProto) -> onnx.ModelProto:
    made = model(graph(inside("w")))
    made.graph.sparse_initializer.append(sparse(values, indices))
    return made


def in_a_function(**fields: Any) -> onnx.ModelProto:
    made = model(graph(inside("w")))
    made.functions.append(onnx.FunctionProto(name="f", **fields))
    return made


HIDING_PLACES: dict[str, onnx.ModelProto] = {
    "initializer": model(graph(inside("w"), outside(), inside("v"))),
    "sparse values": in_a_sparse_initializer(outside(), inside("i")),
    "sparse indices": in_a_sparse_initializer(inside("v"), outside()),
    "attribute": model(graph(nodes=(node(t=outside()),))),
    "attribute list": model(graph(nodes=(node(tensors=[inside("w"), outside()]),))),
    "sparse attribute": model(graph(nodes=(node(sparse_tensor=sparse(outside(), inside("i"))),))),
    "sparse attributes": model(
        graph(nodes=(node(sparse_tensors=[sparse(inside("v"), outside())]),))
    ),
    "subgraph": model(nested(20, outside())),
    "subgraphs": model(graph(nodes=(node(graphs=[graph(), graph(outside())]),))),
    "function": in_a_function(node=[node(t=outside())]),
    "default of a function": in_a_function(
        attribute_proto=[onnx.AttributeProto(name="a", t=outside())]
    ),
    "training": in_training(),
}


def load(folder: Path, content: bytes) -> onnx.ModelProto:
    """What is read from a file of these bytes."""
    file = folder / "model.onnx"
    file.write_bytes(content)
    return load_complete(file)


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(OnnxFileError) as caught:
        load(folder, content)
    said = str(caught.value)
    assert said.startswith(str(folder / "model.onnx")) and "\n" not in said and len(said) < 2000
    return said


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(place: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, HIDING_PLACES[place].SerializeToString())
    assert f"the data of tensor 'stolen' is in another file, {PASSWD!r}" in said
    assert "onnx.save(model, file, save_as_external_data=False)" in said


def test_a_location_alone_or_an_entry_alone_is_enough(tmp_path: Path) -> None:
    marked = TensorProto(name="a", data_location=TensorProto.EXTERNAL)
    listed = TensorProto(name="b")
    listed.external_data.add(key="location", value="w.bin")
    assert "'a' is in another file, ''" in refusal(
        tmp_path, model(graph(marked)).SerializeToString()
    )
    assert "'b' is in another file, 'w.bin'" in refusal(
        tmp_path, model(graph(listed)).SerializeToString()
    )


def outside_of(folder: Path, location: str) -> Path:
    """A file whose one tensor is in another."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    file = folder / "model.onnx"
    file.write_bytes(model(graph(tensor)).SerializeToString())
    return file


def test_data_beside_the_file_is_read_and_goes_along(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0], np.float32)
    (tmp_path / "w.bin").write_bytes(values.tobytes())
    file = outside_of(tmp_path, "w.bin")
    read = load_complete(file)
    assert np.array_equal(numpy_helper.to_array(read.graph.initializer[0]), values)
    sent = onnx.ModelProto.FromString(complete_content(file, read))
    assert sent == read and not sent.graph.initializer[0].external_data
    whole = tmp_path / "whole.onnx"
    whole.write_bytes(sent.SerializeToString())
    assert complete_content(whole, load_complete(whole)) == b""


def test_data_elsewhere_is_never_read(tmp_path: Path) -> None:
    data, folder = tmp_path / "w.bin", tmp_path / "model"
    data.write_bytes(bytes(8))
    folder.mkdir()
    (folder / "link.bin").symlink_to(data)
    for location in (str(data), "../w.bin", "link.bin", "missing.bin"):
        with pytest.raises(OnnxFileError, match="is in another file"):
            load_complete(outside_of(folder, location))


def test_a_model_with_all_data_inside_is_read(tmp_path: Path) -> None:
    tensor = inside("w")
    tensor.data_location = TensorProto.DEFAULT
    made = model(graph(tensor, nodes=(node(t=inside("c")), node(ints=[1, 2], f=0.5))))
    made.metadata_props.add(key="location", value=PASSWD)
    made.graph.doc_string = "x" * 300
    assert load(tmp_path, made.SerializeToString()) == made


def test_a_shown_name_is_short_and_on_one_line(tmp_path: Path) -> None:
    refusal(tmp_path, model(graph(outside("a\nb" * 5000, "\0" * 5000))).SerializeToString())


def too_deep(levels: int) -> bytes:
    """Graph, node, attribute, graph, ..."""
    content = b""
    for level in range(levels):
        content = bytes([(0x32, 0x2A, 0x0A)[level % 3]]) + varint(len(content)) + content
    return b"\x3a" + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    pieces = []
    while value > 0x7F:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*pieces, value])


DAMAGED: dict[str, bytes] = {
    "length beyond the end": b"\x3a\x7f",
    "length beyond what it is in": b"\x3a\x02\x0a\x03" + b"abc",
    "no length": b"\x3a",
    "number without end": b"\x08" + b"\x80" * 11 + b"\x01",
    "number cut off": b"\x08\x80",
    "field zero": b"\x00\x00",
    "wire type 6": b"\x3e",
    "nesting": too_deep(3000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused(name: str, tmp_path: Path) -> None:
    assert "not an ONNX model, or is damaged" in refusal(tmp_path, DAMAGED[name])


def test_every_cut_and_many_changes_are_read_or_refused(tmp_path: Path) -> None:
    """Never another exception."""
    draw = random.Random(7)
    for made in HIDING_PLACES.values():
        whole = made.SerializeToString()
        cuts = [whole[:size] for size in range(0, len(whole), 3)]
        for content in cuts + [changed(whole, draw) for _ in range(100)]:
            try:
                load(tmp_path, content)
            except OnnxFileError as error:
                assert "\n" not in str(error)


def changed(whole: bytes, draw: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)
