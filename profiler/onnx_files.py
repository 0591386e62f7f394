"""Read an ONNX file that a user gave, and refuse one that a device cannot be sent alone.

One file is sent, and its digest checked. A runtime on the device would look there for the other
files that tensors name; old ones read whatever path that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from profiler.errors import InvalidJobError


def load_complete(file: Path) -> onnx.ModelProto:
    """The model of a file. Raises InvalidJobError where it is damaged or data of it is outside."""
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(file.read_bytes())
    except DecodeError as error:
        raise InvalidJobError(
            f"{file} is not an ONNX model, or is damaged ({error}): check it with onnx.checker, "
            "and export it again"
        ) from error
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = next((one.value for one in tensor.external_data if one.key == "location"), "")
            raise InvalidJobError(
                f"{file}: the data of tensor {tensor.name[:200]!r} is in another file, "
                f"{where[:200]!r}: save the model with all data inside: "
                "onnx.save(model, file, save_as_external_data=False)"
            )
    return model


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor, wherever it is: also in attributes, subgraphs, functions, sparse tensors."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if isinstance(value, Message) else value:
                yield from _tensors(part)
