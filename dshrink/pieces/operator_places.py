"""Which piece each operator of a shrunk network belongs to.

By this a runtime's profile of a whole network tells what its pieces cost there. The places are
those of the pieces of ``network_pieces`` and ``span_pieces``: an activation at the end of a span is
part of the span, even where an addition stands between.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from dshrink.network.mask_changes import Rewriting, rewriting, span_region
from dshrink.network.models import Network
from dshrink.pieces.span_pieces import shortcut_ops
from dshrink.pieces.specs import rewritten_ops
from latency_tables.opspec import Activation, BiasMap
from latency_tables.places import Place
from latency_tables.span_masks import mask_spans

#: Operators of the network as it was, and the place that they have in the shrunk one.
_Part = tuple[tuple[int, ...] | range, Place]


def operator_places(
    network: Network, mask: str, *, segments: str = "blocks", padding: str = "repad"
) -> tuple[Place, ...]:
    """The place of each operator of ``shrunk_spec(network, mask, ...)``, in order.

    The network is one that its pieces can be made of. Raises ShrinkError as ``shrunk_spec`` does.
    """
    changes = rewriting(network, mask, segments=segments)
    made = list(rewritten_ops(network, changes, padding=padding))
    if segments == "spans":
        parts, ends = _span_parts(network, mask), _span_ends(network, mask)
    else:
        mapped = frozenset(origin for op, origin in made if isinstance(op, BiasMap))
        parts, ends = _block_parts(network, changes, mapped), {}
    owners = {n: place for ops, place in parts for n in ops}
    was = network.spec.ops
    return tuple(
        ends.get(origin, owners[origin])
        if isinstance(op, Activation) and not isinstance(was[origin], Activation)
        else owners[origin]
        for op, origin in made
    )


def _block_parts(network: Network, changes: Rewriting, mapped: frozenset[int]) -> Iterator[_Part]:
    """``mapped`` are the operators that a bias map comes from."""
    blocks = network.blocks
    merged = {
        region.block: "merged_bias_map" if region.ops[-1] in mapped else "merged"
        for region in changes.regions
    }
    yield range(blocks[0].first), ("stem", None)
    for block, after in pairwise(blocks):
        yield range(block.last + 1, after.first), ("between", block.index)
    yield range(blocks[-1].last + 1, len(network.spec.ops)), ("head", None)
    for block in blocks:
        yield range(block.first, block.last + 1), (merged.get(block.index, "original"), block.index)


def _span_parts(network: Network, mask: str) -> Iterator[_Part]:
    """What lies in several parts belongs to the last of them."""
    spec, layers = network.spec, network.lowered.layers
    chain = network.chain
    yield chain.stem, ("stem", None)
    yield chain.body[-1].after, ("head", None)
    for conv in chain.body[:-1]:
        assert conv.position is not None
        yield conv.after, ("between", (conv.position, conv.position))
    for addition in chain.additions:
        yield (
            (*shortcut_ops(network, addition), addition.op),
            ("addition", (addition.start, addition.end)),
        )
    for i, j in mask_spans(mask):
        end = chain.body[j - 1].activation_op
        ops = span_region(spec, layers, chain, (i, j)).ops
        yield (*ops, *(() if end is None else (end,))), ("span", (i, j))


def _span_ends(network: Network, mask: str) -> dict[int, Place]:
    """The span that a free activation belongs to, by the operator before it."""
    body = network.chain.body
    return {body[j - 1].linear - 1: ("span", (i, j)) for i, j in mask_spans(mask)}
