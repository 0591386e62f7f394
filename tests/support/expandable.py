"""Networks with convolutions to expand, made by hand: those of the paper at a sixteenth's width."""

from __future__ import annotations

import torch
from torch import nn

from dshrink.network.lowering import lower
from dshrink.network.models import Network
from dshrink.network.tracing import import_torchvision_models, trace


def make_network(module: nn.Module, shape: tuple[int, int, int], name: str = "by_hand") -> Network:
    traced = trace(module, shape)
    return Network(name=name, module=traced, lowered=lower(traced))


def plain(*layers: nn.Module) -> nn.Sequential:
    """A convolution before, an activation and a head behind: layer "1" is the first of these."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.ReLU(), nn.Flatten())


def tiny_vgg(layout: str, *, norms: bool = False) -> Network:
    """torchvision's layers of VGG-11 ("A") or VGG-13 ("B"), 4 to 32 channels, at 32 x 32."""
    vgg = import_torchvision_models().vgg
    torch.manual_seed(0)
    widths = [value if value == "M" else value // 16 for value in vgg.cfgs[layout]]
    features = vgg.make_layers(widths, batch_norm=norms)
    return make_network(nn.Sequential(*features, nn.Flatten(), nn.Linear(32, 10)), (3, 32, 32))
