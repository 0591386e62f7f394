"""Small networks of the kinds that join tensors otherwise than a ResNet does, each traced.

Norms have statistics and weights of their own, so that a merge that loses one is seen.
"""

from __future__ import annotations

import torch
from torch import nn

from dshrink.network.lowering import lower
from dshrink.network.models import Network
from dshrink.network.tracing import trace

CHANNELS = 8


def made(name: str, size: int = 12) -> Network:
    """The network of that class here, traced."""
    traced = trace(eager(name), (3, size, size))
    return Network(name=name, module=traced, lowered=lower(traced))


def eager(name: str) -> nn.Module:
    """The class itself with random weights and norms, the same ones at each call."""
    torch.manual_seed(1)
    module = KINDS[name]().eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.weight.data, norm.running_var):
                values.uniform_(0.5, 1.5)
            for values in (norm.bias.data, norm.running_mean):
                values.normal_()
    return module


def conv(channels=CHANNELS, kernel=3, out=None, stride=1, groups=1, norm=True):
    out = channels if out is None else out
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=not norm)
    return nn.Sequential(layer, nn.BatchNorm2d(out)) if norm else layer


class Branches(nn.Module):
    """RepVGG's block: a 3x3, a 1x1 and a norm of the input."""

    def __init__(self, channels_in=CHANNELS, stride=1, active=True):
        super().__init__()
        self.large = conv(channels_in, 3, CHANNELS, stride)
        self.small = conv(channels_in, 1, CHANNELS, stride)
        self.identity = nn.BatchNorm2d(CHANNELS) if channels_in == CHANNELS else None
        self.act = nn.ReLU() if active else nn.Identity()

    def forward(self, x):
        y = self.large(x) + self.small(x)
        return self.act(y if self.identity is None else y + self.identity(x))


class Reparameterised(nn.Sequential):
    """Its first block stands at the image, its last one gives the result; the third is linear."""

    def __init__(self):
        super().__init__(Branches(3), Branches(), Branches(active=False), Branches(stride=1))


class ManyBranches(nn.Module):
    """MobileOne's block: several equal branches, a scale and the input's norm, twice."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 3, CHANNELS)
        self.norm = nn.ModuleList([nn.BatchNorm2d(CHANNELS) for _ in range(2)])
        self.scale = nn.ModuleList([conv(kernel=1, groups=CHANNELS) for _ in range(2)])
        self.large = nn.ModuleList([conv(groups=CHANNELS) for _ in range(4)])
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.act(self.stem(x))
        for at in range(2):
            y = self.scale[at](x) + self.norm[at](x)
            for branch in self.large[2 * at : 2 * at + 2]:
                y = branch(x) + y
            x = self.act(y)
        return x


class Dense(nn.Module):
    """DenseNet's block between two transitions."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 3, CHANNELS)
        self.norms = nn.ModuleList([nn.BatchNorm2d(CHANNELS * (n + 1)) for n in range(3)])
        self.layers = nn.ModuleList(
            [conv(CHANNELS * (n + 1), 3, CHANNELS, norm=False) for n in range(2)]
        )
        self.transition = nn.Conv2d(3 * CHANNELS, CHANNELS, 1)
        self.pool = nn.AvgPool2d(2)
        self.last = conv()
        self.act = nn.ReLU()

    def forward(self, x):
        found = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=False):
            found.append(layer(self.act(norm(torch.cat(found, 1)))))
        x = self.transition(self.act(self.norms[2](torch.cat(found, 1))))
        return self.last(self.pool(x))


