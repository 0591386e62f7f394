"""Which networks the pieces of a table make: what a mask may say, and which pieces it picks.

A network cut into blocks is named by a keep mask, one cut into spans of its chain by a span mask.
In both ``0`` merges.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from latency_tables.errors import MaskError, PieceError
from latency_tables.masks import PADDING_MODES, check_mask, check_padding
from latency_tables.places import FIXED_KINDS, Place
from latency_tables.span_masks import (
    MERGED,
    NO_ROW,
    Span,
    SpanChain,
    check_span_mask,
    mask_spans,
)


@dataclass(frozen=True, kw_only=True)
class CutNetwork:
    """A network cut into pieces: what its table and the pieces to measure have in common.

    ``resolution`` is (H, W). With a ``chain`` the network is cut into spans, and masks are span
    masks; otherwise into blocks (``block_names``), and masks are keep masks. ``unmergeable`` maps a
    block, or a span, to the reason why it cannot merge.
    """

    model: str
    resolution: tuple[int, int]
    in_channels: int
    block_names: tuple[str, ...]
    unmergeable: Mapping[int | Span, str] = field(default_factory=dict)
    chain: SpanChain | None = None

    @property
    def by_place(self) -> Mapping[Place, Any]:
        """What is held for each place."""
        raise NotImplementedError

    @property
    def cut(self) -> dict[str, Any]:
        """These fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(CutNetwork)}

    @cached_property
    def forms(self) -> Forms:
        """Which networks the pieces make."""
        places = frozenset(self.by_place)
        if self.chain is None:
            blocks = {at: why for at, why in self.unmergeable.items() if isinstance(at, int)}
            return BlockForms(self.model, places, self.block_names, blocks)
        spans = {at: why for at, why in self.unmergeable.items() if not isinstance(at, int)}
        return SpanForms(self.model, places, self.chain, spans)

    @property
    def block_count(self) -> int:
        return len(self.block_names)

    @property
    def mergeable(self) -> tuple[int, ...]:
        """The blocks that a keep mask may shrink; none in a network cut into spans."""
        return self.forms.shrinkable if isinstance(self.forms, BlockForms) else ()


def merged_kind(known: Container[Place], block: int, padding: str) -> str:
    """Which piece serves a merged block: one without padding inside needs no bias map."""
    with_map = padding == "bias_map" and ("merged_bias_map", block) in known
    return "merged_bias_map" if with_map else "merged"


def _without_absent(places: Iterable[Place], known: Container[Place]) -> tuple[Place, ...]:
    """A network need not have every fixed piece; all others it needs."""
    return tuple(place for place in places if place in known or place[0] not in FIXED_KINDS)


