"""The pieces of a network cut into spans of its chain: T of Kim et al. (ICML 2023), as specs.

Structure only: geometry comes from windows, so that hundreds of spans with merged kernels of any
size cost milliseconds. The original network is the one whose spans hold one convolution each. What
no span changes (stem, head, fixed parts of the trunk) is measured as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dshrink.errors import NotMergeable, ShrinkError
from dshrink.network.chain import Addition, Chain, span_chain
from dshrink.network.mask_changes import operators_between, span_region
from dshrink.network.models import Network
from dshrink.network.sections import part_of
from dshrink.pieces.advice import no_spans
from dshrink.pieces.specs import FREE_ACTIVATION, activated, merged_conv
from latency_tables.opspec import Add, Op, OpSpec
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.span_masks import Span


def span_pieces(network: Network, *, mode: str = "kim2023") -> NetworkPieces:
    """Every piece of a network cut into the spans valid in ``mode`` (``chain.SPAN_MODES``).

    A piece of kind "span" is the one convolution (the layer itself where there is one) with the
    activation at its end: the network's own, or the free one. Spans that make no single convolution
    are in ``unmergeable``. Raises ShrinkError where no convolution stands on the trunk.
    """
    chain = network.chain
    if not chain.body:
        raise ShrinkError(no_spans(network))
    pieces = list(_fixed_pieces(network, chain))
    unmergeable: dict[int | Span, str] = {}
    for span in chain.spans(mode):
        try:
            pieces.append(_span_piece(network, chain, span))
        except NotMergeable as error:
            if span[1] == span[0] + 1:
                raise
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
    last = chain.body[-1]
    yield from _part(network, "stem", None, 0, chain.stem)
    yield from _part(network, "head", None, last.end, last.after)
    for conv in chain.body[:-1]:
        assert conv.position is not None
        place = (conv.position, conv.position)
        yield from _part(network, "between", place, conv.end, conv.after)
    # What is added past a single convolution is part of that layer's own piece.
    places: dict[Span, list[Addition]] = defaultdict(list)
    for addition in chain.additions:
        if addition.end > addition.start + 1:
            places[addition.start, addition.end].append(addition)
    for place, additions in places.items():
        yield _addition(network, place, additions)


def _part(
    network: Network, kind: str, place: Span | None, enters: int, ops: Sequence[int]
) -> Iterator[Piece]:
    """Operators of the trunk that read tensor ``enters`` and each other, additions left out."""
    if not ops:
        return
    spec, layers = network.spec, network.lowered.layers
    passed = {addition.op + 1: addition.main for addition in network.chain.additions}

    def before_additions(tensor: int) -> int:
        while tensor in passed:
            tensor = passed[tensor]
        return tensor

    tensor = {before_additions(enters): 0}  # tensor of the network -> tensor of the piece
    made: list[Op] = []
    for at, n in enumerate(ops, start=1):
        inputs = tuple(tensor[before_additions(t)] for t in spec.ops[n].inputs)
        made.append(replace(spec.ops[n], inputs=inputs))
        tensor[n + 1] = at
    yield Piece(
        kind=kind,
        span=place,
        layers=tuple(layers[n] for n in ops),
        spec=OpSpec(input_shape=spec.shapes[enters], ops=tuple(made)),
    )


def _addition(network: Network, place: Span, additions: Sequence[Addition]) -> Piece:
    """The shortcuts' own layers and the additions to one skip, one after the other.

    A spec has one input, and what is added to is not in it: a shortcut's result is added to itself.
    """
    spec, layers = network.spec, network.lowered.layers
    ops: list[Op] = []
    names: list[str] = []
    for addition in additions:
        numbers = shortcut_ops(network, addition)
        part = part_of(spec, addition.fork, numbers).ops if numbers else ()
        base = len(ops)
        ops += (replace(op, inputs=tuple(t and t + base for t in op.inputs)) for op in part)
        shortcut = len(ops) if part else 0
        ops.append(Add(inputs=(shortcut, shortcut)))
        names += (*(layers[n] for n in numbers), layers[addition.op])
    return Piece(
        kind="addition",
        span=place,
        layers=tuple(names),
        spec=OpSpec(input_shape=spec.shapes[additions[0].fork], ops=tuple(ops)),
    )


def shortcut_ops(network: Network, addition: Addition) -> tuple[int, ...]:
    """The operators of an addition's shortcut, in order; none where it is the fork's own tensor."""
    if addition.shortcut == addition.fork:
        return ()
    spec, layers = network.spec, network.lowered.layers
    return operators_between(spec, layers, addition.fork, addition.shortcut)
