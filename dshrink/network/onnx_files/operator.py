"""An operator of an ONNX file that dshrink has no layer for, as a module that computes it.

ONNX's own reference implementation runs it, in the precision that the network is in, so that a
certificate in float64 stays one. It works on NumPy arrays, through which nothing is differentiated:
training what comes before such an operator is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from dshrink.errors import NetworkError

Array = npt.NDArray[Any]
_IR_VERSION = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlace:
    """Where the batch is read off: axis ``axis`` of input ``number``, ``times`` places an image."""

    number: int
    axis: int
    times: int


class OnnxOperator(nn.Module):
    """One node of an ONNX graph.

    ``inputs`` name, in order, what the module is called with; ``constants`` are the node's other
    inputs. One of these may grow with the batch (a shape): then ``per_image`` holds what each image
    adds to it, and ``batch`` says where the batch is read off. Gives one tensor, or a tuple where
    the node makes several.
    """

    #: It computes with NumPy: fake tensors do not run through it.
    needs_data = True

    def __init__(
        self,
        node: onnx.NodeProto,
        *,
        inputs: Sequence[str],
        constants: Mapping[str, Array],
        opset: int,
        domains: Mapping[str, int] | None = None,
        per_image: Mapping[str, Array] | None = None,
        batch: BatchPlace | None = None,
    ) -> None:
        super().__init__()
        self.node = node
        self.inputs = tuple(inputs)
        self.constants = dict(constants)
        self.opset = opset
        self.domains = dict(domains or {})
        self.per_image = dict(per_image or {})
        self.batch = batch
        self._evaluator: ReferenceEvaluator | None = None

    @property
    def operator(self) -> str:
        """What ONNX calls it."""
        return str(self.node.op_type)

    def extra_repr(self) -> str:
        return self.operator

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        first = tensors[0]
        if torch.is_grad_enabled() and any(one.requires_grad for one in tensors):
            raise NetworkError(
                f"operator {self.operator} (node {self.node.name!r}) of an ONNX file has no "
                "gradient here: train the network where it was made"
            )
        dtype = next((one.dtype for one in tensors if one.is_floating_point()), torch.float32)
        feeds = {
            name: one.detach().cpu().numpy() for name, one in zip(self.inputs, tensors, strict=True)
        }
        feeds |= {name: self._constant(name, tensors, dtype) for name in self.constants}
        if self._evaluator is None:
            self._evaluator = evaluator(self.node, list(feeds), self.opset, self.domains)
        results = tuple(
            _tensor(one, dtype).to(first.device) for one in self._evaluator.run(None, feeds)
        )
        return results[0] if len(results) == 1 else results

    def _constant(self, name: str, tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> Array:
        value = self.constants[name]
        if name in self.per_image:
            place = self.batch
            assert place is not None  # whoever gives ``per_image`` says where the batch is
            images = tensors[place.number].shape[place.axis] // place.times
            return np.asarray(value + images * self.per_image[name], value.dtype)
        if value.dtype.kind == "f" and dtype.is_floating_point:
            return value.astype(str(dtype).removeprefix("torch."))
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_evaluator": None}


def evaluator(
    node: onnx.NodeProto, inputs: Sequence[str], opset: int, domains: Mapping[str, int]
) -> ReferenceEvaluator:
    """What runs one node: on ``inputs``, for the outputs that have names."""
    graph = helper.make_graph(
        [node],
        "operator",
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in inputs],
        [
            helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
            for name in node.output
            if name
        ],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return ReferenceEvaluator(
        helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)
    )


def _tensor(value: Any, dtype: torch.dtype) -> torch.Tensor:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"gives a {type(value).__name__}, not a tensor")
    result = torch.from_numpy(np.ascontiguousarray(value).reshape(np.shape(value)).copy())
    return result.to(dtype) if result.is_floating_point() else result
