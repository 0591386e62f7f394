"""The network of the self-test: small, with every kind of layer that our networks are made of.

Its four blocks can merge, so that a latency table of it has all that tables have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dshrink.network.models import Network, load_network

RESOLUTION = 128
CLASSES = 100
#: Pooling, flattening and the classifier.
HEAD_LAYERS = 3


def selftest_network() -> Network:
    """The network with weights of a fixed seed; its input is (N, 3, 128, 128)."""
    return load_network(_layers(), resolution=RESOLUTION, name="SelfTest")


def selftest_features() -> Network:
    """The same without its head; the output is (N, 80, 16, 16).

    The mean over an image of drawn numbers is much the same for all images, and hides what is
    wrong at a border, or in one image of a batch.
    """
    features = _layers()[:-HEAD_LAYERS]
    return load_network(features, resolution=RESOLUTION, name="SelfTestFeatures")


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside))


class _Block(nn.Module):
    """An inverted residual (Sandler et al., CVPR 2018)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        middle = 4 * inside
        self.body = nn.Sequential(
            _conv(inside, middle, 1),
            nn.ReLU6(),
            _conv(middle, middle, 3, stride, groups=middle),
            nn.ReLU6(),
            _conv(middle, outside, 1),
        )
        self.has_skip = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.has_skip else y


class _Gate(nn.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018), with MobileNetV3's activations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.expand(torch.relu(self.reduce(self.squeeze(x))))
        return x * nn.functional.hardsigmoid(scale)


def _layers() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            _conv(3, 16, 3, 2),
            nn.Hardswish(),
            nn.MaxPool2d(3, 2, 1),
            _Gate(16),
            _Block(16, 24, 1),
            _Block(24, 24, 1),
            _Block(24, 40, 2),
            _Block(40, 40, 1),
            _conv(40, 80, 1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(80, CLASSES),
        )
    return layers.eval()
