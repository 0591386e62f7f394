"""Imports timm and torchvision, and traces a network with torch.fx.

After tracing, timm's fused "norm + activation" modules are taken apart, so that each activation is
a node of its own with its own name (``blocks.1.0.bn1.act``) and can be removed alone.
"""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from dshrink.network.layers import ConstantMap

_CONV_MLP_ORDER = ("fc1", "act1", "drop", "fc2", "act2")
_MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_LIBRARIES: list[torch.library.Library] = []  # a library lives as long as its definitions


def import_timm() -> Any:
    """timm, also with a torchvision whose compiled operators do not load."""
    _import_torchvision()
    return importlib.import_module("timm")


def import_torchvision_models() -> Any:
    """``torchvision.models``, under the same condition as ``import_timm``."""
    _import_torchvision()
    return importlib.import_module("torchvision.models")


def _import_torchvision() -> None:
    """Import torchvision, which timm needs; declare operators whose absence stops its import.

    torchvision's wheels for Linux are built for CUDA; with a CPU build of torch their operators
    are missing, and the import stops at the first that it decorates, which no classification
    network uses. With that operator's signature declared, the import passes.
    """
    try:
        importlib.import_module("torchvision")
        return
    except ImportError:
        return  # timm works without it, or says itself what it misses
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for signature in _MISSING_OPERATORS:
        library.define(signature)  # type: ignore[no-untyped-call]
    _LIBRARIES.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")


class _Tracer(fx.Tracer):
    """Leaves: torch's own layers, their subclasses, and what timm marks as not traceable."""

    def __init__(self) -> None:
        timm_fx = importlib.import_module("timm.layers._fx")
        super().__init__(autowrap_functions=tuple(timm_fx.get_notrace_functions()))
        self._leaves = (
            nn.Conv2d,
            nn.BatchNorm2d,
            nn.AvgPool2d,
            nn.MaxPool2d,
            nn.Linear,
            nn.LayerNorm,
            ConstantMap,
            *timm_fx.get_notrace_modules(),
        )

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module, input_shape: tuple[int, int, int]) -> fx.GraphModule:
    """A GraphModule of ``module`` in eval mode, with the shape of every tensor in ``node.meta``.

    ``input_shape`` is (C, H, W). Raises what torch.fx raises when the forward pass does not trace.
    """
    import_timm()
    module.eval()
    _open_convolutional_heads(module)
    tracer = _Tracer()
    traced = fx.GraphModule(module, tracer.trace(module), type(module).__name__)
    traced.eval()
    _split_norm_activations(traced)
    propagate_shapes(traced, input_shape)
    return traced


def _open_convolutional_heads(module: nn.Module) -> None:
    """timm's VGG head tests its input size at run time, which cannot be traced; its layers can."""
    for name, child in list(module.named_modules()):
        if type(child).__name__ == "ConvMlp" and hasattr(child, "input_kernel_size"):
            layers = OrderedDict((n, child.get_submodule(n)) for n in _CONV_MLP_ORDER)
            module.set_submodule(name, nn.Sequential(layers))


def propagate_shapes(traced: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    """Write ``node.meta['tensor_meta']`` of every node, by one pass with a zero image."""
    parameter = next(traced.parameters(), torch.zeros(()))
    image = torch.zeros(1, *input_shape, dtype=parameter.dtype)
    with torch.inference_mode():
        ShapeProp(traced).propagate(image)


def _split_norm_activations(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        norm = traced.get_submodule(node.target)
        if not isinstance(norm, nn.BatchNorm2d) or type(norm) is nn.BatchNorm2d:
            continue
        activation = getattr(norm, "act", None)
        traced.set_submodule(node.target, _plain_norm(norm))
        if not isinstance(activation, nn.Module) or isinstance(activation, nn.Identity):
            continue
        name = f"{node.target}.act"
        traced.add_submodule(name, activation)
        with traced.graph.inserting_after(node):
            call = traced.graph.call_module(name, (node,))
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)
    traced.recompile()


def _plain_norm(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    for name, value in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
        setattr(plain, name, value)
    return plain.eval()
