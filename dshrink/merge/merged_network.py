"""Merging a traced network: the regions of a mask become convolutions with real weights.

``MergedNetwork.unmerged`` is the network that a merge must equal (``merge.unmerged``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx, nn

from dshrink.merge.linear_graph import LinearGraph, check_size
from dshrink.merge.padding import Merged, merge
from dshrink.merge.region_graph import naming, region_graph
from dshrink.merge.surgery import Surgery
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.layers import ConstantMap, PaddedConv2d, weights_dtype
from dshrink.network.lowering import lower
from dshrink.network.mask_changes import Region, Rewriting
from dshrink.network.models import Network
from dshrink.network.tracing import propagate_shapes
from latency_tables.onnx_file import Arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedRegion:
    """A region, the graph of layers it was (activations removed), and what it became."""

    region: Region
    graph: LinearGraph
    merged: Merged


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedNetwork:
    """What ``source`` became by the changes of a mask."""

    source: Network
    changes: Rewriting
    padding: str
    regions: tuple[MergedRegion, ...]

    @cached_property
    def network(self) -> Network:
        """The merged network, in the precision of its source."""
        return network_of(self.source, self.module(weights_dtype(self.source.module)))

    def module(self, dtype: torch.dtype) -> fx.GraphModule:
        """The merged graph in ``dtype``; merged weights are cast from float64 at the end."""
        surgery = Surgery(self.source, dtype)
        for entry in self.regions:
            surgery.replace(entry.region, merged_layers(entry.merged, dtype))
        surgery.change_activations(self.changes)
        return surgery.finish()

    def unmerged(self, dtype: torch.dtype) -> fx.GraphModule:
        """The unmerged network that it must equal: without what the mask removes."""
        return unmerged_module(self.source, self.changes, padding=self.padding, dtype=dtype)


def network_of(source: Network, module: fx.GraphModule) -> Network:
    """A changed graph of ``source`` as a network of its own."""
    channels, height, width = source.spec.input_shape
    propagate_shapes(module, (channels, height, width))
    return Network(name=source.name, module=module, lowered=lower(module))


def merge_network(network: Network, changes: Rewriting, *, padding: str) -> MergedNetwork:
    """Merge the regions of these changes, with the weights the network has.

    Composed in float64, cast to the network's type at the end. Raises NotMergeable, with the block
    or the span, where it has no convolution, one of too many weights, or the padding mode cannot be
    exact.
    """
    weights = network.lowered.weights(network.module)
    with ExitStack() as after:
        # Products this small gain nothing from threads, and lose much where cores are busy.
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        regions = tuple(
            _merge_region(network, weights, region, padding) for region in changes.regions
        )
    return MergedNetwork(source=network, changes=changes, padding=padding, regions=regions)


def _merge_region(
    network: Network, weights: Sequence[Arrays], region: Region, padding: str
) -> MergedRegion:
    with naming(region):
        graph = region_graph(network.spec, region, weights, network.lowered.layers)
        check_size(graph)
        return MergedRegion(region=region, graph=graph, merged=merge(graph, padding))


def merged_layers(merged: Merged, dtype: torch.dtype) -> list[nn.Module]:
    """The convolution and, where it has one, the bias map, as layers of torch."""
    conv = merged.conv
    layer = PaddedConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel,
        stride=conv.stride,
        pads=conv.pads,
        groups=conv.groups,
    )
    with torch.no_grad():
        layer.weight = nn.Parameter(conv.weight.to(dtype))
        layer.bias = nn.Parameter(conv.bias.to(dtype))
    layers: list[nn.Module] = [layer.eval()]
    if merged.bias_map is not None:
        layers.append(ConstantMap(merged.bias_map.to(dtype)))
    return layers
