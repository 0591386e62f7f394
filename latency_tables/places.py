"""Places: where the pieces of a network are, and the name of a table's row."""

from __future__ import annotations

from latency_tables.errors import PieceError
from latency_tables.span_masks import Span

#: Pieces that every form of the network contains. ``between`` carries the block that it follows, in
#: a network cut into spans the position m as the span (m, m).
FIXED_KINDS = ("stem", "between", "head")
#: Pieces that belong to one block. ``dense`` is never part of a prediction.
BLOCK_KINDS = ("original", "merged", "merged_bias_map", "dense")
#: Those of a merged block.
MERGED_KINDS = ("merged", "merged_bias_map")
#: Pieces of a network cut into spans: the one convolution of a span with the activation at its end,
#: and a residual addition from behind p to behind q, with the shortcut's own layers.
SPAN_KINDS = ("span", "addition")
KINDS = (*FIXED_KINDS, *BLOCK_KINDS, *SPAN_KINDS)

#: Where a piece is: its kind, and its block, its span, or None for stem and head.
Place = tuple[str, int | Span | None]


def piece_name(place: Place) -> str:
    """The name a row carries: "stem", "between 4", "block 3 merged bias map", "span 3-6"."""
    kind, at = place
    if kind in BLOCK_KINDS:
        return f"block {at} {kind.replace('_', ' ')}"
    if isinstance(at, tuple):
        return f"{kind} {at[0]}" if kind == "between" else f"{kind} {at[0]}-{at[1]}"
    return kind if at is None else f"{kind} {at}"


def check_place(place: Place) -> None:
    """Raise PieceError unless a piece of this kind may be at this block or span."""
    kind, at = place
    if kind not in KINDS:
        raise PieceError(f"unknown kind of piece {kind!r}; known: {', '.join(KINDS)}")
    if kind in ("stem", "head"):
        if at is not None:
            raise PieceError(f"the {kind} belongs to no block or span, got {at}")
    elif kind in SPAN_KINDS:
        if not isinstance(at, tuple) or not 0 <= at[0] < at[1]:
            raise PieceError(f"a piece of kind {kind!r} needs its span (i, j], got {at}")
    elif isinstance(at, tuple):
        if kind != "between" or at[0] != at[1] or at[0] < 0:
            raise PieceError(f"a piece of kind {kind!r} cannot be at the span {at}")
    elif at is None or at < 0:
        raise PieceError(f"a piece of kind {kind!r} needs the number of its block, got {at}")
