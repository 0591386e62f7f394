"""Small networks to refit, with norms that know the images they are given here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dshrink.network.lowering import lower
from dshrink.network.models import Network
from dshrink.network.tracing import trace

SIZE, CLASSES = 16, 5
#: As the command line names what ``mobile`` makes.
MOBILE = f"{Path(__file__)}:mobile"


def images(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator)


def layer(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        middle = 2 * inputs
        self.body = nn.Sequential(
            *(*layer(inputs, middle), nn.ReLU6()),
            *(*layer(middle, middle, 3, stride, middle), nn.ReLU6()),
            *layer(middle, outputs),
        )
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class Mobile(nn.Module):
    """Three blocks: with a skip, with a stride, with a skip."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layer(3, 4, 3), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(4, 4), Inverted(4, 6, 2), Inverted(6, 6))
        self.head = nn.Sequential(*layer(6, 8), nn.ReLU6())
        self.classifier = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))).mean((2, 3)))


class Basic(nn.Module):
    """ResNet's block, with a projection beside it where it has a stride."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(*layer(inputs, outputs, 3, stride))
        self.second = nn.Sequential(*layer(outputs, outputs, 3))
        self.act = nn.ReLU()
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Sequential(*layer(inputs, outputs, 1, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.act(self.first(x)))
        return self.act(y + (x if self.shortcut is None else self.shortcut(x)))


class Residual(nn.Module):
    """Three of ResNet's blocks, the second with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layer(3, 4, 3), nn.ReLU())
        self.blocks = nn.Sequential(Basic(4, 4), Basic(4, 6, 2), Basic(6, 6))
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


@torch.no_grad()
def _settled(module: nn.Module, gain: float, shift: float) -> nn.Module:
    """With statistics of random images, and outputs of norms of these deviations and means."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.weight.uniform_(0.7 * gain, 1.3 * gain)
        norm.bias.normal_(0.0, 0.3).add_(shift)
    module.train()(images(64, seed=9))
    for norm in norms:
        norm.momentum = 0.1
    return module.eval()


def mobile(classes: int = CLASSES, gain: float = 1.0, shift: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return _settled(Mobile(classes), gain, shift)


def residual() -> nn.Module:
    torch.manual_seed(0)
    return _settled(Residual(), 1.0, 0.0)


def linear_mobile() -> nn.Module:
    """Its activations never act: what they are given stays within (0, 6)."""
    return mobile(gain=0.1, shift=3.0)


def network_of(make: Callable[[], nn.Module], size: int = SIZE) -> Network:
    """Traced anew: who fits it may change it."""
    traced = trace(make(), (3, size, size))
    return Network(name=make.__name__, module=traced, lowered=lower(traced))
