"""What a unit's weights are in a module, set from the one convolution that was fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dshrink.merge.algebra import ConvWeights
from dshrink.merge.padding import Merged
from dshrink.network.batch_norm import folded_weights
from dshrink.network.layers import ConstantMap, PaddedConv2d
from latency_tables.opspec import Conv

#: Relative to the largest: a channel that its norm scales by less is off, and stays so.
_OFF = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedLayers:
    """A merged region: a convolution, and a bias map behind it or None."""

    conv: PaddedConv2d
    bias_map: ConstantMap | None
    start: Merged

    def shape(self) -> ConvWeights:
        """Its geometry and its first weights."""
        return _moved(self.start.conv, self.conv.weight.device)

    @torch.no_grad()
    def set(self, fitted: ConvWeights) -> None:
        """Take the weights of a fit."""
        self.conv.weight.copy_(fitted.weight)
        assert self.conv.bias is not None
        self.conv.bias.copy_(fitted.bias)

    def tensors(self) -> dict[str, Tensor]:
        """What a fit changes."""
        found = {"weight": self.conv.weight, "bias": self.conv.bias}
        if self.bias_map is not None:
            found["values"] = self.bias_map.values
        return {name: value.detach() for name, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptConv:
    """A convolution that stays, and the norm folded into it, or None."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    op: Conv

    @property
    def can_be_set(self) -> bool:
        """Whether there is a bias to take what a fit gives."""
        return self.norm.affine if self.norm is not None else self.conv.bias is not None

    def shape(self) -> ConvWeights:
        """Its geometry and the weights that it has, the norm folded."""
        norms = [] if self.norm is None else [self.norm]
        weight, bias = (torch.as_tensor(a) for a in folded_weights(self.conv, *norms))
        found = ConvWeights.from_weights(
            weight,
            bias,
            stride=self.op.stride,
            pads=self.op.pads,
            dilation=self.op.dilation,
            groups=self.op.groups,
        )
        return _moved(found, self.conv.weight.device)

    @torch.no_grad()
    def set(self, fitted: ConvWeights) -> None:
        """Take the weights of a fit; the norm keeps its scale and its statistics."""
        if self.norm is None:
            self.conv.weight.copy_(fitted.weight)
            assert self.conv.bias is not None
            self.conv.bias.copy_(fitted.bias)
            return
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        on = scale.abs() > _OFF * scale.abs().max()
        unfolded = fitted.weight[on] / scale[on].reshape(-1, 1, 1, 1)
        self.conv.weight[on] = unfolded.to(self.conv.weight.dtype)
        own = 0 if self.conv.bias is None else self.conv.bias.double()
        shift = fitted.bias + (norm.running_mean.double() - own) * scale
        norm.bias[on] = shift[on].to(norm.bias.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """What a fit changes."""
        if self.norm is not None:
            return {"weight": self.conv.weight.detach(), "norm_bias": self.norm.bias.detach()}
        assert self.conv.bias is not None
        return {"weight": self.conv.weight.detach(), "bias": self.conv.bias.detach()}


def _moved(conv: ConvWeights, device: torch.device) -> ConvWeights:
    return replace(conv, weight=conv.weight.to(device), bias=conv.bias.to(device))
