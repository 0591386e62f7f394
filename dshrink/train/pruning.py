"""Layer pruning, DepthShrinker's baseline: the same blocks removed instead of merged.

Which blocks can simply go is a matter of shapes. One that keeps its input's shape becomes nothing,
its end activation included: in a ResNet the same activation already precedes it. One that
changes channels or size leaves something in its place:

- a residual block with a projection shortcut (a ResNet's first of a stage) leaves that shortcut,
  trained as it is, and its end activation;
- any other (an inverted residual without skip) leaves a 1x1 convolution with the block's stride and
  a norm, the projection shortcut that a ResNet would have had. It starts as what the block without
  its activations does to a constant image, so that the baseline does not start from random weights
  where merging starts from trained ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dshrink.errors import ShrinkError
from dshrink.merge.padding import merge
from dshrink.merge.region_graph import region_graph
from dshrink.merge.surgery import Surgery
from dshrink.network.blocks import Block
from dshrink.network.layers import weights_dtype
from dshrink.network.lowering import lower
from dshrink.network.mask_changes import block_region
from dshrink.network.models import Network
from dshrink.network.tracing import propagate_shapes
from latency_tables.errors import MaskError
from latency_tables.masks import check_mask
from latency_tables.opspec import Add, OpSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What a keep mask removes: blocks removed, cut down to their shortcut, or replaced by a fresh
    projection.
    """

    removed: tuple[Block, ...]
    shortcuts: tuple[Block, ...]
    projections: tuple[Block, ...]


def pruning(network: Network, keep_mask: str) -> Pruning:
    """What becomes of each block that the mask marks 0.

    Blocks that cannot merge (squeeze-excite, other activations) can be pruned all the same. Raises
    ShrinkError for a mask that does not fit, and for a block that no 1x1 convolution replaces.
    """
    spec, blocks = network.spec, network.blocks
    try:
        check_mask(keep_mask, [block.name for block in blocks], {}, network.name)
    except MaskError as error:
        raise ShrinkError(str(error)) from None
    pruned = [block for block, keep in zip(blocks, keep_mask, strict=True) if keep == "0"]
    changing = [block for block in pruned if spec.shapes[block.first] != _result_shape(spec, block)]
    shortcuts = [block for block in changing if isinstance(spec.ops[block.body_last], Add)]
    projections = [block for block in changing if block not in shortcuts]
    for block in projections:
        _projection_stride(network, block)
    return Pruning(
        removed=tuple(block for block in pruned if block not in changing),
        shortcuts=tuple(shortcuts),
        projections=tuple(projections),
    )


def pruned_network(network: Network, keep_mask: str, *, seed: int = 0) -> Network:
    """The network without the blocks that a keep mask marks 0 (paper Sec. 5.2, Fig. 3).

    What remains keeps its names and values. Projections are ``BLOCK.projection`` and
    ``BLOCK.projection_norm``; of a block that cannot merge ``seed`` draws the weights (normal with
    variance 2 / fan out, as timm draws convolutions). Raises as ``pruning``, which counts
    them.
    """
    prune = pruning(network, keep_mask)
    surgery = Surgery(network, weights_dtype(network.module))
    generator = torch.Generator().manual_seed(seed)
    for block in prune.projections:
        _project(surgery, block, generator)
    for block in prune.shortcuts:
        surgery.become(block.body_last + 1, surgery.tensors[_shortcut(network.spec, block)])
    for block in prune.removed:
        surgery.become(block.last + 1, surgery.tensors[block.first])
    module = surgery.finish()
    channels, height, width = network.spec.input_shape
    propagate_shapes(module, (channels, height, width))
    return Network(name=network.name, module=module, lowered=lower(module))


def _result_shape(spec: OpSpec, block: Block) -> tuple[int, ...]:
    return spec.shapes[block.body_last + 1]


def _shortcut(spec: OpSpec, block: Block) -> int:
    """The tensor that the cheapest branch of a residual block adds."""

    def macs(tensor: int) -> int:
        """Of the operators that make it of what enters the block."""
        found: set[int] = set()
        waiting = [tensor]
        while waiting:
            at = waiting.pop()
            if at > block.first and at - 1 not in found:
                found.add(at - 1)
                waiting += spec.ops[at - 1].inputs
        return sum(spec.ops[n].macs([spec.shapes[t] for t in spec.ops[n].inputs]) for n in found)

    return min(spec.ops[block.body_last].inputs, key=macs)


def _project(surgery: Surgery, block: Block, generator: torch.Generator) -> None:
    """Put a 1x1 convolution and a norm in place of a block, before its end activation."""
    spec = surgery.network.spec
    conv = nn.Conv2d(
        spec.shapes[block.first][0],
        _result_shape(spec, block)[0],
        1,
        stride=_projection_stride(surgery.network, block),
        bias=False,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", generator=generator)
    _take_over(surgery.network, block, conv)
    dtype = weights_dtype(surgery.module)
    path, end = block_region(block).path, surgery.tensors[block.body_last + 1]
    result = surgery.tensors[block.first]
    for name, layer in (("projection", conv), ("projection_norm", _norm_like(surgery, block))):
        result = surgery.call(f"{path}.{name}", layer.to(dtype).eval(), end, result)
    surgery.become(block.body_last + 1, result)


def _take_over(network: Network, block: Block, conv: nn.Conv2d) -> None:
    """Give a projection the taps of the block's merged kernel, summed, where it has one."""
    if block.unmergeable:
        return
    weights = network.lowered.weights(network.module)
    graph = region_graph(network.spec, block_region(block), weights, network.lowered.layers)
    merged = merge(graph, "interior").conv
    if merged.groups == 1:
        with torch.no_grad():
            conv.weight.copy_(merged.weight.sum(dim=(2, 3), keepdim=True))


def _norm_like(surgery: Surgery, block: Block) -> nn.BatchNorm2d:
    """A norm with the eps and momentum of the block's own, and the scale and shift of its last."""
    norm = nn.BatchNorm2d(_result_shape(surgery.network.spec, block)[0])
    for number in range(block.first, block.last + 1):
        for name in surgery.network.lowered.modules[number]:
            own = surgery.network.module.get_submodule(name)
            if isinstance(own, nn.BatchNorm2d):
                norm.eps, norm.momentum = own.eps, own.momentum
                if own.affine and own.num_features == norm.num_features:
                    with torch.no_grad():
                        # The sign of a scale is in the kernel already.
                        norm.weight.copy_(own.weight.abs())
                        norm.bias.copy_(own.bias)
    return norm


def _projection_stride(network: Network, block: Block) -> tuple[int, int]:
    """The stride with which a 1x1 convolution gives the block's size."""
    before = network.spec.shapes[block.first]
    after = _result_shape(network.spec, block)
    strides = [
        next((s for s in range(1, size + 1) if -(-size // s) == result), 0)
        for size, result in zip(before[1:], after[1:], strict=True)
    ]
    if not all(strides):
        raise ShrinkError(
            f"block {block.index} ({block.name}) of {network.name} cannot be pruned: it makes "
            f"{after[1]}x{after[2]} of {before[1]}x{before[2]}, which no strided 1x1 convolution "
            "does; keep it (1) in the mask"
        )
    return strides[0], strides[1]
