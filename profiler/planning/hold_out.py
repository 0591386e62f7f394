"""Which shrunk networks a table may learn from, and which others it is tried on.

They are stratified by depth, so that slightly and heavily shrunk networks count alike, and those of
blocks alternate between the two forms of a merged block that cost different time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection

from latency_tables.pieces import NetworkPieces
from latency_tables.places import Place
from profiler.planning.span_networks import between_span_masks, least_macs_mask

#: Padding modes that need different pieces; ``interior`` is built of the pieces of ``repad``.
PADDING_FORMS = ("repad", "bias_map")


def merged_forms(pieces: NetworkPieces) -> tuple[str, ...]:
    """The padding modes in which this network's merged blocks differ."""
    has_maps = any(piece.kind == "merged_bias_map" for piece in pieces.pieces)
    return PADDING_FORMS if has_maps else PADDING_FORMS[:1]


def smallest_mask(pieces: NetworkPieces, left_out: Collection[Place] = ()) -> str:
    """The network with every block merged; of spans, the one that those of the fewest MACs make."""
    if pieces.chain is not None:
        return least_macs_mask(pieces, left_out)
    blocks = range(pieces.block_count)
    return "".join("1" if block in pieces.unmergeable else "0" for block in blocks)


def between_masks(
    pieces: NetworkPieces,
    count: int,
    seed: int,
    taken: Collection[str] = (),
    left_out: Collection[Place] = (),
) -> tuple[tuple[str, str], ...]:
    """At most ``count`` different (mask, padding): neither base, ``smallest_mask`` nor ``taken``.

    A network of few blocks may have fewer such masks than asked for: then it gets all of them.
    ``left_out`` are pieces that are not measured.
    """
    if pieces.chain is not None:
        smallest = smallest_mask(pieces, left_out)
        masks = between_span_masks(pieces, count, seed, (smallest, *taken), left_out)
        return tuple((mask, pieces.forms.padding) for mask in masks)
    room = {
        kept: math.comb(len(pieces.mergeable), kept) for kept in range(1, len(pieces.mergeable))
    }
    for mask in taken:
        room[sum(mask[block] == "1" for block in pieces.mergeable)] -= 1
    forms = merged_forms(pieces)
    chosen: list[tuple[str, str]] = []
    for number, depth in enumerate(_strata(room, min(count, sum(room.values())))):
        rng = random.Random(f"{seed}/{len(taken)}/{number}")
        known = {*taken, *(mask for mask, _ in chosen)}
        chosen.append((_draw(pieces, depth, known, rng), forms[number % len(forms)]))
    return tuple(chosen)


def _strata(room: dict[int, int], count: int) -> list[int]:
    """How many blocks each network keeps: even over all counts, as far as there is ``room``."""
    blocks = len(room) + 1
    room = dict(room)
    strata: list[int] = []
    if not room or count < 1:
        return strata
    first_pass = [1 + (2 * number + 1) * (blocks - 1) // (2 * count) for number in range(count)]
    for depth in first_pass:
        nearest = min(room, key=lambda other: (room[other] == 0, abs(other - depth)))
        room[nearest] -= 1
        strata.append(nearest)
    return strata


def _draw(pieces: NetworkPieces, kept_count: int, taken: set[str], rng: random.Random) -> str:
    """A mask that keeps so many of the mergeable blocks and is not taken yet."""
    while True:
        kept = set(rng.sample(pieces.mergeable, kept_count)) | set(pieces.unmergeable)
        mask = "".join("1" if block in kept else "0" for block in range(pieces.block_count))
        if mask not in taken:
            return mask
