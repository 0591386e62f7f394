"""ONNX files for tests: what TorchScript's exporter makes of a module, and models made by hand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def export(
    module: nn.Module, path: Path, image: torch.Tensor, *, folded: bool = True, **options: Any
) -> Path:
    """Export as TorchScript does; without ``folded`` norms stay nodes of their own."""
    if not folded:
        options |= {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one
        torch.onnx.export(
            module.eval(), image, str(path), dynamo=False,
            input_names=["image"], output_names=["scores"], **options,
        )  # fmt: skip
    return path


def array(name: str, *shape: int, seed: int = 0, element: type = np.float32) -> onnx.TensorProto:
    """A stored tensor of random numbers; shape first, then what draws them."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return numpy_helper.from_array(
        (values / np.sqrt(max(1, values[:1].size))).astype(element), name
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    stored: Sequence[onnx.TensorProto],
    *,
    image: Sequence[int | str] = (1, 3, 16, 16),
    result: str = "y",
    element: int = TensorProto.FLOAT,
    opset: int = 17,
    ir_version: int = 8,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model from an image "x" to a result without a declared shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [*inputs, helper.make_tensor_value_info("x", element, image)],
        [helper.make_tensor_value_info(result, element, None)],
        stored,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(one, 1) for one in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
