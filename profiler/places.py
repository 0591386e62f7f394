"""Which pieces stand where in a network: their order, and what stands right before each.

A network's spec is its pieces' operators one after the other. That is what lets a piece be measured
behind its neighbour, and a layer's operators tell which piece they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator

from latency_tables.masks import check_mask, check_padding
from latency_tables.opspec import OpSpec, join
from latency_tables.pieces import NetworkPieces, Piece


def network_order(pieces: NetworkPieces, keep_mask: str, padding: str) -> tuple[Piece, ...]:
    """The pieces of the network of a mask, from the stem to the head."""
    check_mask(keep_mask, pieces.block_names, pieces.unmergeable, pieces.model)
    check_padding(padding)

    def places() -> Iterator[tuple[str, int | None]]:
        yield "stem", None
        for block, keep in enumerate(keep_mask):
            with_map = padding == "bias_map" and ("merged_bias_map", block) in pieces.by_place
            merged = "merged_bias_map" if with_map else "merged"
            yield ("original" if keep == "1" else merged), block
            if ("between", block) in pieces.by_place:
                yield "between", block
        yield "head", None

    return tuple(pieces.piece(*place) for place in places())


def piece_before(pieces: NetworkPieces, piece: Piece) -> Piece | None:
    """The piece right before one in the original network.

    None for the stem, and for dense counterparts, which stand in no network.
    """
    if piece.kind in ("stem", "dense"):
        return None
    order = network_order(pieces, "1" * pieces.block_count, "repad")
    kind = piece.kind if piece.kind in ("between", "head") else "original"
    places = [(one.kind, one.block) for one in order]
    return order[places.index((kind, piece.block)) - 1]


def pair_spec(pieces: NetworkPieces, piece: Piece) -> OpSpec | None:
    """A piece behind the one before it, as one spec; None where nothing stands before it."""
    before = piece_before(pieces, piece)
    return join([before.spec, piece.spec]) if before else None
