"""Rewriting a traced network: without the activations of a plan, and with its blocks merged.

``without_activations`` gives the network that a merge must equal: it is the original graph with
activations taken out, and shares no code with the merge but the list of what to take out. Under
``repad`` its blocks are the re-padded ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx, nn

from dshrink.blocks import Block, find_blocks
from dshrink.layers import ConstantMap, PaddedConv2d
from dshrink.lowering import lower
from dshrink.merge.errors import NotMergeable
from dshrink.merge.padding import Merged, merge, reference
from dshrink.merge.segment import Segment
from dshrink.models import Network
from dshrink.shrink import block_segment, check_mask
from dshrink.tracing import propagate_shapes
from latency_tables.onnx_file import Arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedBlock:
    """A block, the segment of layers it was (activations gone), and the convolution it became."""

    block: Block
    segment: Segment
    merged: Merged


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedNetwork:
    """What ``source`` became under a keep mask."""

    source: Network
    keep_mask: str
    padding: str
    free_activation: bool
    blocks: tuple[MergedBlock, ...]

    @cached_property
    def network(self) -> Network:
        """The merged network, in the precision of its source."""
        module = self.module(next(self.source.module.parameters()).dtype)
        return Network(name=self.source.name, module=module, lowered=lower(module))

    def module(self, dtype: torch.dtype) -> fx.GraphModule:
        """The merged graph in ``dtype``; merged weights are cast from float64 at the end."""
        surgery = _Surgery(self.source, dtype)
        for entry in self.blocks:
            surgery.replace(entry.block, merged_layers(entry.merged, dtype))
            if self.free_activation:
                surgery.activate(entry.block)
        return surgery.finish()


def merge_blocks(
    network: Network,
    keep_mask: str,
    *,
    padding: str = "bias_map",
    free_activation: bool = True,
) -> MergedNetwork:
    """Merge every block that the mask marks 0, with the weights the network has.

    Composed in float64, cast to the network's type at the end. Raises ShrinkError for a mask that
    does not fit and NotMergeable, with the block's name, where the padding mode cannot be exact.
    """
    blocks = find_blocks(network.spec, network.lowered.layers)
    check_mask(blocks, keep_mask, network.name)
    weights = network.lowered.weights(network.module)
    with _one_thread():
        merged = tuple(
            _merge_block(network, weights, block, padding)
            for block, keep in zip(blocks, keep_mask, strict=True)
            if keep == "0"
        )
    return MergedNetwork(
        source=network,
        keep_mask=keep_mask,
        padding=padding,
        free_activation=free_activation,
        blocks=merged,
    )


def without_activations(merged: MergedNetwork, dtype: torch.dtype) -> fx.GraphModule:
    """The unmerged network that ``merged`` must equal: what the plan removes is gone, no more."""
    surgery = _Surgery(merged.source, dtype)
    for entry in merged.blocks:
        if merged.padding == "repad":
            surgery.replace(entry.block, [_SegmentLayers(reference(entry.segment, "repad"))])
        else:
            surgery.remove_activations(entry.block)
        if merged.free_activation:
            surgery.activate(entry.block)
    return surgery.finish()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small gain nothing from threads, and lose much where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _merge_block(
    network: Network, weights: Sequence[Arrays], block: Block, padding: str
) -> MergedBlock:
    segment = block_segment(network.spec, block, weights, network.lowered.layers)
    try:
        return MergedBlock(block=block, segment=segment, merged=merge(segment, padding))
    except NotMergeable as error:
        raise NotMergeable(f"block {block.index} ({block.name}): {error}") from error


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


class _SegmentLayers(nn.Module):
    """A re-padded segment, layer by layer."""

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.segment.to(x.dtype).run(x)


class _Surgery:
    """A copy of a network's graph, operated on block by block, in order."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self.network = network
        self.module = copy.deepcopy(network.module).to(dtype)
        self.nodes = {node.name: node for node in self.module.graph.nodes}
        (image,) = (n for n in self.module.graph.nodes if n.op == "placeholder")
        self.tensors = [image, *(self.nodes[name] for name in network.lowered.nodes)]

    def replace(self, block: Block, layers: Sequence[nn.Module]) -> None:
        """Put ``layers`` in place of the block, up to its end activation."""
        result = self.tensors[block.first]
        end = self.tensors[block.body_last + 1]
        for number, layer in enumerate(layers):
            result = self._call(f"merged_{number}", block, layer, end, result)
        self._become(block, end, result)

    def remove_activations(self, block: Block) -> None:
        for number in block.inner_numbers:
            node = self.tensors[number + 1]
            node.replace_all_uses_with(node.args[0])

    def activate(self, block: Block) -> None:
        """The free activation, where the block has no activation at its end."""
        if block.end_activation is not None:
            return
        end = self.tensors[block.body_last + 1]
        call = self._call("free_activation", block, nn.ReLU6(), end.next, end)
        self._become(block, end, call)

    def finish(self) -> fx.GraphModule:
        self.module.graph.eliminate_dead_code()
        self.module.graph.lint()
        self.module.delete_all_unused_submodules()
        self.module.recompile()
        channels, height, width = self.network.spec.input_shape
        propagate_shapes(self.module, (channels, height, width))
        return self.module

    def _call(
        self, name: str, block: Block, layer: nn.Module, before: fx.Node, source: fx.Node
    ) -> fx.Node:
        path = f"{block.name.replace('..', '_to_')}.{name}"
        self.module.add_submodule(path, layer)
        with self.module.graph.inserting_before(before):
            return self.module.graph.call_module(path, (source,))

    def _become(self, block: Block, end: fx.Node, result: fx.Node) -> None:
        end.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
        self.tensors[block.body_last + 1] = result
