"""An operator of an ONNX file that dshrink has no layer for, as a module that computes it.

ONNX Runtime runs it where it has a kernel for the precision that the network is in, else ONNX's own
reference implementation, which for some operators is a loop in Python over pixels: so a certificate
in float64 stays one. Both work on NumPy arrays, through which nothing is differentiated: training
what comes before such an operator is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from dshrink.errors import NetworkError, first_line
from dshrink.network.onnx_files.runtime import node_session

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
        #: By the types of what it is called with.
        self._evaluators: dict[tuple[str, ...], Callable[[Any], Any]] = {}

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
        results = tuple(_tensor(one, dtype).to(first.device) for one in self._run(feeds))
        return results[0] if len(results) == 1 else results

    def _run(self, feeds: Mapping[str, Array]) -> Sequence[Any]:
        kinds = tuple(str(one.dtype) for one in feeds.values())
        if kinds not in self._evaluators:
            with suppress(Exception):  # no kernel for these types, or none for such values
                model = node_model(self.node, feeds, self.opset, self.domains)
                found = partial(node_session(model.SerializeToString()).run, None)
                results: Sequence[Any] = found(feeds)
                self._evaluators[kinds] = found
                return results
            reference = evaluator(self.node, list(feeds), self.opset, self.domains)
            self._evaluators[kinds] = partial(reference.run, None)
        try:
            results = self._evaluators[kinds](feeds)
        except Exception as error:
            if "float64" not in kinds:
                raise
            raise NetworkError(
                f"operator {self.operator} (node {self.node.name!r}) of an ONNX file cannot be "
                f"computed in float64, in which results are compared: {first_line(error)[:160]}; "
                "`dshrink bench` measures the file as it is"
            ) from error
        return results

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
        return {**self.__dict__, "_evaluators": {}}


def node_model(
    node: onnx.NodeProto, feeds: Mapping[str, Array], opset: int, domains: Mapping[str, int]
) -> onnx.ModelProto:
    """A model of one node, for inputs of these types and the outputs that have names."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(one.dtype) for name, one in feeds.items()}
    graph = helper.make_graph(
        [node],
        "operator",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)


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
