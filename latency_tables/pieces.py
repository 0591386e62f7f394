"""The pieces that a network is made of, as plain data, and how keep masks pick among them.

A network's latency is the sum of its fixed pieces (stem, what is between blocks, head) and, a
block, either the original or a merged form. Cut into spans of its chain of convolutions instead, it
is the sum of its fixed pieces, its spans, and the residual additions that no span swallows. Every
piece has a place in the network, so two places may hold equal specs: those share a digest and are
measured once. This module knows no torch; the package ``dshrink`` makes these records from real
networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from latency_tables.errors import PieceError
from latency_tables.forms import BlockForms, Forms, make_forms
from latency_tables.opspec import OpSpec
from latency_tables.places import Place, check_place, piece_name
from latency_tables.span_masks import Span, SpanChain


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One measurable piece at one place of a network.

    ``block`` is the block's number for the kinds of a block, the number of the block it follows for
    ``between``, and None for ``stem`` and ``head``; ``span`` is (i, j) for the kinds of a network
    cut into spans. ``layers`` names the layers the piece stands for, in order.
    """

    kind: str
    block: int | None = None
    span: Span | None = None
    layers: tuple[str, ...]
    spec: OpSpec

    def __post_init__(self) -> None:
        if self.block is not None and self.span is not None:
            raise PieceError(f"a {self.kind} is at block {self.block} or at {self.span}")
        check_place(self.place)

    @property
    def place(self) -> Place:
        return self.kind, self.block if self.span is None else self.span

    @property
    def name(self) -> str:
        return piece_name(self.place)

    @property
    def first_layer(self) -> str:
        return self.layers[0] if self.layers else ""

    @property
    def last_layer(self) -> str:
        return self.layers[-1] if self.layers else ""


@dataclass(frozen=True, kw_only=True)
class NetworkPieces:
    """Every piece that a table of one network holds.

    ``resolution`` is (H, W). With a ``chain`` the network is cut into spans, otherwise into blocks
    (``block_names``). ``unmergeable`` maps a block, or a span, to the reason why it cannot merge.
    """

    model: str
    resolution: tuple[int, int]
    in_channels: int
    block_names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    unmergeable: Mapping[int | Span, str] = field(default_factory=dict)
    chain: SpanChain | None = None

    def __post_init__(self) -> None:
        seen: set[Place] = set()
        for piece in self.pieces:
            if piece.place in seen:
                raise PieceError(f"{self.model}: {piece.name} is listed twice")
            seen.add(piece.place)
        self.forms.check_places()

    @cached_property
    def forms(self) -> Forms:
        """Which networks these pieces make."""
        places = frozenset(piece.place for piece in self.pieces)
        return make_forms(self.model, places, self.block_names, self.unmergeable, self.chain)

    @property
    def block_count(self) -> int:
        return len(self.block_names)

    @property
    def mergeable(self) -> tuple[int, ...]:
        """The blocks that a keep mask may shrink; none in a network cut into spans."""
        return self.forms.shrinkable if isinstance(self.forms, BlockForms) else ()

    @cached_property
    def by_place(self) -> Mapping[Place, Piece]:
        """The piece at each place."""
        return {piece.place: piece for piece in self.pieces}

    def piece(self, kind: str, at: int | Span | None = None) -> Piece:
        """The piece at a place. Raises PieceError where there is none."""
        try:
            return self.by_place[kind, at]
        except KeyError:
            raise PieceError(f"{self.model} has no piece {piece_name((kind, at))!r}") from None

    @cached_property
    def unique_specs(self) -> Mapping[str, OpSpec]:
        """Digest to spec, in order of first appearance: what has to be measured."""
        return {piece.spec.digest: piece.spec for piece in self.pieces}
