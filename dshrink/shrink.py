"""What a shrunk network looks like: geometry of merged convolutions, pieces, whole networks.

Structure only, no weights: the latency table is built from these pieces, and the merge must give
convolutions of exactly these shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from dshrink.blocks import Block, find_blocks
from dshrink.errors import DshrinkError
from dshrink.merge.errors import NotMergeable
from dshrink.merge.padding import pads_inside, require_constant_border
from dshrink.merge.segment import Segment, collapse, from_spec
from dshrink.models import Network
from latency_tables.masks import check_padding
from latency_tables.onnx_file import Arrays
from latency_tables.opspec import Activation, BiasMap, Conv, Op, OpSpec
from latency_tables.pieces import NetworkPieces, Piece

FREE_ACTIVATION = "relu6"


class ShrinkError(DshrinkError):
    """A keep mask that does not fit the network, or a block that cannot merge."""


def block_segment(
    spec: OpSpec,
    block: Block,
    weights: Sequence[Arrays] | None = None,
    layers: Sequence[str] = (),
) -> Segment:
    """The block without its activations, as what the merge works on.

    ``weights`` and ``layers`` are those of the whole network; without weights it has shapes only.
    """
    inside = slice(block.first, block.body_last + 1)
    return from_spec(
        _slice(spec, block.first, block.body_last),
        None if weights is None else weights[inside],
        names=layers[inside],
        removed={number - block.first for number in block.inner_numbers},
    )


def merged_conv(spec: OpSpec, block: Block) -> Conv:
    """The dense (or depthwise) convolution that replaces ``block``; its input is tensor 0."""
    conv = collapse(block_segment(spec, block))
    return Conv(
        inputs=(0,),
        out_channels=conv.out_channels,
        kernel=conv.kernel,
        stride=conv.stride,
        pads=conv.pads,
        groups=conv.groups,
    )


def needs_bias_map(spec: OpSpec, block: Block) -> bool:
    """Whether the exact border of the merged block needs a constant a position."""
    return pads_inside(block_segment(spec, block))


def bias_map_problem(spec: OpSpec, block: Block, layers: Sequence[str] = ()) -> str:
    """Why no bias map makes the border of the merged block exact, or an empty text."""
    try:
        require_constant_border(block_segment(spec, block, layers=layers))
    except NotMergeable as error:
        return str(error)
    return ""


def merged_ops(
    spec: OpSpec,
    block: Block,
    *,
    padding: str = "repad",
    free_activation: bool = True,
    layers: Sequence[str] = (),
) -> tuple[Op, ...]:
    """What replaces ``block``: convolution, bias map (``bias_map`` only), activation.

    ``layers`` names the network's operators in reasons. Raises ShrinkError where a bias map is
    asked for and none is exact.
    """
    check_padding(padding)
    problem = bias_map_problem(spec, block, layers) if padding == "bias_map" else ""
    if problem:
        raise ShrinkError(f"block {block.index} ({block.name}): {problem}")
    ops: list[Op] = [merged_conv(spec, block)]
    if padding == "bias_map" and needs_bias_map(spec, block):
        ops.append(BiasMap(inputs=(len(ops),)))
    function = _end_function(spec, block, free_activation)
    if function:
        ops.append(Activation(inputs=(len(ops),), function=function))
    return tuple(ops)


def _end_function(spec: OpSpec, block: Block, free_activation: bool) -> str | None:
    end = spec.ops[block.last]
    if isinstance(end, Activation):
        return end.function
    return FREE_ACTIVATION if free_activation else None


def _dense_counterpart(spec: OpSpec, block: Block) -> OpSpec:
    """One dense convolution with the block's multiply-accumulates (paper, Sec. 3.2, Tab. 1).

    Its kernel is the block's largest; both channel counts are scaled by one factor.
    """
    original = _slice(spec, block.first, block.last)
    kernels = [op.kernel for op in original.ops if isinstance(op, Conv)]
    kernel = max(kernels, key=lambda k: k[0] * k[1])
    stride = merged_conv(spec, block).stride
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
    function = _end_function(spec, block, True)
    assert function is not None
    return OpSpec(
        input_shape=(channels_in, *source[1:]),
        ops=(conv, Activation(inputs=(1,), function=function)),
    )


def _slice(spec: OpSpec, first: int, last: int) -> OpSpec:
    """Operators ``first`` to ``last`` as a piece of their own; only one tensor may enter."""
    ops = tuple(
        replace(op, inputs=tuple(tensor - first for tensor in op.inputs))
        for op in spec.ops[first : last + 1]
    )
    return OpSpec(input_shape=spec.shapes[first], ops=ops)


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
    maps = not any(bias_map_problem(spec, block) for block in mergeable)
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
        specs["merged"] = OpSpec(input_shape=source, ops=merged_ops(spec, block))
        if maps and needs_bias_map(spec, block):
            specs["merged_bias_map"] = OpSpec(
                input_shape=source, ops=merged_ops(spec, block, padding="bias_map")
            )
        if dense:
            specs["dense"] = _dense_counterpart(spec, block)
    names = tuple(layers[block.first : block.last + 1])
    return [Piece(kind=k, block=block.index, layers=names, spec=s) for k, s in specs.items()]


def check_mask(blocks: Sequence[Block], keep_mask: str, name: str) -> None:
    """Raise ShrinkError unless the mask has one 0 or 1 a block and shrinks only what can merge."""
    if len(keep_mask) != len(blocks) or set(keep_mask) - {"0", "1"}:
        raise ShrinkError(
            f"keep mask {keep_mask!r} does not fit {name}: it needs {len(blocks)} characters "
            "0 (remove the activations) or 1 (keep them), one a block"
        )
    for block, keep in zip(blocks, keep_mask, strict=True):
        if keep == "0" and block.unmergeable:
            raise ShrinkError(
                f"block {block.index} ({block.name}) of {name} cannot merge: {block.unmergeable}; "
                "keep it (1) in the mask"
            )


def shrunk_spec(
    network: Network, keep_mask: str, *, padding: str = "repad", free_activation: bool = True
) -> OpSpec:
    """The whole network with the blocks merged that ``keep_mask`` marks 0. Structure only."""
    layers = network.lowered.layers
    blocks = find_blocks(network.spec, layers)
    check_mask(blocks, keep_mask, network.name)
    ops = partial(merged_ops, padding=padding, free_activation=free_activation, layers=layers)
    replacements = {
        block.first: (block, ops(network.spec, block))
        for block, keep in zip(blocks, keep_mask, strict=True)
        if keep == "0"
    }
    return _splice(network.spec, replacements)


def _splice(spec: OpSpec, replacements: Mapping[int, tuple[Block, tuple[Op, ...]]]) -> OpSpec:
    ops: list[Op] = []
    number = {0: 0}  # tensor of the old network -> tensor of the new one
    n = 0
    while n < len(spec.ops):
        if n in replacements:
            block, merged = replacements[n]
            base = number[block.first]
            start = len(ops)
            for op in merged:
                ops.append(replace(op, inputs=tuple(start + t if t else base for t in op.inputs)))
            n = block.last + 1
        else:
            op = spec.ops[n]
            ops.append(replace(op, inputs=tuple(number[t] for t in op.inputs)))
            n += 1
        number[n] = len(ops)
    return OpSpec(input_shape=spec.input_shape, ops=tuple(ops))
