"""Span masks: one character a convolution of the chain, where keep masks have one a block.

Positions 1..L number the convolutions of a network's chain as in Kim et al. (ICML 2023). What
follows a convolution in a shrunk network is

- ``1``: an activation (the network's own, or the free ReLU6 where it has none);
- ``|``: nothing, but nothing merges across this place either: a linear convolution;
- ``0``: the next convolution, into which this one merges.

Boundaries (``1`` and ``|``) are the set S of the paper, ``1`` alone is the set A. The last
character is a boundary. A span (i, j] is the convolutions i+1..j.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from latency_tables.errors import MaskError, PieceError
from latency_tables.masks import number_hint

#: (i, j): the convolutions i+1..j.
Span = tuple[int, int]

#: More weights than that (fp32) are neither measured nor made in one merged convolution.
MOST_WEIGHT_BYTES = 256 * 1024**2

ACTIVE, LINEAR, MERGED = "1", "|", "0"

#: Why a span is not among all that the network's structure allows, and not among those measured.
INVALID = "it crosses a hard break or the end of a skip"
NO_ROW = (
    f"no row of it is held: {INVALID}, or only `dshrink profile --segments spans "
    "--span-mode exact` measures it"
)


@dataclass(frozen=True, kw_only=True)
class SpanChain:
    """What a span mask is about: the chain of a network, as plain data.

    ``convolutions`` names positions 1..L in order. ``mask`` is the original network's span mask.
    ``skips`` are pairs (p, q): a residual from behind p to behind q. ``block_ends`` are the
    positions of the last convolution of each building block, in order; empty without blocks.
    """

    convolutions: tuple[str, ...]
    mask: str
    skips: tuple[Span, ...] = ()
    block_ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.convolutions)) != len(self.convolutions) or not self.convolutions:
            raise PieceError("a chain needs convolutions, each with a name of its own")
        if len(self.mask) != self.length or set(self.mask) - {ACTIVE, LINEAR}:
            raise PieceError(
                f"the original network's span mask {self.mask!r} must hold one {ACTIVE} or "
                f"{LINEAR} for each of its {self.length} convolutions"
            )
        for p, q in self.skips:
            if not 0 <= p < q <= self.length:
                raise PieceError(f"a skip from {p} to {q} leaves the chain 0..{self.length}")
        if list(self.block_ends) != sorted({m for m in self.block_ends if 0 < m <= self.length}):
            raise PieceError(f"block ends {self.block_ends} are not positions in order")

    @property
    def length(self) -> int:
        """L, the number of convolutions."""
        return len(self.convolutions)

    def additions(self, mask: str) -> tuple[Span, ...]:
        """The skips that stay real additions under a span mask: no span swallows them."""
        spans = mask_spans(mask)
        return tuple((p, q) for p, q in self.skips if not any(i <= p and q <= j for i, j in spans))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanChoice:
    """Which spans of a chain were profiled: of which ``mode``, up to which merged kernel.

    ``max_kernel`` is None where only spans of excessive size were left out.
    """

    mode: str
    max_kernel: int | None = None

    def __post_init__(self) -> None:
        if not self.mode or (self.max_kernel is not None and self.max_kernel < 1):
            raise PieceError("a choice of spans needs a mode, and a largest kernel of 1 or more")


def mask_spans(mask: str) -> tuple[Span, ...]:
    """The spans (i, j] that a span mask cuts the chain into, in order."""
    cuts = [0, *(at for at, sign in enumerate(mask, start=1) if sign != MERGED)]
    return tuple(pairwise(cuts))


def mask_of(length: int, boundaries: Collection[int], active: Collection[int]) -> str:
    """The span mask of S (``boundaries``) and A (``active``); L is a boundary in any case."""
    return "".join(
        ACTIVE if at in active else LINEAR if at in boundaries or at == length else MERGED
        for at in range(1, length + 1)
    )


def check_span_mask(
    mask: str,
    chain: SpanChain,
    known: Collection[Span],
    unmergeable: Mapping[Span, str] | None = None,
    model: str = "the network",
    absent: str = INVALID,
) -> None:
    """Raise MaskError unless the mask fits the chain and merges only ``known`` spans.

    ``unmergeable`` gives reasons by span, ``absent`` the one of all others: ``INVALID`` where
    ``known`` are all valid spans, ``NO_ROW`` where they are those of a table or of its pieces.
    """
    wrong = sorted(set(mask) - {ACTIVE, LINEAR, MERGED})
    if wrong:
        raise MaskError(
            f"span mask {mask!r}: {wrong[0]!r} is none of {ACTIVE} (activation stays), {LINEAR} "
            f"(no activation, no merge) and {MERGED} (merge into the next){number_hint(mask)}"
        )
    if len(mask) != chain.length:
        raise MaskError(
            f"span mask {mask!r} has {len(mask)} characters, the chain of {model} has "
            f"{chain.length} convolutions: give one character a convolution"
            f"{number_hint(mask, chain.length)}"
        )
    if mask[-1] == MERGED:
        raise MaskError(f"span mask {mask!r} ends with {MERGED}: there is nothing to merge into")
    for i, j in mask_spans(mask):
        if (i, j) not in known:
            reason = (unmergeable or {}).get((i, j), absent)
            raise MaskError(
                f"span mask {mask!r} merges {_names(chain.convolutions[i:j])} of {model} "
                f"(positions {i + 1} to {j}), which cannot be: {reason}"
            )


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
