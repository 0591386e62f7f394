"""Small networks in the spellings that people use, with the opaque operators that each has."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

SIZE = 16


class Net(nn.Module):
    """A convolution, what the test is about, and a classifier."""

    def __init__(self, function: Callable[[Net, torch.Tensor], torch.Tensor], **layers: nn.Module):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.LazyLinear(5)
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.function(self, self.stem(x)).mean((2, 3)), 1))


def conv(inputs: int = 8, outputs: int = 8, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel, padding=options.pop("padding", kernel // 2), **options
    )


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), None)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2.0


class ReLU(nn.Module):
    """Named as torch's, and something else."""

    def forward(self, x):
        return torch.where(x > 0, x, 0.1 * x)


def in_place_skip(net: Net, x: torch.Tensor) -> torch.Tensor:
    """Preactivation: the in-place ReLU changes what the skip adds."""
    return x + net.b(net.a(net.relu(x)))


def split_branch(net: Net, x: torch.Tensor) -> torch.Tensor:
    kept, moved = torch.split(x, 4, 1)
    return x + net.b(torch.cat([kept, net.a(moved)], 1))


def shuffle(net: Net, x: torch.Tensor) -> torch.Tensor:
    b, c, h, w = x.shape
    return net.a(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


def squeeze_excite(net: Net, x: torch.Tensor) -> torch.Tensor:
    b, c, _, _ = x.size()
    gates = net.gate(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1)
    return x * gates.expand_as(x)


def sum_from_zero(net: Net, x: torch.Tensor) -> torch.Tensor:
    total = 0
    for branch in (net.a, net.b):
        total = total + branch(x)
    return total


def in_place_addition(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.a(x)
    y += x
    x = F.relu_(y)
    return x.add_(net.b(x))


class Swish(torch.autograd.Function):
    """As EfficientNets for PyTorch save memory."""

    @staticmethod
    def forward(ctx, x):
        return x * torch.sigmoid(x)


def patched(layer: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A layer whose instance computes something else than its class."""
    layer.forward = forward
    return layer


def self_attention(net: Net, x: torch.Tensor) -> torch.Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return net.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


def pad_if_odd(net: Net, x: torch.Tensor) -> torch.Tensor:
    x = net.a(x)
    if x.shape[-1] % 2:
        x = F.pad(x, (0, 1, 0, 1))
    assert x.shape[1] == 8, "eight channels"
    return net.b(x)


def attention(net: Net, x: torch.Tensor) -> torch.Tensor:
    b, c, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = net.qkv(tokens).reshape(b, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q @ k.transpose(-2, -1) * c**-0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(b, h * w, c).transpose(1, 2).reshape(b, c, h, w)


def windows(net: Net, x: torch.Tensor) -> torch.Tensor:
    """The batch is in an axis that holds more than the batch."""
    b, c, h, w = x.shape
    parts = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 4, 4)
    parts = net.a(parts).view(b, h // 4, w // 4, c, 4, 4).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(b, c, h, w)


#: What a network is made of, and the opaque operators that it has.
CASES: dict[str, tuple[Callable[[], Net], list[str]]] = {
    "relu in place by function": (lambda: Net(lambda s, x: F.relu_(s.a(x)), a=conv()), []),
    "clamp as ReLU6": (lambda: Net(lambda s, x: s.a(x).clamp(0, 6), a=conv()), []),
    "clamp from below as ReLU": (
        lambda: Net(lambda s, x: torch.clamp(s.a(x), min=0), a=conv()),
        [],
    ),
    "hardtanh as ReLU6": (lambda: Net(lambda s, x: s.r(x), r=nn.Hardtanh(0.0, 6.0)), []),
    "another hardtanh": (lambda: Net(lambda s, x: s.r(x), r=nn.Hardtanh()), ["Hardtanh"]),
    "gelu by tanh": (lambda: Net(lambda s, x: s.g(x), g=nn.GELU("tanh")), ["GELU"]),
    "functional pools": (
        lambda: Net(lambda s, x: F.avg_pool2d(F.max_pool2d(x, 2), 3, 1, 1, False, False)),
        [],
    ),
    "pool over all positions": (lambda: Net(lambda s, x: F.avg_pool2d(x, x.size()[2:])), []),
    "dropout": (lambda: Net(lambda s, x: s.d(s.a(x)), a=conv(), d=nn.Dropout2d()), []),
    "zeros around by a layer": (
        lambda: Net(
            lambda s, x: s.a(s.p(x)), a=conv(stride=2, padding=1), p=nn.ZeroPad2d((0, 1, 0, 1))
        ),
        [],
    ),
    "zeros around by a function": (
        lambda: Net(lambda s, x: s.a(F.pad(x, (1, 2))), a=conv(padding=0)),
        [],
    ),
    "padding same of an even kernel": (
        lambda: Net(lambda s, x: s.a(x), a=conv(kernel=4, padding="same", dilation=2)),
        [],
    ),
    "sum that starts at 0": (lambda: Net(sum_from_zero, a=conv(), b=conv(kernel=1)), []),
    "additions in place": (lambda: Net(in_place_addition, a=conv(), b=conv()), []),
    "skip of what a ReLU changes in place": (
        lambda: Net(in_place_skip, a=conv(), b=conv(), relu=nn.ReLU(inplace=True)),
        [],
    ),
    "the same tensor twice": (
        lambda: Net(lambda s, x: s.a(torch.cat([x, x], 1)) + x + x, a=conv(16)),
        [],
    ),
    "an addition with a factor": (
        lambda: Net(lambda s, x: torch.add(x, s.a(x), alpha=0.5), a=conv()),
        ["add"],
    ),
    "split": (lambda: Net(split_branch, a=conv(4, 4), b=conv()), ["getitem", "getitem"]),
    "channel shuffle": (lambda: Net(shuffle, a=conv()), ["view", "transpose", "reshape"]),
    "squeeze-excite by view": (
        lambda: Net(squeeze_excite, gate=nn.Sequential(nn.Linear(8, 8), nn.Sigmoid())),
        ["view", "expand_as"],
    ),
    "channels-last linear": (
        lambda: Net(lambda s, x: s.f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), f=nn.Linear(8, 8)),
        ["permute", "permute"],
    ),
    "layer scale": (
        lambda: Net(lambda s, x: x + s.a.weight.mean((1, 2, 3))[:, None, None] * s.a(x), a=conv()),
        ["mul"],
    ),
    "a convolution of one's own": (
        lambda: Net(lambda s, x: s.a(x), a=OwnConv(8, 8, 3)),
        ["OwnConv"],
    ),
    "a norm of one's own": (lambda: Net(lambda s, x: s.n(x), n=OwnNorm(8)), ["OwnNorm"]),
    "a class named ReLU": (lambda: Net(lambda s, x: s.r(x), r=ReLU()), ["mul", "where"]),
    "weights that are computed": (
        lambda: Net(lambda s, x: s.a(x), a=nn.utils.parametrizations.weight_norm(conv())),
        ["ParametrizedConv2d"],
    ),
    "a norm of several processes": (lambda: Net(lambda s, x: s.n(x), n=nn.SyncBatchNorm(8)), []),
    "reflected border": (
        lambda: Net(lambda s, x: s.a(x), a=conv(padding_mode="reflect")),
        ["Conv2d"],
    ),
    "transposed convolution": (
        lambda: Net(lambda s, x: s.t(x), t=nn.ConvTranspose2d(8, 8, 2, 2)),
        ["ConvTranspose2d"],
    ),
    "branch on a size": (lambda: Net(pad_if_odd, a=conv(), b=conv()), []),
    "attention": (
        lambda: Net(attention, qkv=nn.Linear(8, 24)),
        [
            *("flatten", "transpose", "reshape", "getitem", "getitem", "getitem", "transpose"),
            *("matmul", "mul", "softmax", "matmul", "transpose", "reshape"),
            *("transpose", "reshape"),
        ],
    ),
    "attention of torch": (
        lambda: Net(self_attention, attention=nn.MultiheadAttention(8, 2, batch_first=True)),
        ["flatten", "transpose", "getitem", "transpose", "reshape"],
    ),
    "a function with a backward of its own": (
        lambda: Net(lambda s, x: Swish.apply(s.a(x)), a=conv()),
        [],
    ),
    "a checkpointed part": (
        lambda: Net(lambda s, x: checkpoint(s.a, x, use_reentrant=False), a=conv()),
        [],
    ),
    "casts and copies of what is so already": (
        lambda: Net(lambda s, x: s.a(x.float()).to(torch.float32).clone().detach(), a=conv()),
        [],
    ),
    "a copy by keyword, and a cast to the type that is asked for": (
        lambda: Net(lambda s, x: s.a(torch.clone(input=x).type(x.type())), a=conv()),
        ["clone"],
    ),
    "a mean over channels and rows": (
        lambda: Net(lambda s, x: x * x.mean((1, 2))[:, :, None, None], a=conv()),
        ["mean", "getitem"],
    ),
    "a layer with a forward of its own": (
        lambda: Net(lambda s, x: s.r(x), r=patched(nn.ReLU(), lambda x: F.leaky_relu(x, 0.1))),
        ["ReLU"],
    ),
    "windows in the batch axis": (
        lambda: Net(windows, a=conv()),
        ["view", "permute", "view", "permute", "reshape"],
    ),
}


def made(make: Callable[[], Net]) -> Net:
    torch.manual_seed(0)
    net = make()
    net(torch.randn(2, 3, SIZE, SIZE))  # lazy layers take their sizes
    for norm in net.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    return net.eval()
