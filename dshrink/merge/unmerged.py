"""The network that a merge must equal, unmerged: trained in this form, merged afterwards.

It is the original graph with its own convolutions and norms, under their own names, so that its
state dict is the original's: whatever it learns loads into the original (``models.with_state``) and
merges from there. It shares no arithmetic with the merge, only the list of what to change and,
under ``repad``, where the padding of a region goes.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from dshrink.merge.fading import Fade
from dshrink.merge.linear_graph import Sum
from dshrink.merge.padding import repad
from dshrink.merge.recording import RegionOutputs, record
from dshrink.merge.region_graph import region_graph
from dshrink.merge.surgery import Surgery
from dshrink.merge.window import Sides
from dshrink.network.layers import with_pads
from dshrink.network.mask_changes import Region, Rewriting
from dshrink.network.models import Network
from latency_tables.opspec import Conv, Pool


def unmerged_module(
    network: Network,
    changes: Rewriting,
    *,
    padding: str = "repad",
    dtype: torch.dtype = torch.float32,
    fade: Fade | None = None,
    outputs: RegionOutputs | None = None,
) -> fx.GraphModule:
    """A trainable copy of ``network`` with its activations as ``changes`` says, nothing merged.

    Under ``repad`` all padding of a region moves to the layers that read its input, and skips
    inside are cropped; under the other modes padding stays where it is. In eval mode.

    With a ``fade`` its value says how far the activations are changed: at 0 not yet, at 1 as
    without it. ``outputs`` are told what the regions give.
    """
    surgery = Surgery(network, dtype, fade)
    for region in changes.regions:
        if padding == "repad":
            _move_padding(surgery, region)
        for number in region.removed:
            surgery.remove(number)
    if outputs is not None:
        record(surgery, changes.regions, outputs)
    surgery.change_activations(changes)
    return surgery.finish()


def _move_padding(surgery: Surgery, region: Region) -> None:
    graph = region_graph(surgery.network.spec, region)
    numbers = [n for n in region.ops if n not in region.removed]
    for number, node in zip(numbers, repad(graph).nodes, strict=True):
        if isinstance(node, Sum):
            sources = surgery.network.spec.ops[number].inputs
            for tensor, pads in zip(sources, node.pads, strict=True):
                _pad_input(surgery, region, number, tensor, pads)
        else:
            _pad_layer(surgery, region, number, node.conv.pads)


def _pad_layer(surgery: Surgery, region: Region, number: int, pads: Sides) -> None:
    """Give an operator these pads: a convolution its own, others a layer before them."""
    op = surgery.network.spec.ops[number]
    if isinstance(op, Conv):
        name = surgery.network.lowered.modules[number][0]
        conv = surgery.module.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        calls = [one for one in surgery.module.graph.nodes if one.target == name]
        if len(calls) == 1:
            surgery.module.set_submodule(name, with_pads(conv, pads))
            return
        # A layer that others call as well keeps its pads there.
        call = next(one for one in calls if one in _makers(surgery, number))
        padded = surgery.call(f"{region.path}.conv_{number}", with_pads(conv, pads), call, call)
        padded.replace_input_with(call, call.all_input_nodes[0])
        call.replace_all_uses_with(padded)
        surgery.tensors = [padded if one is call else one for one in surgery.tensors]
    elif isinstance(op, Pool):
        pool = nn.Sequential(_zeros(pads), nn.AvgPool2d(op.kernel, op.stride))
        node, source = surgery.tensors[number + 1], surgery.tensors[op.inputs[0]]
        call = surgery.call(f"{region.path}.pool_{number}", pool, node, source)
        surgery.become(number + 1, call)
    else:
        _pad_input(surgery, region, number, op.inputs[0], pads)


def _makers(surgery: Surgery, number: int) -> set[fx.Node]:
    """The node that gives an operator's result, and the one before it: a norm folds in."""
    node = surgery.tensors[number + 1]
    return {node, *node.all_input_nodes}


def _pad_input(surgery: Surgery, region: Region, number: int, tensor: int, pads: Sides) -> None:
    if any(pads):
        node, source = surgery.tensors[number + 1], surgery.source(number, tensor)
        path = f"{region.path}.pad_{number}_{tensor}"
        node.replace_input_with(source, surgery.call(path, _zeros(pads), node, source))


def _zeros(pads: Sides) -> nn.ZeroPad2d:
    top, left, bottom, right = pads
    return nn.ZeroPad2d((left, right, top, bottom))
