"""The order of the pieces in a network, and the piece right before each.

A network of blocks is its pieces' operators one after the other, so a piece can be measured after
the one before it, and a layer's operators identify the piece they belong to. A network of spans has
additions that reach back, so there only the piece before is known.
"""

from __future__ import annotations

from collections.abc import Iterator

from latency_tables.opspec import OpSpec, join
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.places import Place


def network_order(pieces: NetworkPieces, mask: str, padding: str) -> tuple[Piece, ...]:
    """The pieces of the network of a mask, from the stem to the head."""
    return tuple(pieces.piece(*place) for place in pieces.forms.places(mask, padding))


def piece_before(pieces: NetworkPieces, piece: Piece) -> Piece | None:
    """The piece right before one in the original network.

    None where no piece gives it its input: before the stem, and before dense counterparts, which
    are in no network.
    """
    if piece.kind in ("stem", "dense"):
        return None
    if pieces.chain is None:
        order = network_order(pieces, pieces.forms.base, "repad")
        kind = piece.kind if piece.kind in ("between", "head") else "original"
        return order[[one.place for one in order].index((kind, piece.block)) - 1]
    found = (pieces.by_place.get(place) for place in _places_before(piece, pieces.chain.length))
    fits = (one for one in found if one and one.spec.output_shape == piece.spec.input_shape)
    return next(fits, None)


def _places_before(piece: Piece, length: int) -> Iterator[Place]:
    """Where the input of a piece of a chain may come from, the nearest first.

    The input of an addition is that of its shortcut; where this has the same shape, what an
    addition follows is the convolution whose output it adds to.
    """
    i, j = piece.span or (length, length)
    if piece.kind in ("addition", "between"):
        yield "span", (j - 1, j)
    if piece.kind == "between":
        return
    if i == 0:
        yield "stem", None
        return
    yield "between", (i, i)
    yield "span", (i - 1, i)


def pair_spec(pieces: NetworkPieces, piece: Piece) -> OpSpec | None:
    """A piece after the one before it, as one spec; None where there is none."""
    before = piece_before(pieces, piece)
    return join([before.spec, piece.spec]) if before else None
