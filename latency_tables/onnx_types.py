"""An ONNX model with float32 wherever it has float16: the same values, for each half is a float.

For runtimes that take the precision as an option and the file as fp32. The model is walked by its
fields, so no place that can hold a type is left out: subgraphs, functions, sparse tensors.
"""

from __future__ import annotations

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, TensorProto, TypeProto, numpy_helper

#: Attributes of operators that are a type: of Cast, of what makes tensors, of (de)quantization.
_TYPES = ("to", "dtype", "output_dtype", "output_datatype", "stash_type")


def widen(model: onnx.ModelProto) -> int:
    """Make float32 of every float16 in place; returns of how many tensors and types."""
    return _widen(model)


def _widen(message: Message) -> int:
    if isinstance(message, TensorProto):
        return _widen_tensor(message)
    found = 0
    match message:
        case TypeProto.Tensor() | TypeProto.SparseTensor():
            if message.elem_type == TensorProto.FLOAT16:
                message.elem_type = TensorProto.FLOAT
                found = 1
        case AttributeProto(name=name, i=TensorProto.FLOAT16) if name in _TYPES:
            message.i = TensorProto.FLOAT
            found = 1
    for field, value in message.ListFields():
        if field.message_type:
            found += sum(map(_widen, [value] if isinstance(value, Message) else value))
    return found


def _widen_tensor(tensor: TensorProto) -> int:
    if tensor.data_type != TensorProto.FLOAT16:
        return 0
    wide = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    return 1
