"""Read an ONNX file that a user gave, with the data beside it; refuse one that stays incomplete.

One file is sent, and its digest checked. A runtime on the device would look there for the other
files that tensors name; old ones read whatever path that is. So what lies in the file's own folder
is put inside, and nothing else is ever opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper

from latency_tables.errors import OnnxFileError
from latency_tables.reading import read_bytes

#: A protobuf message is no larger.
MOST_BYTES = 2 << 30
_LFS_POINTER = b"version https://git-lfs"


def load_complete(file: Path) -> onnx.ModelProto:
    """The model of a file, with the data beside it.

    Raises OnnxFileError where it is damaged, or data of it is elsewhere.
    """
    try:
        content = read_bytes(file, most=MOST_BYTES)
    except OSError as error:
        if error.filename is not None:
            raise
        raise OnnxFileError(f"{file} is {error}: give an ONNX file below 2 GiB") from None
    if content.startswith(_LFS_POINTER):
        raise OnnxFileError(f"{file} is a pointer of Git LFS, not the model: run `git lfs pull`")
    if not content:
        raise OnnxFileError(f"{file} is empty: export it again")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise OnnxFileError(
            f"{file} is not an ONNX model, or is damaged ({error}): check it with onnx.checker, "
            "and export it again"
        ) from error
    outside = [tensor for tensor in _tensors(model) if _is_outside(tensor)]
    if outside and all(_is_beside(file, _location(tensor)) for tensor in outside):
        beside = {file.parent / _location(tensor) for tensor in outside}
        if sum(one.stat().st_size for one in beside) > MOST_BYTES:
            raise OnnxFileError(
                f"{file}: the data beside it is above 2 GiB, which no runtime here is sent: give "
                "a smaller network"
            )
        with suppress(Exception):  # what could not be read stays outside, which is said below
            external_data_helper.load_external_data_for_model(model, str(file.absolute().parent))
    for tensor in outside:
        if _is_outside(tensor):
            raise OnnxFileError(
                f"{file}: the data of tensor {tensor.name[:200]!r} is in another file, "
                f"{_location(tensor)[:200]!r}, which cannot be read beside it: bring it there, or "
                "save the model with all data inside: "
                "onnx.save(model, file, save_as_external_data=False)"
            )
    return model


def complete_content(file: Path, model: onnx.ModelProto) -> bytes:
    """What a device is sent of ``model`` instead of its file: nothing where that is complete."""
    own = onnx.ModelProto.FromString(file.read_bytes())
    return model.SerializeToString() if any(map(_is_outside, _tensors(own))) else b""


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.external_data) or tensor.data_location == onnx.TensorProto.EXTERNAL


def _location(tensor: onnx.TensorProto) -> str:
    return next((one.value for one in tensor.external_data if one.key == "location"), "")


def _is_beside(file: Path, location: object) -> bool:
    """Whether that is a file of the model's own folder or below, reached by no link."""
    if not isinstance(location, str) or not location:  # protobuf gives bytes that are no UTF-8
        return False
    path, said = file.parent / location, Path(location)
    inside = not said.is_absolute() and ".." not in said.parts
    try:
        return inside and path.is_file() and not path.is_symlink()
    except OSError:  # a name that is too long
        return False


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor, wherever it is: also in attributes, subgraphs, functions, sparse tensors."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if isinstance(value, Message) else value:
                yield from _tensors(part)
