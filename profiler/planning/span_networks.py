"""Which networks of spans a table may learn from, and which others it is tried on.

A search asks for networks that merge few convolutions and for ones that merge many, within blocks
and across them, and for none whose merged kernels cost far more than what they replace. So networks
are drawn at random from the spans that may be worth it, stratified by how many convolutions are
merged, and no network may do much more arithmetic than the original. A search also chooses where
activations are, and an activation costs time: every second network has signs drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from itertools import islice

from latency_tables.masks import REMOVABLE
from latency_tables.opspec import Activation
from latency_tables.pieces import NetworkPieces
from latency_tables.places import Place
from latency_tables.span_masks import ACTIVE, LINEAR, MERGED, Span, mask_of
from profiler.planning.bounds import merged_spans, one_by_one

#: A span whose MACs are more than so many times those of its layers is in no network.
WORTH_MACS = 3.0
#: No network does more than so many times the MACs of the original.
NETWORK_MACS = 2.0
#: Draws for one network before there seem to be no more.
TRIES = 50


def worth_merging(
    pieces: NetworkPieces, left_out: Collection[Place] = ()
) -> Mapping[Span, tuple[int, int]]:
    """The spans that a sensible network may merge: MACs of the span, and of what it replaces."""
    found: dict[Span, tuple[int, int]] = {}
    for span, piece in merged_spans(pieces):
        layers_macs = sum(one.spec.macs for one in one_by_one(pieces, span))
        if piece.place not in left_out and piece.spec.macs <= WORTH_MACS * layers_macs:
            found[span] = (piece.spec.macs, layers_macs)
    return found


def base_macs(pieces: NetworkPieces) -> int:
    """MACs of the original network."""
    places = pieces.forms.places(pieces.forms.base, pieces.forms.padding)
    return sum(pieces.piece(*place).spec.macs for place in places)


def mask_merging(pieces: NetworkPieces, spans: Collection[Span]) -> str:
    """The network that merges these spans, each with an activation after it, and nothing else."""
    assert pieces.chain is not None
    inside = {at for i, j in spans for at in range(i + 1, j)}
    base = pieces.chain.mask
    boundaries = set(range(1, len(base) + 1)) - inside
    active = {at for at in boundaries if base[at - 1] == ACTIVE} | {j for _, j in spans}
    return mask_of(len(base), boundaries, active)


def random_signs(pieces: NetworkPieces, mask: str, rng: random.Random) -> str:
    """The same spans; at each boundary an activation or none, with equal probability.

    An activation that cannot be taken away stays.
    """
    drawn = []
    for at, sign in enumerate(mask, start=1):
        own = pieces.piece("span", (at - 1, at)).spec.ops[-1]
        fixed = isinstance(own, Activation) and own.function not in REMOVABLE
        drawn.append(sign if sign == MERGED or fixed else rng.choice((ACTIVE, LINEAR)))
    return "".join(drawn)


def least_macs_mask(pieces: NetworkPieces, left_out: Collection[Place] = ()) -> str:
    """The network of the least MACs: about what a search for the fastest one finds.

    The original where no merged span saves any.
    """
    assert pieces.chain is not None
    worth = worth_merging(pieces, left_out)
    best: list[tuple[int, tuple[Span, ...]]] = [(0, ())]
    for end in range(1, pieces.chain.length + 1):
        choices = [best[end - 1]]
        for (i, j), (macs, layers_macs) in worth.items():
            if j == end and macs < layers_macs:
                choices.append((best[i][0] + macs - layers_macs, (*best[i][1], (i, j))))
        best.append(min(choices))
    return mask_merging(pieces, best[-1][1])


def between_span_masks(
    pieces: NetworkPieces,
    count: int,
    seed: int,
    taken: Collection[str] = (),
    left_out: Collection[Place] = (),
) -> tuple[str, ...]:
    """At most ``count`` different span masks: neither the original's nor ``taken``.

    They merge few to nearly all of the convolutions that can be. Half of them have the original's
    activations and one after each merged span, the others have ``random_signs``. ``left_out`` are
    spans that have no latency. A small network may have fewer such masks than asked for.
    """
    worth = worth_merging(pieces, left_out)
    most = _most_merged(worth)
    chosen: list[str] = []
    for number in range(count if most else 0):
        wanted = 1 + (2 * number + 1) * most // (2 * count)
        rng = random.Random(f"{seed}/{len(taken)}/{number}")
        known = {pieces.forms.base, *taken, *chosen}
        # Where a stratum is exhausted, another one will do.
        strata = (wanted if n < TRIES else rng.randint(1, most) for n in range(2 * TRIES))
        masks = (_draw(pieces, worth, stratum, rng) for stratum in strata)
        if number % 2:
            masks = (random_signs(pieces, mask, rng) for mask in masks)
        chosen += islice((mask for mask in masks if mask not in known), 1)
    return tuple(chosen)


def _most_merged(worth: Collection[Span]) -> int:
    """How many convolutions at most can be within merged spans."""
    most = [0] * (1 + max((j for _, j in worth), default=0))
    for end in range(1, len(most)):
        ending = (most[i] + j - i for i, j in worth if j == end)
        most[end] = max(most[end - 1], *ending, 0)
    return most[-1]


def _draw(
    pieces: NetworkPieces,
    worth: Mapping[Span, tuple[int, int]],
    wanted: int,
    rng: random.Random,
) -> str:
    """A network that merges about so many convolutions, as far as the MACs allow it."""
    room = (NETWORK_MACS - 1.0) * base_macs(pieces)
    chosen: list[Span] = []
    shortest = min(j - i for i, j in worth)
    for i, j in rng.sample(sorted(worth), len(worth)):
        macs, layers_macs = worth[i, j]
        free = all(j <= p or q <= i for p, q in chosen)
        if free and j - i <= max(wanted, shortest) and macs - layers_macs <= room:
            chosen.append((i, j))
            wanted -= j - i
            room -= macs - layers_macs
        if wanted <= 0:
            break
    return mask_merging(pieces, chosen)
