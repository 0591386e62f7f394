"""What a shrunk network looks like: geometry of merged convolutions, pieces, whole networks.

Structure only, no weights: the latency table is built from these pieces, and the merge must give
convolutions of exactly these shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dshrink.blocks import Block, find_blocks
from dshrink.merge.errors import NotMergeable
from dshrink.merge.padding import pads_inside, require_constant_border
from dshrink.models import Network
from dshrink.regions import (
    Region,
    Rewriting,
    ShrinkError,
    block_region,
    part_of,
    region_segment,
    rewriting,
)
from latency_tables.masks import check_padding
from latency_tables.opspec import Activation, BiasMap, Conv, Op, OpSpec
from latency_tables.pieces import NetworkPieces, Piece

FREE_ACTIVATION = "relu6"


def merged_conv(spec: OpSpec, region: Region) -> Conv:
    """The dense (or depthwise) convolution that replaces ``region``; its input is tensor 0.

    Raises NotMergeable.
    """
    segment = region_segment(spec, region)
    window = segment.window
    return Conv(
        inputs=(0,),
        out_channels=segment.channels[-1],
        kernel=window.kernel,
        stride=window.stride,
        pads=window.pads,
        groups=segment.groups[-1],
    )


def needs_bias_map(spec: OpSpec, region: Region) -> bool:
    """Whether the exact border of the merged region needs a constant a position."""
    return pads_inside(region_segment(spec, region))


def bias_map_problem(spec: OpSpec, region: Region, layers: Sequence[str] = ()) -> str:
    """Why no bias map makes the border of the merged region exact, or an empty text."""
    try:
        require_constant_border(region_segment(spec, region, layers=layers))
    except NotMergeable as error:
        return str(error)
    return ""


def merged_ops(
    spec: OpSpec, region: Region, *, padding: str = "repad", layers: Sequence[str] = ()
) -> tuple[Op, ...]:
    """What replaces ``region``: a convolution and, under ``bias_map`` alone, a bias map if needed.

    ``layers`` names the network's operators in reasons. Raises ShrinkError where the region cannot
    merge, or where a bias map is asked for and none is exact.
    """
    check_padding(padding)
    problem = bias_map_problem(spec, region, layers) if padding == "bias_map" else ""
    if problem:
        raise ShrinkError(f"{region.label}: {problem}")
    try:
        conv = merged_conv(spec, region)
    except NotMergeable as error:
        raise ShrinkError(f"{region.label} cannot merge: {error}") from None
    mapped = padding == "bias_map" and needs_bias_map(spec, region)
    return (conv, BiasMap(inputs=(1,))) if mapped else (conv,)


def activated(ops: tuple[Op, ...], function: str) -> tuple[Op, ...]:
    """These operators with an activation behind the last one."""
    return (*ops, Activation(inputs=(len(ops),), function=function))


def _end_function(spec: OpSpec, block: Block) -> str:
    end = spec.ops[block.last]
    return end.function if isinstance(end, Activation) else FREE_ACTIVATION


def _dense_counterpart(spec: OpSpec, block: Block) -> OpSpec:
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
    return OpSpec(
        input_shape=(channels_in, *source[1:]),
        ops=activated((conv,), _end_function(spec, block)),
    )


def _slice(spec: OpSpec, first: int, last: int) -> OpSpec:
    """Operators ``first`` to ``last`` as a piece of their own; only one tensor may enter."""
    return part_of(spec, first, range(first, last + 1))


def network_pieces(network: Network, *, dense: bool = True) -> NetworkPieces:
    """Every piece of a network that a latency table holds.

    Raises ShrinkError for a network without blocks.
    """
    spec, layers = network.spec, network.lowered.layers
    blocks = find_blocks(spec, layers)
    if not blocks:
        raise ShrinkError(
            f"{network.name}: no building block found (inverted residual, bottleneck, "
            "depthwise separable); only spans of its convolutions can be profiled"
        )
    pieces = list(_fixed_pieces(spec, layers, blocks))
    # A table is calibrated on the network merged throughout: in a form that one block cannot have,
    # there is no such network.
    mergeable = [block for block in blocks if not block.unmergeable]
    maps = not any(bias_map_problem(spec, block_region(block)) for block in mergeable)
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
    source = spec.shapes[block.first]
    specs = {"original": _slice(spec, block.first, block.last)}
    if not block.unmergeable:
        region, function = block_region(block), _end_function(spec, block)
        plain = activated(merged_ops(spec, region), function)
        specs["merged"] = OpSpec(input_shape=source, ops=plain)
        if maps and needs_bias_map(spec, region):
            mapped = activated(merged_ops(spec, region, padding="bias_map"), function)
            specs["merged_bias_map"] = OpSpec(input_shape=source, ops=mapped)
        if dense:
            specs["dense"] = _dense_counterpart(spec, block)
    names = tuple(layers[block.first : block.last + 1])
    return [Piece(kind=k, block=block.index, layers=names, spec=s) for k, s in specs.items()]


def shrunk_spec(
    network: Network,
    mask: str,
    *,
    segments: str = "blocks",
    padding: str = "repad",
    free_activation: bool = True,
) -> OpSpec:
    """The whole network shrunk as ``mask`` says. Structure only.

    ``segments`` says what the mask is: "blocks" for a keep mask, "spans" for a span mask. Raises
    ShrinkError for a mask that does not fit or merges what cannot merge.
    """
    changes = rewriting(network, mask, segments=segments, free_activation=free_activation)
    return rewritten_spec(network, changes, padding=padding)


def rewritten_spec(network: Network, changes: Rewriting, *, padding: str = "repad") -> OpSpec:
    """The structure of a rewritten network, its operators in the order of the rewritten graph."""
    spec, layers = network.spec, network.lowered.layers
    merged = {
        region.ops[-1]: (region.enters, merged_ops(spec, region, padding=padding, layers=layers))
        for region in changes.regions
    }
    gone = {n for region in changes.regions for n in region.ops}
    ops: list[Op] = []
    number = {0: 0}  # tensor of the old network -> tensor of the new one
    for n, op in enumerate(spec.ops):
        if n in merged:
            enters, new = merged[n]
            base, start = number[enters], len(ops)
            ops += (
                replace(o, inputs=tuple(start + t if t else base for t in o.inputs)) for o in new
            )
        elif n in changes.removed:
            number[n + 1] = number[op.inputs[0]]
            continue
        elif n in gone:
            continue
        else:
            ops.append(replace(op, inputs=tuple(number[t] for t in op.inputs)))
        if n + 1 in changes.activated:
            ops.append(Activation(inputs=(len(ops),), function=FREE_ACTIVATION))
        number[n + 1] = len(ops)
    return OpSpec(input_shape=spec.input_shape, ops=tuple(ops))
