"""Weights of a merged network: no longer the original's, so they have a form of their own.

A merged convolution that was fitted or trained as such is not the product of the layers that it
replaced. Its weights go by the names that the merged graph has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from dshrink.merge.linear_graph import check_size
from dshrink.merge.merged_network import merged_layers
from dshrink.merge.padding import Merged, merge
from dshrink.merge.recording import RegionOutputs, record
from dshrink.merge.region_graph import naming, region_graph
from dshrink.merge.surgery import Surgery
from dshrink.network.mask_changes import Region, Rewriting
from dshrink.network.models import Network
from dshrink.network.weights.state_dicts import load_state


@dataclass(frozen=True, kw_only=True)
class MergedWeights:
    """A state dict of the merged network (``merged_form``) under a padding mode."""

    state: Mapping[str, Tensor]
    padding: str
    where: str


def merged_form(
    network: Network,
    changes: Rewriting,
    *,
    padding: str,
    outputs: RegionOutputs | None = None,
) -> fx.GraphModule:
    """The merged graph in float32 with the shapes of its weights, for a state dict to be loaded.

    A bias map is there wherever the padding mode may need one, whatever the weights. Merged
    convolutions are zeros, other layers have the network's weights. While the module runs,
    ``outputs`` learns what the regions give. Raises as ``merge_network``.
    """
    surgery = Surgery(network, torch.float32)
    for region in changes.regions:
        surgery.replace(
            region, merged_layers(merged_shape(network, region, padding), torch.float32)
        )
    if outputs is not None:
        record(surgery, changes.regions, outputs)
    surgery.change_activations(changes)
    return surgery.finish()


def merged_shape(network: Network, region: Region, padding: str) -> Merged:
    """A merged region of zeros, in float64; with a bias map wherever one may be needed.

    Raises NotMergeable with the region.
    """
    with naming(region):
        graph = region_graph(network.spec, region)
        check_size(graph)
        found = merge(graph, padding)
    conv = replace(found.conv, weight=_zeros(found.conv.weight), bias=_zeros(found.conv.bias))
    bias_map = None if found.bias_map is None else _zeros(found.bias_map)
    return replace(found, conv=conv, bias_map=bias_map)


def _zeros(on_meta: Tensor) -> Tensor:
    return torch.zeros_like(on_meta, device="cpu")


def merged_module(
    network: Network,
    changes: Rewriting,
    weights: MergedWeights,
    outputs: RegionOutputs | None = None,
) -> fx.GraphModule:
    """``merged_form`` with these weights. Raises WeightsMisfitError where they are not of it."""
    module = merged_form(network, changes, padding=weights.padding, outputs=outputs)
    load_state(module, weights.state, weights.where, f"the merged {network.name}")
    return module
