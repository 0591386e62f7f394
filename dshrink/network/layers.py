"""The few layers that merging needs and torch lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: The activations that masks remove, by the names that they have there.
REMOVABLE_FUNCTIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
}


def is_hooked(layer: nn.Module) -> bool:
    """Whether something else runs than the forward of the layer's class."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


def weights_dtype(module: nn.Module) -> torch.dtype:
    """The type that a module computes in: that of its weights, float32 without any."""
    floats = (one.dtype for one in module.parameters() if one.is_floating_point())
    return next(floats, torch.float32)


def attribute_at(module: nn.Module, path: str) -> Any:
    """A parameter, buffer or other attribute by its path among a module's modules."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


class PaddedConv2d(nn.Conv2d):
    """A convolution with its own pad on each side: ``pads`` is top, left, bottom, right.

    Negative pads crop the input.
    """

    def __init__(self, *args: Any, pads: tuple[int, int, int, int], **options: Any) -> None:
        super().__init__(*args, **options)
        self.pads = pads

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        top, left, bottom, right = self.pads
        padded = F.pad(input, (left, right, top, bottom))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def with_pads(conv: nn.Conv2d, pads: tuple[int, int, int, int]) -> PaddedConv2d:
    """The same convolution, sharing its parameters, with other pads."""
    padded = PaddedConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        pads=pads,
        groups=conv.groups,
        dilation=conv.dilation,
        bias=conv.bias is not None,
    )
    padded.weight, padded.bias = conv.weight, conv.bias
    return padded.train(conv.training)


class ConstantMap(nn.Module):
    """Adds a constant (C, H, W) to each image: the exact border of a merged block."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.values: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.values
