"""ONNX files whose data is elsewhere never reach a runtime."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from devices.agent.checks import JobError
from devices.agent.runtimes import external_data, onnxruntime
from devices.agent.runtimes.external_data import DamagedError, Outside, first_outside

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


def look(content: bytes) -> Outside | None:
    """What is found in these bytes."""
    return first_outside(io.BytesIO(content), len(content))


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(place: str) -> None:
    content = HIDING_PLACES[place].SerializeToString()
    assert look(content) == Outside("stolen", PASSWD)


def test_every_message_that_can_hold_a_tensor_is_walked() -> None:
    """The table of messages is what onnx.proto says, but for tensors that are types of values."""
    expected: dict[str, dict[int, str]] = {}
    to_see = [onnx.ModelProto.DESCRIPTOR]
    while to_see:
        message = to_see.pop()
        name = message.full_name.removeprefix("onnx.").removesuffix("Proto")
        if name in expected:
            continue
        children = {field.number: field.message_type for field in message.fields}
        expected[name] = {
            number: child.name.removesuffix("Proto")
            for number, child in children.items()
            if child is not None and leads_to_a_tensor(child, set())
        }
        to_see += [child for child in children.values() if child and child.name != "TensorProto"]
    assert {name: fields for name, fields in expected.items() if fields} == external_data.MESSAGES


def leads_to_a_tensor(message: Any, seen: set[str]) -> bool:
    if message.name == "TensorProto":
        return True
    if message.name in seen:
        return False
    seen.add(message.name)
    children = [field.message_type for field in message.fields if field.message_type]
    return any(leads_to_a_tensor(child, seen) for child in children)


def test_a_location_alone_or_an_entry_alone_is_enough() -> None:
    marked = TensorProto(name="a", data_location=TensorProto.EXTERNAL)
    listed = TensorProto(name="b")
    listed.external_data.add(key="location", value="w.bin")
    assert look(model(graph(marked)).SerializeToString()) == Outside("a", "")
    assert look(model(graph(listed)).SerializeToString()) == Outside("b", "w.bin")


def test_a_second_location_does_not_hide_the_first() -> None:
    """Protobuf would take the last one; other readers may not."""
    tensor = outside().SerializeToString() + b"\x70\x00"
    content = b"\x2a" + bytes([len(tensor)]) + tensor
    whole = b"\x3a" + bytes([len(content)]) + content
    assert onnx.ModelProto.FromString(whole).graph.initializer[0].data_location == 0
    assert look(whole) == Outside("stolen", PASSWD)


def test_a_model_with_all_data_inside_passes() -> None:
    tensor = inside("w")
    tensor.data_location = TensorProto.DEFAULT
    made = model(graph(tensor, nodes=(node(t=inside("c")), node(ints=[1, 2], f=0.5))))
    made.metadata_props.add(key="location", value=PASSWD)
    made.graph.doc_string = "x" * 300
    assert look(made.SerializeToString()) is None
    assert look(b"") is None


def test_the_refusal_names_tensor_and_location_and_the_runtime_never_sees_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(HIDING_PLACES["initializer"].SerializeToString())
    unloaded = onnxruntime.OnnxRuntime()  # it would fail with an AttributeError
    with pytest.raises(JobError, match=r"model\.onnx.*'stolen'.*etc/passwd") as caught:
        unloaded.prepare(str(file), 1, 0, {})
    assert caught.value.kind == "bad_model"
    assert "all data inside" in caught.value.advice


def test_a_shown_name_is_short_and_on_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(model(graph(outside("a\nb" * 5000, "\0" * 5000))).SerializeToString())
    with pytest.raises(JobError) as caught:
        external_data.refuse_external_data(str(file))
    assert len(caught.value.message) < 2000 and "\n" not in caught.value.message


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    pieces = []
    while value > 0x7F:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*pieces, value])


def too_deep(levels: int) -> bytes:
    """Graph, node, attribute, graph, ..."""
    content = b""
    for level in range(levels):
        content = bytes([(0x32, 0x2A, 0x0A)[level % 3]]) + varint(len(content)) + content
    return b"\x3a" + varint(len(content)) + content


DAMAGED: dict[str, bytes] = {
    "length beyond the end": b"\x3a\x7f",
    "length of eight exabytes": b"\x3a" + varint((1 << 63) - 1),
    "length beyond what it is in": b"\x3a\x02\x0a\x03" + b"abc",
    "no length": b"\x3a",
    "number without end": b"\x08" + b"\x80" * 11 + b"\x01",
    "number cut off": b"\x08\x80",
    "number that runs out of its message": b"\x3a\x02\x08\x80\x01\x00",
    "field zero": b"\x00\x00",
    "field beyond 29 bits": varint(1 << 33) + b"\x00",
    "group": b"\x3b\x3c",
    "wire type 6": b"\x3e",
    "fixed number cut off": b"\x09\x00\x00",
    "nesting": too_deep(3000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(DAMAGED[name])
    with pytest.raises(JobError, match="no whole ONNX file") as caught:
        external_data.refuse_external_data(str(file))
    assert caught.value.kind == "bad_model"


def test_nesting_that_protobuf_reads_is_walked() -> None:
    """Its own limit is 100 messages, of which the model is none."""
    whole = model(nested(30, outside())).SerializeToString()
    assert onnx.ModelProto.FromString(whole) and look(whole) == Outside("stolen", PASSWD)


def test_every_cut_and_many_changes_are_found_or_refused_or_harmless() -> None:
    """Never another exception, and what protobuf sees as external is never let through."""
    draw = random.Random(7)
    for place, made in HIDING_PLACES.items():
        whole = made.SerializeToString()
        cuts = [whole[:size] for size in range(0, len(whole), 3)]
        changes = [changed(whole, draw) for _ in range(100)]
        for content in cuts + changes:
            try:
                found = look(content)
            except DamagedError:
                continue
            assert found or not seen_by_protobuf(content), place


def changed(whole: bytes, draw: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def seen_by_protobuf(content: bytes) -> bool:
    try:
        made = onnx.ModelProto.FromString(content)
    except Exception:
        return False
    return any(is_outside(made))


def is_outside(message: Any) -> Any:
    """For each tensor in the message, however deep: whether its data is outside."""
    if isinstance(message, TensorProto):
        yield message.data_location == TensorProto.EXTERNAL or bool(message.external_data)
        return
    for field, value in message.ListFields():
        if field.message_type:
            values = [value] if hasattr(value, "ListFields") else value
            for one in values:
                yield from is_outside(one)


def test_a_file_of_a_hundred_megabytes_is_walked_without_reading_its_data(
    tmp_path: Path, save: Callable[[int], Path]
) -> None:
    file = save(100 << 20)
    start = time.process_time()
    external_data.refuse_external_data(str(file))
    assert time.process_time() - start < 0.2


@pytest.fixture
def save(tmp_path: Path) -> Callable[[int], Path]:
    """Write a model with one tensor of so many bytes, which take no room on the disk."""

    def write(size: int) -> Path:
        tensor = b"\x42\x01w\x4a" + varint(size)
        initializer = b"\x2a" + varint(len(tensor) + size) + tensor
        head = b"\x3a" + varint(len(initializer) + size) + initializer
        file = tmp_path / "big.onnx"
        file.write_bytes(head)
        os.truncate(file, len(head) + size)
        return file

    return write