@dataclass(frozen=True)
class BlockForms:
    """Every block as it is, or merged; ``padding`` is that of merged pieces by default.

    A network whose first or last block stands at its end has no stem, or no head.
    """

    model: str
    known: frozenset[Place]
    block_names: tuple[str, ...]
    unmergeable: Mapping[int, str]

    padding = PADDING_MODES[0]

    @property
    def base(self) -> str:
        """The mask of the original network."""
        return "1" * len(self.block_names)

    def check(self, mask: str) -> None:
        """Raise MaskError unless these pieces make the network of this mask."""
        check_mask(mask, self.block_names, self.unmergeable, self.model)

    def places(self, mask: str, padding: str) -> tuple[Place, ...]:
        """The pieces of the network of a mask, in order. Raises MaskError."""
        self.check(mask)
        check_padding(padding)
        found: list[Place] = [("stem", None)]
        for block, keep in enumerate(mask):
            kind = "original" if keep == "1" else merged_kind(self.known, block, padding)
            found += [(kind, block), ("between", block)]
        return _without_absent((*found, ("head", None)), self.known)

    def problem_of(self, place: Place) -> str:
        """Why no piece of this network can be there, or an empty text."""
        at = place[1]
        if isinstance(at, tuple):
            return f"belongs to a chain, and {self.model} is cut into blocks"
        if at is not None and at >= len(self.block_names):
            return (
                f"belongs to a block that does not exist: {self.model} has "
                f"{len(self.block_names)} blocks, numbered from 0"
            )
        return ""

    @property
    def shrinkable(self) -> tuple[int, ...]:
        """The blocks that a keep mask may shrink."""
        blocks = range(len(self.block_names))
        return tuple(block for block in blocks if block not in self.unmergeable)

    @property
    def can_merge(self) -> bool:
        """Whether there are other networks than the original."""
        return bool(self.shrinkable)

    def needed(self) -> tuple[Place, ...]:
        """Where a search cannot do without a latency."""
        found: list[Place] = [*self.places(self.base, self.padding)]
        for block in self.shrinkable:
            found += [("merged", block), (merged_kind(self.known, block, "bias_map"), block)]
        return tuple(dict.fromkeys(found))

    def check_places(self) -> None:
        """Raise PieceError unless every network that a mask may ask for has its pieces."""
        blocks = len(self.block_names)
        for block in range(blocks):
            if ("original", block) not in self.known:
                raise PieceError(f"{self.model}: block {block} has no original piece")
            if (("merged", block) in self.known) == (block in self.unmergeable):
                raise PieceError(
                    f"{self.model}: block {block} must have either a merged piece "
                    "or a reason why it cannot merge"
                )


@dataclass(frozen=True)
class SpanForms:
    """The chain cut into spans, and the residual additions that no span swallows.

    A network whose first or last convolution is its end has no stem, or no head.
    """

    model: str
    known: frozenset[Place]
    chain: SpanChain
    unmergeable: Mapping[Span, str]

    padding = "repad"

    @property
    def base(self) -> str:
        return self.chain.mask

    @cached_property
    def spans(self) -> frozenset[Span]:
        """The spans that have a piece."""
        return frozenset(at for kind, at in self.known if kind == "span" and isinstance(at, tuple))

    def check(self, mask: str) -> None:
        check_span_mask(mask, self.chain, self.spans, self.unmergeable, self.model, absent=NO_ROW)

    def places(self, mask: str, padding: str) -> tuple[Place, ...]:
        self.check(mask)
        check_padding(padding)
        if padding == "bias_map" and MERGED in mask:
            raise MaskError(
                f"padding bias_map: a table of spans ({self.model}) holds the plain form of what "
                "merges; ask for padding repad or interior"
            )
        additions = self.chain.additions(mask)
        found: list[Place] = [("stem", None)]
        for i, j in mask_spans(mask):
            found.append(("span", (i, j)))
            found += [("addition", (p, q)) for p, q in additions if q == j]
            found.append(("between", (j, j)))
        return _without_absent((*found, ("head", None)), self.known)

    def problem_of(self, place: Place) -> str:
        kind, at = place
        length = self.chain.length
        if isinstance(at, int):
            return f"belongs to a block, and {self.model} is cut into spans of its convolutions"
        if at is not None and at[1] > length:
            return f"leaves the chain of {self.model}, which has {length} convolutions"
        if kind == "addition" and at not in self.chain.skips:
            return f"belongs to no skip of {self.model}"
        return ""

    @property
    def can_merge(self) -> bool:
        return any(j - i > 1 for i, j in self.spans)

    def needed(self) -> tuple[Place, ...]:
        return self.places(self.base, self.padding)

    def check_places(self) -> None:
        for at in range(1, self.chain.length + 1):
            if ("span", (at - 1, at)) not in self.known:
                raise PieceError(f"{self.model}: convolution {at} has no piece of its own")
        for skip in self.chain.skips:
            if ("addition", skip) not in self.known:
                raise PieceError(f"{self.model}: the skip {skip[0]}-{skip[1]} has no addition")


#: The networks that some pieces make.
Forms = BlockForms | SpanForms
