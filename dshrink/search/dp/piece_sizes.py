"""What bounds need to know of a network's pieces: kernels, and what is held while each piece runs.

Rows count a piece by itself. In the network the residuals of open skips wait beside it, so what it
holds comes from the pieces of the whole network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from latency_tables.opspec import Conv
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.places import Place
from latency_tables.span_masks import Span


@dataclass(frozen=True, kw_only=True)
class PieceSizes:
    """``kernels``: the longest kernel side of each span. ``peaks``: numbers held, for one image.

    Peaks are those of one ``resolution``, (H, W).
    """

    kernels: Mapping[Span, int]
    peaks: Mapping[Place, int]
    resolution: tuple[int, int]


def sizes_of(pieces: NetworkPieces) -> PieceSizes:
    """The sizes of a network cut into spans."""
    return PieceSizes(
        kernels=kernels_of(pieces), peaks=peaks_of(pieces), resolution=pieces.resolution
    )


def kernels_of(pieces: NetworkPieces) -> dict[Span, int]:
    """The longest kernel side of each span of a network."""
    return {
        piece.span: max(max(op.kernel) for op in piece.spec.ops if isinstance(op, Conv))
        for piece in pieces.pieces
        if piece.kind == "span" and piece.span is not None
    }


def peaks_of(pieces: NetworkPieces) -> dict[Place, int]:
    """What each piece holds while it runs in the network: its peak, and the residuals that wait.

    An addition holds both of its inputs and the sum; a projection in its skip runs just before it.
    """
    waiting = {
        piece.span[0]: math.prod(piece.spec.input_shape)
        for piece in pieces.pieces
        if piece.kind == "addition" and piece.span is not None
    }
    skips = pieces.chain.skips if pieces.chain else ()
    return {
        piece.place: _peak(piece) + sum(waiting[p] for p in _open_beside(piece, skips))
        for piece in pieces.pieces
    }


def _peak(piece: Piece) -> int:
    if piece.kind != "addition":
        return piece.spec.peak_activations
    # What it is added to has the size of the sum.
    size = math.prod(piece.spec.output_shape)
    return size + max(piece.spec.peak_activations, 2 * size)


def _open_beside(piece: Piece, skips: tuple[Span, ...]) -> set[int]:
    """Where the residuals come from that wait while a piece runs and that it does not read."""
    if piece.span is None:
        return set()
    i, j = piece.span
    if piece.kind == "span":
        # A skip from i hands over the span's own input.
        return {p for p, q in skips if p < i and j <= q}
    if piece.kind == "between":
        return {p for p, q in skips if p < i < q}
    # Of skips that end together the shortest is added first.
    return {p for p, q in skips if p < j and p != i and (j < q or (j == q and p < i))}
