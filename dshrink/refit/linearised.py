"""A region merged with its activations replaced by straight lines instead of removed.

Each channel of an activation gets the line that is closest to it on what the channel holds in the
original network (statistical linearisation; Booton, 1954), ``s = cov(x, act(x)) / var(x)``. Then
the region is affine and merges exactly. It costs five sums a channel, works with a single image,
and is where a least-squares fit starts from.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dshrink.merge.linear_graph import LinearGraph, from_spec
from dshrink.network.mask_changes import Region
from dshrink.network.models import Network
from dshrink.network.sections import part_of
from dshrink.refit.stream import Stream
from latency_tables.onnx_file import Arrays
from latency_tables.opspec import BatchNorm


def linearised_graph(network: Network, region: Region, original: Stream) -> LinearGraph:
    """The region with a scale and a shift a channel in place of each activation that goes.

    ``original`` are images on their way through the network, not yet past the region. Raises
    NotMergeable.
    """
    lines = closest_lines(network, region, original)
    weights = network.lowered.weights(network.module)
    spec = part_of(network.spec, region.enters, region.ops)
    ops, arrays = list(spec.ops), [weights[number] for number in region.ops]
    for number, line in lines.items():
        at = region.ops.index(number)
        ops[at], arrays[at] = BatchNorm(inputs=ops[at].inputs), line
    names = [network.lowered.layers[number] for number in region.ops]
    return from_spec(replace(spec, ops=tuple(ops)), arrays, names=names)


def closest_lines(network: Network, region: Region, original: Stream) -> dict[int, Arrays]:
    """Slope and offset a channel of each activation in ``region`` that goes, by its number.

    A channel that is constant has slope 0.
    """
    if not region.removed:
        return {}
    made = network.lowered.tensor_nodes(network.module)
    pairs = [(made[network.spec.ops[n].inputs[0]], made[n + 1]) for n in region.removed]
    sums: list[Tensor | None] = [None] * len(pairs)
    for values in original.values([node for pair in pairs for node in pair]):
        for place, (x, y) in enumerate(zip(values[::2], values[1::2], strict=True)):
            found = _moments(x.double(), y.double())
            known = sums[place]
            sums[place] = found if known is None else known + found
    return {
        number: _line(total)
        for number, total in zip(region.removed, sums, strict=True)
        if total is not None
    }


def _moments(x: Tensor, y: Tensor) -> Tensor:
    """(5, C): count and the sums of x, y, x*x and x*y."""
    terms = torch.ones_like(x), x, y, x * x, x * y
    return torch.stack([term.sum(dim=(0, 2, 3)) for term in terms])


def _line(moments: Tensor) -> Arrays:
    count, x, y, xx, xy = moments
    mean_x, mean_y = x / count, y / count
    variance = (xx / count - mean_x.square()).clamp_min(0)
    slope = (xy / count - mean_x * mean_y) / variance.clamp_min(1e-30)
    slope = torch.where(variance > 1e-12 * (xx / count), slope, torch.zeros_like(slope))
    return slope.cpu().numpy(), (mean_y - slope * mean_x).cpu().numpy()
