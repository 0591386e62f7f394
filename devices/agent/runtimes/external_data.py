"""Refuse ONNX files whose tensors lie in other files, before any runtime sees them.

Old runtimes read whatever path such a tensor names.  And the host pushes, and checks the digest of,
one file alone.  The walk follows protobuf's wire format and skips all data: of a file of 100 MB it
reads some kilobytes.  What it cannot follow is refused too.
"""

import os
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..checks import JobError

#: Protobuf itself reads no message that is nested deeper.
MAX_DEPTH = 100
MAX_SHOWN_BYTES = 200
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

#: The messages of onnx.proto that lead to tensors: field number -> message.
MESSAGES: Dict[str, Dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
TENSOR_NAME, TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 8, 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2


class Field(NamedTuple):
    """One field of a message: a number (``value``), or bytes from ``start`` up to ``end``."""

    number: int
    wire_type: int
    value: int
    start: int
    end: int


class Outside(NamedTuple):
    """A tensor whose data is in another file."""

    name: str
    location: str


class DamagedError(ValueError):
    """What was read is no protobuf message."""


def refuse_external_data(file: str) -> None:
    """Raise a ``bad_model`` error where the file's data is not all inside, or it is damaged."""
    with open(file, "rb") as stream:
        try:
            found = first_outside(stream, os.fstat(stream.fileno()).st_size)
        except DamagedError as error:
            raise JobError(
                "bad_model",
                f"{file} is no whole ONNX file: {error}",
                "check the file with onnx.checker, and export it again",
            ) from error
    if found is not None:
        raise JobError(
            "bad_model",
            f"{file}: the data of tensor {found.name!r} is in another file, {found.location!r}",
            "save the model with all data inside: "
            "onnx.save(model, file, save_as_external_data=False)",
        )


def first_outside(stream: BinaryIO, size: int) -> Optional[Outside]:
    """Return the first tensor with external data in a serialized ModelProto of ``size`` bytes."""
    path: List[Tuple[str, Iterator[Field]]] = [("Model", fields(stream, 0, size))]
    while path:
        message, rest = path[-1]
        field = next(rest, None)
        if field is None:
            path.pop()
            continue
        child = MESSAGES[message].get(field.number)
        if child is None or field.wire_type != BYTES:
            continue
        if child == "Tensor":
            found = _outside(stream, field)
            if found is not None:
                return found
        elif len(path) == MAX_DEPTH:
            raise DamagedError(f"messages are nested deeper than {MAX_DEPTH} at byte {field.start}")
        else:
            path.append((child, fields(stream, field.start, field.end)))
    return None


def fields(stream: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message in these bytes; the stream may be moved in between."""
    while start < end:
        stream.seek(start)
        tag, start = _varint(stream, start, end)
        number, wire_type, value = tag >> 3, tag & 7, 0
        if tag >> 32 or not number:
            raise DamagedError(f"no field has the number {number}, at byte {start}")
        after = start
        if wire_type == VARINT:
            value, after = _varint(stream, start, end)
        elif wire_type == BYTES:
            length, start = _varint(stream, start, end)
            after = start + length
        elif wire_type in (FIXED64, FIXED32):
            after = start + (8 if wire_type == FIXED64 else 4)
        else:
            raise DamagedError(f"a field of the unknown wire type {wire_type} at byte {start}")
        if after > end:
            raise DamagedError(f"a field is longer than what it is in, at byte {start}")
        yield Field(number, wire_type, value, start, after)
        start = after


def _outside(stream: BinaryIO, tensor: Field) -> Optional[Outside]:
    name, location, is_outside = "", "", False
    for field in fields(stream, tensor.start, tensor.end):
        if field.number == TENSOR_NAME:
            name = _text(stream, field)
        elif field.number == TENSOR_EXTERNAL_DATA:
            is_outside = True
            if field.wire_type == BYTES:
                location = _location(stream, field) or location
        elif field.number == TENSOR_DATA_LOCATION:
            is_outside = is_outside or field.value != 0
    return Outside(name, location) if is_outside else None


def _location(stream: BinaryIO, entry: Field) -> str:
    given = {field.number: _text(stream, field) for field in fields(stream, entry.start, entry.end)}
    return given.get(ENTRY_VALUE, "") if given.get(ENTRY_KEY) == "location" else ""


def _text(stream: BinaryIO, field: Field) -> str:
    stream.seek(field.start)
    shown = stream.read(min(field.end - field.start, MAX_SHOWN_BYTES))
    return shown.decode("utf-8", "replace")


def _varint(stream: BinaryIO, start: int, end: int) -> Tuple[int, int]:
    """Return the number at ``start``, where the stream stands, and where the next byte is."""
    value = 0
    for index in range(10):
        byte = stream.read(1)
        if not byte or start + index >= end:
            raise DamagedError(f"it ends in the middle of a number at byte {start}")
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:
            return value, start + index + 1
    raise DamagedError(f"a number of more than 10 bytes at byte {start}")