class Fires(nn.Module):
    """SqueezeNet: a squeeze, two expansions, a concat; a pooled branch as in Inception."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 3, CHANNELS, norm=False)
        self.squeeze = conv(out=4, kernel=1, norm=False)
        self.small, self.large = conv(4, 1, 8, norm=False), conv(4, 3, 8, norm=False)
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 4, 1))
        self.straight = nn.Sequential(conv(16, 3, 4), nn.ReLU(), conv(4))
        self.classes = nn.Conv2d(8, 5, 1)
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.act(self.squeeze(self.act(self.stem(x))))
        x = torch.cat([self.act(self.small(x)), self.act(self.large(x))], 1)
        x = torch.cat([self.pooled(x), self.straight(x)], 1)
        return self.act(self.classes(x)).mean((2, 3))


class Excited(nn.Module):
    """Inverted residuals, the last with squeeze-excite, with dropouts around as timm has them."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 3, CHANNELS, 2)
        self.blocks = nn.ModuleList([nn.ModuleList(self._layers()) for _ in range(3)])
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1)
        )
        self.act, self.sigmoid, self.drop = nn.ReLU6(), nn.Sigmoid(), nn.Dropout(0.1)

    @staticmethod
    def _layers():
        return conv(out=16, kernel=1), conv(16, groups=16), conv(16, 1, CHANNELS)

    def forward(self, x):
        x = self.act(self.stem(x))
        for at, (expand, depthwise, project) in enumerate(self.blocks):
            y = self.act(depthwise(self.act(expand(x))))
            if at == 2:
                y = y * self.sigmoid(self.gate(y))
            x = self.drop(self.drop(project(y)) + x)
        return x.mean((2, 3))


class PreActivated(nn.Module):
    """Norm and activation first, the projection computed before the main branch."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 3, CHANNELS)
        self.side = conv(out=CHANNELS, kernel=1, stride=2, norm=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(CHANNELS) for _ in range(3)])
        self.layers = nn.ModuleList([conv(stride=2), conv(norm=False), conv(), conv(norm=False)])
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.stem(x)
        side = self.side(x)
        x = self.layers[1](self.act(self.layers[0](self.act(self.norms[0](x))))) + side
        y = self.layers[3](self.act(self.layers[2](self.act(self.norms[1](x)))))
        return self.act(self.norms[2](x + y))


class Mixer(nn.Module):
    """ConvMixer: the skip ends behind an activation; a skip past a pool; two skips in one."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 3, CHANNELS)
        self.depthwise, self.point = conv(groups=CHANNELS), conv(kernel=1)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.one, self.two, self.side = conv(), conv(), conv(kernel=1)
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.act(self.stem(x))
        x = self.act(self.point(self.act(self.depthwise(x)) + x))
        x = self.act(x + self.pool(x))
        y = self.two(self.act(self.one(x)))
        return (y + x) + self.side(x)


class Crossed(nn.Module):
    """HRNet: branches that read each other, in a network that has residual blocks too."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 3, CHANNELS)
        self.blocks = nn.ModuleList([conv() for _ in range(4)])
        self.left, self.right, self.over, self.back = conv(), conv(), conv(kernel=1), conv(kernel=1)
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.act(self.stem(x))
        for at in (0, 2):
            x = self.act(self.blocks[at + 1](self.act(self.blocks[at](x))) + x)
            if at == 0:
                a, b = self.act(self.left(x)), self.act(self.right(x))
                x = self.act((a + self.over(b)) + (b + self.back(a)))
        return x


class TwoRuns(nn.Module):
    """Two runs in one module, whose names the new layers would like to have."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3)
        depthwise = [conv(groups=CHANNELS, norm=False) for _ in range(2)]
        point = [conv(kernel=1, norm=False) for _ in range(2)]
        layers = [depthwise[0], nn.ReLU(), point[0], nn.ReLU(), depthwise[1], nn.ReLU(), point[1]]
        self.body = nn.Sequential(*layers)
        self.body.add_module("0_to_2", nn.Identity())
        self.body.add_module("span_0_2", nn.ReLU())
        self.head = nn.Conv2d(CHANNELS, 4, 1)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


KINDS = {
    kind.__name__: kind
    for kind in (
        Reparameterised,
        ManyBranches,
        Dense,
        Fires,
        Excited,
        PreActivated,
        Mixer,
        Crossed,
        TwoRuns,
    )
}
