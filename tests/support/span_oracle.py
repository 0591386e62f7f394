"""A network of timm or torchvision run by hand as a span mask says, with the library's own modules.

It shares no code with dshrink: a span of several convolutions runs on its input, padded with zeros
once, without any padding inside; skips are cropped to what is left. Written for MobileNetV2,
EfficientNet-Lite and ResNets of basic blocks.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

KINDS = ("InvertedResidual", "DepthwiseSeparableConv", "BasicBlock")


@dataclass
class Unit:
    """A convolution with its norm; ``shortcut`` from behind ``source`` is added behind it."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    activation: str | None
    source: int | None = None
    shortcut: nn.Module = field(default_factory=nn.Identity)


def units_of(model):
    """The convolutions of all blocks, in order."""
    units = []
    for block in (m for m in model.modules() if type(m).__name__ in KINDS):
        start = len(units)
        basic = type(block).__name__ == "BasicBlock"
        children = [m for n, m in block.named_modules() if "downsample" not in n]
        convs = [m for m in children if isinstance(m, nn.Conv2d)]
        norms = [m for m in children if isinstance(m, nn.BatchNorm2d)]
        assert len(convs) == len(norms)
        function = "relu" if basic else "relu6"
        units += [Unit(c, n, function) for c, n in zip(convs, norms, strict=True)]
        if not basic:
            units[-1].activation = None
        if basic or block.has_skip:
            units[-1].source = start
        if basic and block.downsample is not None:
            units[-1].shortcut = block.downsample
    return units


def pads_of(conv, size):
    """(top, left) pads for an input of this size: static, or the begin of TensorFlow's SAME."""
    if type(conv).__name__ != "Conv2dSame":
        return conv.padding
    sides = zip(size, conv.kernel_size, conv.stride, strict=True)
    return tuple(max((-(-n // s) - 1) * s + k - n, 0) // 2 for n, k, s in sides)


def body(units, x, mask):
    """What the blocks give for ``x`` under the span mask."""
    cuts = [0, *(at for at, sign in enumerate(mask, start=1) if sign != "0")]
    tensors = {0: x}
    for i, j in pairwise(cuts):
        y = merged_span(units, tensors[i], i, j) if j > i + 1 else None
        last = units[j - 1]
        if y is None:
            y = F.batch_norm(last.conv(tensors[i]), *norm_of(last.norm))
        outside = last.source is not None and last.source < i
        if outside or (j == i + 1 and last.source == i):
            y = y + last.shortcut(tensors[last.source])
        if mask[j - 1] == "1":
            y = F.relu(y) if last.activation == "relu" else F.relu6(y)
        tensors[j] = y
    return tensors[len(units)]


def merged_span(units, x, i, j):
    """The convolutions i+1..j without activations, all padding at the input, skips inside added."""
    inside = units[i:j]
    sizes = [tuple(x.shape[2:])]
    begins = []
    for unit in inside:
        begins.append(pads_of(unit.conv, sizes[-1]))
        same = type(unit.conv).__name__ == "Conv2dSame"
        sizes.append(
            tuple(
                -(-n // s) if same else (n + 2 * p - k) // s + 1
                for n, p, k, s in zip(
                    sizes[-1], begins[-1], unit.conv.kernel_size, unit.conv.stride, strict=True
                )
            )
        )
    # The margin that stands around each tensor so that nothing after it has to pad.
    margins = [(0, 0)]
    for unit, begin in zip(reversed(inside), reversed(begins), strict=True):
        strides = unit.conv.stride
        margins.append(
            tuple(p + s * m for p, s, m in zip(begin, strides, margins[-1], strict=True))
        )
    margins.reverse()
    top, left = margins[0]
    plenty = 2 * max(top, left) + 2 * math.prod(u.conv.stride[0] for u in inside) + 4
    tensors = [F.pad(x, (left, plenty, top, plenty))]
    for at, unit in enumerate(inside, start=1):
        conv = unit.conv
        y = F.conv2d(
            tensors[-1], conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups
        )
        y = F.batch_norm(y, *norm_of(unit.norm))
        if unit.source is not None and unit.source >= i:
            start = unit.source - i
            step = math.prod(u.conv.stride[0] for u in inside[start:at])
            offset = [margins[start][a] - step * margins[at][a] for a in range(2)]
            y = y + cropped(unit.shortcut(cropped(tensors[start], offset)), (0, 0), y.shape[2:])
        tensors.append(y)
    return cropped(tensors[-1], (0, 0), sizes[-1])


def cropped(x, begin, size=None):
    top, left = begin
    bottom, right = (None, None) if size is None else (top + size[0], left + size[1])
    result = x[:, :, top:bottom, left:right]
    assert size is None or tuple(result.shape[2:]) == tuple(size)
    return result


def norm_of(norm):
    return norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps


def run(model, x, mask):
    """The whole network's result."""
    units = units_of(model)
    assert len(units) == len(mask)
    if hasattr(model, "conv_stem"):
        y = body(units, model.bn1(model.conv_stem(x)), mask)
        return model.forward_head(model.bn2(model.conv_head(y)))
    y = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.fc(model.avgpool(body(units, y, mask)).flatten(1))


def random_span_mask(chain, rng: random.Random, longest: int, mode: str = "exact") -> str:
    """A span mask whose spans are valid and hold at most ``longest`` convolutions."""
    ends: dict[int, list[int]] = {}
    for i, j in chain.spans(mode):
        if j - i <= longest:
            ends.setdefault(i, []).append(j)
    mask = ""
    while len(mask) < chain.length:
        i = len(mask)
        j = rng.choice(ends[i])
        mask += "0" * (j - i - 1) + rng.choice("1|")
    return mask
