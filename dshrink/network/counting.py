"""Multiply-accumulates of the nodes of a traced graph, as torch's FlopCounterMode counts them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dshrink.network.layers import weights_dtype
from dshrink.network.onnx_files.operator import OnnxOperator
from dshrink.network.tracing import only_batch

#: What multiplies and has no formula there: by name, and by a part of the name.
_UNCOUNTED = frozenset(
    (
        *("mv", "addmv", "dot", "vdot", "addbmm", "ger", "addr", "_trilinear"),
        *("_cdist_forward", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d"),
        *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
        *("lstm", "gru", "rnn_tanh", "rnn_relu", "_thnn_fused_lstm_cell", "mkldnn_rnn_layer"),
    )
)
_UNCOUNTED_PARTS = ("fft", "linalg_")
_UNCOUNTED_OF_ONNX = (
    *("Einsum", "LSTM", "GRU", "RNN", "GridSample", "DFT", "STFT", "Loop", "If", "Scan", "Det"),
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DeformConv", "Attention"),
)
_PRODUCTS_OF_ONNX = ("MatMul", "Gemm", "Conv", "ConvTranspose")


class _Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of all operators that ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class _Count(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.flops: dict[fx.Node, int | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        counter, names = FlopCounterMode(display=False), _Names()
        with counter, names:
            value = super().run_node(n)
        layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if isinstance(layer, OnnxOperator):
            self.flops[n] = _flops_of_kept(
                layer, [self.env[one] for one in n.all_input_nodes], value
            )
            return value
        unknown = any(_is_uncounted(name) for name in names.names)
        self.flops[n] = None if unknown else counter.get_total_flops()
        return value


def _flops_of_kept(layer: OnnxOperator, inputs: list[Any], result: Any) -> int | None:
    """Of an operator of an ONNX file, which torch sees nothing of."""
    if layer.node.domain not in ("", "ai.onnx") or layer.operator in _UNCOUNTED_OF_ONNX:
        return None
    if layer.operator not in _PRODUCTS_OF_ONNX:
        return 0
    named = dict(zip(layer.inputs, inputs, strict=True)) | layer.constants
    shapes: list[tuple[int, ...]] = [tuple(named[name].shape) for name in layer.node.input[:2]]
    first, second = shapes
    if layer.operator == "ConvTranspose":
        return 2 * math.prod(first) * math.prod(second[1:])
    reduced: int = first[-1] if layer.operator == "MatMul" else math.prod(second[1:])
    if layer.operator == "Gemm":
        turned = any(one.name == "transA" and one.i for one in layer.node.attribute)
        reduced = first[0 if turned else 1]
    return 2 * int(result.numel()) * int(reduced)


def _is_uncounted(name: str) -> bool:
    library, _, overload = name.partition("::")
    function = overload.partition(".")[0]
    known = library in ("aten", "prim", "prims") and function not in _UNCOUNTED
    norm = function == "linalg_vector_norm"  # which multiplies no matrices
    return not known or (not norm and any(one in function for one in _UNCOUNTED_PARTS))


def count_macs(traced: fx.GraphModule, image_shape: tuple[int, ...]) -> dict[fx.Node, int | None]:
    """Of each node, for one image of (C, H, W); None where an operator has no formula."""
    count, batch = _Count(traced), only_batch(traced) or 1
    # FlopCounterMode has no formula for the fused attention of CPUs.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        count.run(torch.zeros(batch, *image_shape, dtype=weights_dtype(traced)))
    return {
        node: None if flops is None else flops // 2 // batch for node, flops in count.flops.items()
    }
