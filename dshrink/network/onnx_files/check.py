"""That a network read from an ONNX file computes what the file computes, and in which batches."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from dshrink.errors import NetworkError, first_line
from dshrink.network.onnx_files.runtime import run_all, run_onnx
from dshrink.network.onnx_files.source import VALUE_KEY, OnnxSource

#: Relative to the largest value: two implementations of deep networks differ by rounding.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2


def compare_with_runtime(
    source: OnnxSource, module: fx.GraphModule, image: Tensor, result: Tensor
) -> None:
    """Raise NetworkError, with the first node that differs, unless the runtime gives ``result``."""
    data = source.model.SerializeToString()
    try:
        expected = run_onnx(data, image.numpy())
    except Exception as error:  # onnxruntime raises its own kinds
        reason = first_line(error)
        raise NetworkError(
            f"{source.path}: ONNX Runtime cannot run it: {reason[:200]}; check it with "
            "onnx.checker, and export it again"
        ) from error
    if not np.isfinite(expected).all():
        raise NetworkError(
            f"{source.path}: gives NaN or infinity for a random image: give a network that was "
            "trained without, or normalises what it computes"
        )
    if _differ(source, result.numpy(), expected):
        raise NetworkError(
            f"{source.path}: ONNX Runtime computes something else than what dshrink reads, first "
            f"at {_first_difference(source, module, image) or 'its result'}: please report it"
        )


def _differ(source: OnnxSource, result: np.ndarray, expected: np.ndarray) -> bool:
    if result.shape != expected.shape:
        return True
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    difference = float(np.abs(result - expected).max(initial=0.0)) / scale
    allowed = _HALF_TOLERANCE if source.is_half else _TOLERANCE
    return not difference <= allowed  # NaN differs


def _first_difference(source: OnnxSource, module: fx.GraphModule, image: Tensor) -> str:
    """The first value of the graph that ONNX Runtime has otherwise."""
    values: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if isinstance(result, Tensor) and n.op not in ("placeholder", "output"):
                values.update(dict.fromkeys(n.meta[VALUE_KEY], result))
            return result

    with torch.inference_mode():
        Recorder(module).run(image)
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    values.pop(source.result, None)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
    try:
        found = run_all(model.SerializeToString(), image.numpy())[1:]
    except Exception:  # it is only asked for the name of a node
        return ""
    for (name, value), expected in zip(values.items(), found, strict=True):
        if _differ(source, value.float().numpy(), expected):
            made = next(node for node in model.graph.node if name in node.output)
            return f"{made.op_type} (node {made.name or name!r})"
    return ""


def fixed_batch(
    source: OnnxSource, module: fx.GraphModule, images: Tensor, results: Tensor
) -> int | None:
    """The batch of the file, or None where the module gives the same of one and of two images.

    Raises NetworkError for a network that runs with several images only.
    """
    batch = source.batch
    if batch is None:
        return None
    with torch.inference_mode():
        try:
            one, two = module(images[:1]), module(images[:1].repeat(2, 1, 1, 1))
            expected = (
                results[:1].numpy(),
                results[:1].repeat(2, *[1] * (results.ndim - 1)).numpy(),
            )
            if not any(
                _differ(source, a.numpy(), b) for a, b in zip((one, two), expected, strict=True)
            ):
                return None
        except Exception:  # an operator with the batch in its constants raises what it will
            pass
    if batch > 1:
        raise NetworkError(
            f"{source.path}: it computes {batch} images at once only, as some of its constants are "
            "for that batch: export it with a batch of 1, or with an open one"
        )
    return batch
