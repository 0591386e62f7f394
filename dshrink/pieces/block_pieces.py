"""The pieces of a network cut into blocks, original and merged, that a latency table holds.

Structure only, no weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dshrink.errors import NotMergeable, ShrinkError
from dshrink.merge.padding import require_constant_border
from dshrink.merge.region_graph import region_graph
from dshrink.network.blocks import Block
from dshrink.network.mask_changes import block_region
from dshrink.network.models import Network
from dshrink.network.sections import part_of
from dshrink.pieces.advice import no_blocks
from dshrink.pieces.specs import FREE_ACTIVATION, activated, merged_conv, merged_ops
from latency_tables.opspec import Activation, Conv, Op, OpSpec
from latency_tables.pieces import NetworkPieces, Piece


def _with_end(spec: OpSpec, block: Block, ops: tuple[Op, ...]) -> OpSpec:
    """What replaces a block, with the activation at its end: its own, or the free one, if any."""
    end = spec.ops[block.last]
    if isinstance(end, Activation):
        ops = activated(ops, end.function)
    elif block.inner_activations:
        ops = activated(ops, FREE_ACTIVATION)
    return OpSpec(input_shape=spec.shapes[block.first], ops=ops)


def dense_block(spec: OpSpec, block: Block) -> OpSpec:
    """One dense convolution with the block's multiply-accumulates (paper, Sec. 3.2, Tab. 1).

    Its kernel is the block's largest; both channel counts are scaled by one factor.
    """
    original = _slice(spec, block.first, block.last)
    kernels = [op.kernel for op in original.ops if isinstance(op, Conv)]
    kernel = max(kernels, key=lambda k: k[0] * k[1])
    stride = merged_conv(spec, block_region(block)).stride
    source, result = original.input_shape, original.output_shape
    per_channel_pair = math.prod(kernel) * result[1] * result[2]
    scale = math.sqrt(original.macs / (per_channel_pair * source[0] * result[0]))
    channels_in, channels_out = (max(1, round(scale * c)) for c in (source[0], result[0]))
    begin = tuple((k - 1) // 2 for k in kernel)
    ends = [
        max((result[1 + a] - 1) * stride[a] + kernel[a] - source[1 + a] - begin[a], 0)
        for a in range(2)
    ]
    conv = Conv(
        inputs=(0,),
        out_channels=channels_out,
        kernel=kernel,
        stride=stride,
        pads=(begin[0], begin[1], ends[0], ends[1]),
    )
    ended = _with_end(spec, block, (conv,))
    return replace(ended, input_shape=(channels_in, *source[1:]))


def _slice(spec: OpSpec, first: int, last: int) -> OpSpec:
    """Operators ``first`` to ``last`` as a piece of their own; only one tensor may enter."""
    return part_of(spec, first, range(first, last + 1))


def network_pieces(network: Network, *, dense: bool = True) -> NetworkPieces:
    """Every piece of a network that a latency table holds.

    Raises ShrinkError for a network without blocks.
    """
    spec, layers = network.spec, network.lowered.layers
    blocks = network.blocks
    if not blocks:
        raise ShrinkError(no_blocks(network))
    pieces = list(_fixed_pieces(spec, layers, blocks))
    # A table is fitted to the network merged throughout: in a form that one block cannot have,
    # there is no such network.
    maps = True
    try:
        for block in blocks:
            if not block.unmergeable:
                require_constant_border(region_graph(spec, block_region(block)))
    except NotMergeable:
        maps = False
    for block in blocks:
        pieces += _block_pieces(spec, layers, block, maps=maps, dense=dense)
    return NetworkPieces(
        model=network.name,
        resolution=network.resolution,
        in_channels=spec.input_shape[0],
        block_names=tuple(block.name for block in blocks),
        pieces=tuple(pieces),
        unmergeable={b.index: b.unmergeable for b in blocks if b.unmergeable},
    )


def _fixed_pieces(spec: OpSpec, layers: Sequence[str], blocks: Sequence[Block]) -> list[Piece]:
    starts = [0, *(block.last + 1 for block in blocks)]
    stops = [*(block.first for block in blocks), len(spec.ops)]
    pieces = []
    for at, (first, stop) in enumerate(zip(starts, stops, strict=True)):
        if first == stop:
            continue
        kind = "stem" if at == 0 else "head" if at == len(blocks) else "between"
        pieces.append(
            Piece(
                kind=kind,
                block=at - 1 if kind == "between" else None,
                layers=tuple(layers[first:stop]),
                spec=_slice(spec, first, stop - 1),
            )
        )
    return pieces


def _block_pieces(
    spec: OpSpec, layers: Sequence[str], block: Block, *, maps: bool, dense: bool
) -> list[Piece]:
    specs = {"original": _slice(spec, block.first, block.last)}
    if not block.unmergeable:
        region = block_region(block)
        specs["merged"] = _with_end(spec, block, merged_ops(spec, region))
        with_map = merged_ops(spec, region, padding="bias_map") if maps else ()
        if len(with_map) > 1:
            specs["merged_bias_map"] = _with_end(spec, block, with_map)
        if dense:
            specs["dense"] = dense_block(spec, block)
    names = tuple(layers[block.first : block.last + 1])
    return [Piece(kind=k, block=block.index, layers=names, spec=s) for k, s in specs.items()]
