"""Which networks the dynamic program wants to know the accuracy of: the keys of I(i, j, a, b).

A key is a span (i, j] with the activations strictly inside removed, and two flags: whether an
activation follows i and j (Kim et al., ICML 2023, Algorithm 3). Only at the end of a building
block is there a choice, and never at both ends of a span at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from latency_tables.span_masks import ACTIVE, LINEAR, MERGED, Span, SpanChain


class ImportanceKey(NamedTuple):
    """Span (i, j] and whether an activation follows its ends (1) or not (0)."""

    i: int
    j: int
    a: int
    b: int


def importance_keys(
    spans: Iterable[Span], block_ends: Collection[int]
) -> tuple[ImportanceKey, ...]:
    """The keys of valid spans in the order of the published tables.

    i = 0: (1, 1); i at a block's end: a in {1, 0}, b = 1; else j at a block's end: a = 1, b in
    {1, 0}; else (1, 1). MobileNetV2 with the paper's spans has 315.
    """
    ends = set(block_ends)
    found = []
    for i, j in sorted(spans):
        found.append(ImportanceKey(i, j, 1, 1))
        if i in ends:
            found.append(ImportanceKey(i, j, 0, 1))
        elif i > 0 and j in ends:
            found.append(ImportanceKey(i, j, 1, 0))
    return tuple(found)


def key_mask(chain: SpanChain, key: ImportanceKey) -> str:
    """The span mask of a key's network: the original's but for the span and its two ends."""
    i, j, a, b = key
    before = "" if i == 0 else chain.mask[: i - 1] + _sign(a)
    return before + MERGED * (j - i - 1) + _sign(b) + chain.mask[j:]


def _sign(active: int) -> str:
    return ACTIVE if active else LINEAR
