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
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from latency_tables.errors import PieceError
from latency_tables.forms import CutNetwork
from latency_tables.measured import one_line
from latency_tables.opspec import OpSpec
from latency_tables.places import Place, check_place, piece_name
from latency_tables.schema import Row
from latency_tables.span_masks import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One measurable piece at one place of a network.

    ``block`` is the block's number for the kinds of a block, the number of the block it follows for
    ``between``, and None for ``stem`` and ``head``; ``span`` is (i, j) for the kinds of a network
    cut into spans. ``layers`` names its layers, in order.
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


def piece_row(piece: Piece, *, verdict: str, **values: Any) -> Row:
    """The row of a piece at its place; ``values`` are fields that what was measured gives."""
    i, j = piece.span or (None, None)
    return Row(
        piece=piece.name,
        kind=piece.kind,
        block=piece.block,
        start=i,
        end=j,
        first_layer=one_line(piece.layers[0]) if piece.layers else "",
        last_layer=one_line(piece.layers[-1]) if piece.layers else "",
        digest=piece.spec.digest,
        macs=piece.spec.macs,
        parameters=piece.spec.parameters,
        peak_activations=piece.spec.peak_activations,
        verdict=verdict,
        **values,
    )


@dataclass(frozen=True, kw_only=True)
class NetworkPieces(CutNetwork):
    """Every piece that a table of one network holds."""

    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        seen: set[Place] = set()
        for piece in self.pieces:
            if piece.place in seen:
                raise PieceError(f"{self.model}: {piece.name} is listed twice")
            seen.add(piece.place)
            if problem := self.forms.problem_of(piece.place):
                raise PieceError(f"{self.model}: {piece.name} {problem}")
        self.forms.check_places()

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
