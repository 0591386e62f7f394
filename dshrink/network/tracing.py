"""Imports timm and torchvision, and traces a network with torch.fx.

What comes out is checked: the graph computes what the module computes, or the network is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dshrink.errors import NetworkError
from dshrink.network.canonical import canonicalize
from dshrink.network.fidelity import random_image, require_same_results
from dshrink.network.layers import weights_dtype
from dshrink.network.value_tracer import BATCHES, ValueTracer, image_name, keeps_shape
from latency_tables.opspec import Shape

_MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_LIBRARIES: list[torch.library.Library] = []  # a library lives as long as its definitions

#: Where a node's meta data have the shape of what it gives for one image (``propagate_shapes``).
IMAGE_SHAPE = "image_shape"
#: Where a graph's meta data have the only batch that it takes; None where any will do.
ONLY_BATCH = "only_batch"


def import_timm() -> Any:
    """timm, also with a torchvision whose compiled operators do not load."""
    declare_missing_operators()
    return importlib.import_module("timm")


def import_torchvision_models() -> Any:
    """``torchvision.models``, under the same condition as ``import_timm``."""
    declare_missing_operators()
    return importlib.import_module("torchvision.models")


def declare_missing_operators() -> None:
    """Declare torchvision's operators whose absence stops its import; nothing is imported here.

    torchvision's wheels of PyPI for Linux are built for CUDA; with a CPU build of torch their
    operators do not load, and ``import torchvision``, and so ``import timm``, stops at the first
    that it decorates, which no classification network uses. With that operator's signature
    declared, the import passes (docs/installing.md).
    """
    found = importlib.util.find_spec("torchvision")
    if _LIBRARIES or found is None or not found.submodule_search_locations:
        return
    try:
        for file in Path(found.submodule_search_locations[0]).glob("_C*.so"):
            torch.ops.load_library(file)  # type: ignore[no-untyped-call]
            return
    except OSError:
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for signature in _MISSING_OPERATORS:
        library.define(signature)  # type: ignore[no-untyped-call]
    _LIBRARIES.append(library)


def trace(module: nn.Module, input_shape: tuple[int, int, int]) -> fx.GraphModule:
    """A GraphModule of ``module`` in eval mode, in canonical form, with the shapes of its tensors.

    ``input_shape`` is (C, H, W). Raises what the forward pass raises, TraceError of torch.fx for
    control flow that depends on data, and NetworkError where the graph gives other results.
    """
    module.eval()
    _check(module)
    image = random_image(module, input_shape)
    with without_fused_attention():
        # The module first, so that what it keeps of a run is no fake tensor.
        with torch.no_grad():
            expected = module(image)
        tracer, graph = _traced(module, input_shape)
        traced = fx.GraphModule(module, graph, type(module).__name__)
        traced.eval()
        canonicalize(traced, tracer.values, tracer.written)
        propagate_shapes(traced, input_shape)
        require_same_results(module, traced, image, expected)
    return traced


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Meanwhile attention runs as the operators that it is made of: they can be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _check(module: nn.Module) -> None:
    """Raise NetworkError for what tracing would take for something else."""
    image_name(module)
    for name, layer in module.named_modules():
        where = name or type(module).__name__
        if layer.training:
            raise NetworkError(
                f"{where} stays in training mode after eval(): what it computes depends on the "
                "batch; let its train() obey"
            )
        if isinstance(layer, torch.jit.ScriptModule):
            raise NetworkError(
                f"{where} is TorchScript, which cannot be traced: give the module that it was "
                "made from, or export it to ONNX"
            )


def _traced(module: nn.Module, input_shape: tuple[int, int, int]) -> tuple[ValueTracer, fx.Graph]:
    """The first way that works; what the last one raises says why none does.

    Some of timm's modules and functions say themselves that they cannot be traced, and are called
    as they are; some code does not run with fake tensors.
    """
    tracers = [
        ValueTracer(input_shape, dtype=weights_dtype(module), fake=fake, **untraceable)
        for fake, untraceable in product((True, False), ({}, _untraceable()))
    ]
    for tracer in tracers[:-1]:
        with suppress(Exception):
            return tracer, tracer.trace(module)
    return tracers[-1], tracers[-1].trace(module)


def _untraceable() -> dict[str, Any]:
    registry: Any = sys.modules.get("timm.layers._fx")
    if registry is None:
        return {}
    return {
        "leaves": registry.get_notrace_modules(),
        "functions": registry.get_notrace_functions(),
    }


def only_batch(module: nn.Module) -> int | None:
    """The one batch that a graph runs with, or None where any will do."""
    found: int | None = getattr(module, "meta", {}).get(ONLY_BATCH)
    return found


def needs_data(traced: fx.GraphModule) -> bool:
    """Whether a layer of it computes with real tensors alone."""
    return any(getattr(layer, "needs_data", False) for layer in traced.modules())


def propagate_shapes(traced: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    """Write ``node.meta[IMAGE_SHAPE]`` of every node: its tensor's shape without the batch.

    It is None for what is no tensor of floats with the batch as its first axis, and nowhere else.
    """
    real, batch = needs_data(traced), only_batch(traced)
    batches = (batch,) if batch else BATCHES
    found = [_shapes(traced, (one, *input_shape), real=real) for one in batches]
    for node in traced.graph.nodes:
        node.meta[IMAGE_SHAPE] = _image_shape([shapes[node] for shapes in found], batches)


def _shapes(
    traced: fx.GraphModule, image: tuple[int, ...], *, real: bool
) -> dict[fx.Node, Shape | None]:
    class Shapes(fx.Interpreter):
        def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
            if not real and keeps_shape(self.fetch_attr(target)):
                return torch.empty_like(args[0])
            return super().call_module(target, args, kwargs)

        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            floats = isinstance(value, torch.Tensor) and value.is_floating_point()
            found[n] = tuple(value.shape) if floats else None
            return value

    found: dict[fx.Node, Shape | None] = {}
    if real:
        with torch.no_grad():
            Shapes(traced).run(torch.zeros(image, dtype=weights_dtype(traced)))
        return found
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        try:
            Shapes(traced).run(torch.zeros(image, dtype=weights_dtype(traced)))
        except Exception:
            found.clear()
    return found or _shapes(traced, image, real=True)


def _image_shape(shapes: list[Shape | None], batches: tuple[int, ...]) -> Shape | None:
    rests = {None if shape is None or not shape else shape[1:] for shape in shapes}
    whole = all(shape and shape[0] == one for shape, one in zip(shapes, batches, strict=True))
    return rests.pop() if whole and len(rests) == 1 else None
