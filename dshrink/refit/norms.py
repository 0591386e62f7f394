"""Batch norms behind what was refitted, matched to the original's moments.

What a fit cannot explain is missing in the variance of what it gives, and every norm behind goes on
with statistics of the original. Here each norm's statistics become those of the refitted network,
and its scale and shift are such that its output has the mean and the variance, channel by channel,
that it has in the original on the same images. All norms are matched in one pass: while a batch
runs, each norm's output is corrected by that batch's own moments, so that those behind it see what
they will see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

#: Mean and variance a channel, in float64.
Moments = tuple[Tensor, Tensor]
#: Moments of a batch are taken of so many images.
_IMAGES = 32
#: Added to variances before they are divided.
_LEAST = 1e-8


def norms_behind(module: fx.GraphModule, cut: fx.Node) -> tuple[str, ...]:
    """The paths of the batch norms that come after ``cut`` and are called once."""
    nodes = list(module.graph.nodes)
    paths = [
        str(node.target)
        for node in nodes[nodes.index(cut) :]
        if node.op == "call_module" and isinstance(_layer(module, node), nn.BatchNorm2d)
    ]
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    return tuple(path for path in paths if calls[path] == 1)


def _layer(module: fx.GraphModule, node: fx.Node) -> nn.Module:
    return module.get_submodule(str(node.target))


@torch.no_grad()
def match_norms(
    original: nn.Module, module: nn.Module, paths: Iterable[str], images: Iterable[Tensor]
) -> None:
    """Match the norms at ``paths`` of ``module``, in eval mode, to those of ``original``; in place.

    ``images`` are batches (N, C, H, W), which are joined to larger ones.
    """
    pairs = {
        path: (norm, own)
        for path in paths
        if isinstance(norm := module.get_submodule(path), nn.BatchNorm2d)
        and isinstance(own := original.get_submodule(path), nn.BatchNorm2d)
        and norm.affine
    }
    sums = {path: _Sums() for path in pairs}
    with _matching(pairs, sums):
        for batch in _larger(images):
            original(batch)
            module(batch)
    for path, (norm, _) in pairs.items():
        sums[path].match(norm)


def _larger(images: Iterable[Tensor]) -> Iterator[Tensor]:
    waiting: list[Tensor] = []
    for batch in images:
        waiting.append(batch)
        if sum(map(len, waiting)) >= _IMAGES:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


@dataclass(slots=True)
class _Sums:
    """Mean and mean square of a norm's input, and of the original's output; summed over images."""

    latest: Moments | None = None
    total: Tensor | None = None
    images: int = 0

    def add(self, x: Tensor) -> Moments:
        """Add a norm's input; returns its moments."""
        assert self.latest is not None
        mean, variance = found = _moments(x)
        wanted_mean, wanted_variance = self.latest
        terms = torch.stack(
            [
                mean,
                variance + mean.square(),
                wanted_mean,
                wanted_variance + wanted_mean.square(),
            ]
        )
        terms *= len(x)
        self.total = terms if self.total is None else self.total + terms
        self.images += len(x)
        return found

    def match(self, norm: nn.BatchNorm2d) -> None:
        if self.total is None:
            return
        mean, square, wanted_mean, wanted_square = self.total / self.images
        variance = (square - mean.square()).clamp_min(0)
        wanted = (wanted_square - wanted_mean.square()).clamp_min(0)
        gain = ((wanted + _LEAST) / (variance + _LEAST)).sqrt() * norm.weight.double().sign()
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(gain * (variance + norm.eps).sqrt())
        norm.bias.copy_(wanted_mean)


def _moments(x: Tensor) -> Moments:
    # Channels in rows, and no ``var``: on a CPU that is several times faster.
    rows = x.transpose(0, 1).flatten(1).double()
    mean = rows.mean(dim=1)
    rows = rows - mean[:, None]
    return mean, torch.linalg.vecdot(rows, rows) / rows.shape[1]


@contextmanager
def _matching(
    pairs: Mapping[str, tuple[nn.BatchNorm2d, nn.BatchNorm2d]], sums: Mapping[str, _Sums]
) -> Iterator[None]:
    hooks = []

    def note(total: _Sums) -> Any:
        def hook(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            total.latest = _moments(output)

        return hook

    def correct(total: _Sums) -> Any:
        def hook(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            mean, variance = total.add(inputs[0])
            assert total.latest is not None
            assert isinstance(norm, nn.BatchNorm2d)
            wanted_mean, wanted = total.latest
            # The output's moments follow from the input's: it is a line of each channel.
            assert norm.running_mean is not None and norm.running_var is not None
            slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            mean = (mean - norm.running_mean) * slope + norm.bias
            gain = ((wanted + _LEAST) / (variance * slope.square() + _LEAST)).sqrt()
            shift = wanted_mean - gain * mean
            gain, shift = (v.to(output.dtype).reshape(1, -1, 1, 1) for v in (gain, shift))
            return output * gain + shift

        return hook

    try:
        for path, (norm, own) in pairs.items():
            hooks.append(own.register_forward_hook(note(sums[path])))
            hooks.append(norm.register_forward_hook(correct(sums[path])))
        yield
    finally:
        for hook in hooks:
            hook.remove()
