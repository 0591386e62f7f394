"""The pieces of a network cut into spans of its chain: T of Kim et al. (ICML 2023), as specs.

Structure only: geometry comes from windows, so that hundreds of spans with merged kernels of any
size cost milliseconds. The original network is the one whose spans hold one convolution each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dshrink.errors import NotMergeable, ShrinkError
from dshrink.network.chain import Addition, Chain, ChainConv, span_chain
from dshrink.network.mask_changes import operators_between, part_of, span_region
from dshrink.network.models import Network
from dshrink.pieces.specs import FREE_ACTIVATION, activated, merged_conv
from latency_tables.opspec import Add, Op, OpSpec, join
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.span_masks import Span


def span_pieces(network: Network, *, mode: str = "kim2023") -> NetworkPieces:
    """Every piece of a network cut into the spans valid in ``mode`` (``chain.SPAN_MODES``).

    A piece of kind "span" is the one convolution (the layer itself where there is one) with the
    activation at its end: the network's own, or the free one. Spans that make no single convolution
    are in ``unmergeable``. Raises ShrinkError where the chain is not all that the network computes.
    """
    chain = network.chain
    if not chain.body:
        raise ShrinkError(f"{network.name}: no convolution to cut into spans")
    pieces = list(_fixed_pieces(network, chain))
    unmergeable: dict[int | Span, str] = {}
    for span in chain.spans(mode):
        try:
            pieces.append(_span_piece(network, chain, span))
        except NotMergeable as error:
            if span[1] == span[0] + 1:
                raise _no_chain(network, str(error)) from None
            unmergeable[span] = str(error)
    return NetworkPieces(
        model=network.name,
        resolution=network.resolution,
        in_channels=network.spec.input_shape[0],
        block_names=tuple(block.name for block in chain.blocks),
        pieces=tuple(pieces),
        unmergeable=unmergeable,
        chain=span_chain(chain),
    )


def _no_chain(network: Network, reason: str) -> ShrinkError:
    return ShrinkError(
        f"{network.name} is no chain of spans: {reason}; profile it with --segments blocks"
    )


def _span_piece(network: Network, chain: Chain, span: Span) -> Piece:
    spec, layers = network.spec, network.lowered.layers
    region = span_region(spec, layers, chain, span)
    part = part_of(spec, region.enters, region.ops)
    ops = part.ops if span[1] == span[0] + 1 else (merged_conv(spec, region),)
    end = chain.body[span[1] - 1]
    names = [layers[n] for n in region.ops]
    if end.activation_op is not None:
        names.append(layers[end.activation_op])
    return Piece(
        kind="span",
        span=span,
        layers=tuple(names),
        spec=OpSpec(
            input_shape=part.input_shape, ops=activated(ops, end.activation or FREE_ACTIVATION)
        ),
    )


def _fixed_pieces(network: Network, chain: Chain) -> Iterator[Piece]:
    """Stem, head, additions, and the operators after a position that no span changes."""
    enters = network.spec.ops[chain.body[0].op].inputs[0]
    yield from _outside(network, chain, "stem", 0, enters)
    yield from _outside(network, chain, "head", chain.body[-1].end, len(network.spec.ops))
    for conv in chain.body[:-1]:
        yield from _between(network, chain, conv)
    # What is added past a single convolution is part of that layer's own piece.
    additions = [addition for addition in chain.additions if addition.end > addition.start + 1]
    places = [(addition.start, addition.end) for addition in additions]
    for addition, place in zip(additions, places, strict=True):
        if places.count(place) > 1:
            name = network.lowered.layers[addition.op]
            raise _no_chain(network, f"{name} is one of several additions to one skip")
        yield _addition(network, addition)


def _outside(network: Network, chain: Chain, kind: str, enters: int, stop: int) -> Iterator[Piece]:
    """The operators that read tensor ``enters`` and each other, the trunk's additions left out."""
    spec, layers = network.spec, network.lowered.layers
    shortcuts = {addition.op: addition.shortcut for addition in chain.additions}
    tensor = {enters: 0}  # tensor of the network -> tensor of the piece
    ops: list[Op] = []
    names: list[str] = []
    for n in range(enters, stop):
        inputs = [t for t in spec.ops[n].inputs if t != shortcuts.get(n)]
        for t in inputs:
            if t not in tensor:
                read = layers[t - 1] if t else "the image"
                raise _no_chain(network, f"{layers[n]} in its {kind} reads {read} as well")
        if n in shortcuts:
            tensor[n + 1] = tensor[inputs[0]]
            continue
        ops.append(replace(spec.ops[n], inputs=tuple(tensor[t] for t in inputs)))
        names.append(layers[n])
        tensor[n + 1] = len(ops)
    if ops:
        inside = OpSpec(input_shape=spec.shapes[enters], ops=tuple(ops))
        yield Piece(kind=kind, layers=tuple(names), spec=inside)


def _between(network: Network, chain: Chain, conv: ChainConv) -> Iterator[Piece]:
    """What follows a convolution's activation, the trunk's additions left out."""
    spec, layers = network.spec, network.lowered.layers
    additions = {addition.op for addition in chain.additions}
    numbers = [n for n in conv.after if n not in additions]
    for n in numbers:
        if len(spec.ops[n].inputs) > 1:
            raise _no_chain(network, f"{layers[n]} joins tensors by {spec.ops[n].kind}")
    if not numbers:
        return
    assert conv.position is not None
    yield Piece(
        kind="between",
        span=(conv.position, conv.position),
        layers=tuple(layers[n] for n in numbers),
        spec=join([part_of(spec, spec.ops[n].inputs[0], (n,)) for n in numbers]),
    )


def _addition(network: Network, addition: Addition) -> Piece:
    """The shortcut's own layers and the addition; a spec has one input, so it adds that twice."""
    spec, layers = network.spec, network.lowered.layers
    numbers = shortcut_ops(network, addition)
    ops = part_of(spec, addition.fork, numbers).ops if numbers else ()
    return Piece(
        kind="addition",
        span=(addition.start, addition.end),
        layers=(*(layers[n] for n in numbers), layers[addition.op]),
        spec=OpSpec(
            input_shape=spec.shapes[addition.fork],
            ops=(*ops, Add(inputs=(len(ops), len(ops)))),
        ),
    )


def shortcut_ops(network: Network, addition: Addition) -> tuple[int, ...]:
    """The operators of an addition's shortcut, in order; none where it is the fork's own tensor.

    Raises ShrinkError where they read, or give, something else besides.
    """
    if addition.shortcut == addition.fork:
        return ()
    spec, layers = network.spec, network.lowered.layers
    try:
        return operators_between(spec, layers, addition.fork, addition.shortcut)
    except NotMergeable as error:
        where = f"in the shortcut of {layers[addition.op]}"
        raise _no_chain(network, f"{where}, {error}") from None
