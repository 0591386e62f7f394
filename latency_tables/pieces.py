"""The pieces that a network is made of, as plain data, and how keep masks pick among them.

A network's latency is the sum of its fixed pieces (stem, what stands between blocks, head) and, a
block, either the original or a merged form. Every piece has a place in the network, so two places
may hold equal specs: those share a digest and are measured once. This module knows no torch; the
package ``dshrink`` makes these records from real networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from latency_tables.errors import PieceError
from latency_tables.opspec import OpSpec

#: Pieces that every form of the network contains. ``between`` carries the block it follows.
FIXED_KINDS = ("stem", "between", "head")
#: Pieces that belong to one block. ``dense`` is never part of a prediction.
BLOCK_KINDS = ("original", "merged", "merged_bias_map", "dense")
KINDS = (*FIXED_KINDS, *BLOCK_KINDS)

#: How a merged block treats the border (methods.md); the first one is the default.
PADDING_MODES = ("bias_map", "repad", "interior")


def piece_name(kind: str, block: int | None) -> str:
    """The name a row carries: "stem", "between 4", "block 3 merged", "block 3 merged bias map"."""
    if kind in BLOCK_KINDS:
        return f"block {block} {kind.replace('_', ' ')}"
    return kind if block is None else f"{kind} {block}"


def check_place(kind: str, block: int | None) -> None:
    """Raise PieceError unless a piece of this kind may stand at this block."""
    if kind not in KINDS:
        raise PieceError(f"unknown kind of piece {kind!r}; known: {', '.join(KINDS)}")
    if kind in ("stem", "head"):
        if block is not None:
            raise PieceError(f"the {kind} belongs to no block, got block {block}")
    elif block is None or block < 0:
        raise PieceError(f"a piece of kind {kind!r} needs the number of its block, got {block}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One measurable piece at one place of a network.

    ``block`` is the block's number for the kinds of a block, the number of the block it follows for
    ``between``, and None for ``stem`` and ``head``. ``layers`` names the layers the piece stands
    for, in order.
    """

    kind: str
    block: int | None
    layers: tuple[str, ...]
    spec: OpSpec

    def __post_init__(self) -> None:
        check_place(self.kind, self.block)

    @property
    def name(self) -> str:
        return piece_name(self.kind, self.block)

    @property
    def first_layer(self) -> str:
        return self.layers[0] if self.layers else ""

    @property
    def last_layer(self) -> str:
        return self.layers[-1] if self.layers else ""


@dataclass(frozen=True, kw_only=True)
class NetworkPieces:
    """Every piece that a table of one network holds.

    ``resolution`` is (H, W); ``unmergeable`` maps a block to the reason why it cannot merge.
    """

    model: str
    resolution: tuple[int, int]
    in_channels: int
    block_names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    unmergeable: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: set[tuple[str, int | None]] = set()
        for piece in self.pieces:
            self._check(piece)
            place = (piece.kind, piece.block)
            if place in seen:
                raise PieceError(f"{self.model}: {piece.name} is listed twice")
            seen.add(place)
        for kind in ("stem", "head"):
            if (kind, None) not in seen:
                raise PieceError(f"{self.model} has no {kind}: a network's sum needs one")
        for block in range(self.block_count):
            self._check_forms(block, seen)

    def _check(self, piece: Piece) -> None:
        if piece.block is not None and piece.block >= self.block_count:
            raise PieceError(
                f"{self.model}: {piece.name} stands outside of the network's "
                f"{self.block_count} blocks (numbered from 0)"
            )

    def _check_forms(self, block: int, seen: set[tuple[str, int | None]]) -> None:
        if ("original", block) not in seen:
            raise PieceError(f"{self.model}: block {block} has no original piece")
        if (("merged", block) in seen) == (block in self.unmergeable):
            raise PieceError(
                f"{self.model}: block {block} must have either a merged piece "
                "or a reason why it cannot merge"
            )

    @property
    def block_count(self) -> int:
        return len(self.block_names)

    @property
    def mergeable(self) -> tuple[int, ...]:
        """The blocks that a keep mask may shrink."""
        return tuple(block for block in range(self.block_count) if block not in self.unmergeable)

    @cached_property
    def by_place(self) -> Mapping[tuple[str, int | None], Piece]:
        """The piece at each (kind, block)."""
        return {(piece.kind, piece.block): piece for piece in self.pieces}

    def piece(self, kind: str, block: int | None = None) -> Piece:
        """The piece at a place. Raises PieceError where there is none."""
        try:
            return self.by_place[kind, block]
        except KeyError:
            raise PieceError(f"{self.model} has no piece {piece_name(kind, block)!r}") from None

    @cached_property
    def unique_specs(self) -> Mapping[str, OpSpec]:
        """Digest to spec, in order of first appearance: what has to be measured."""
        return {piece.spec.digest: piece.spec for piece in self.pieces}
