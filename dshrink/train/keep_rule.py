"""Which blocks a learned mask keeps: by the order of its values, for a keep count or a latency.

The blocks of smallest value go first, so neither the size of the values nor where they lie means
anything. Equal values, as all are at the start, go in an order that the seed draws. A value may be
a pair, whose second part decides where the first ones are equal.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from dshrink.search.goal import Goal
from dshrink.search.greedy import shrink_in_order
from latency_tables.table import LatencyTable

Values = Sequence[float] | Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class KeepRule:
    """From the values of a mask to whether the block of each is kept.

    ``blocks`` are the numbers of the blocks that take part, in the order of the values, of
    ``block_count`` in the network ``model``. A latency budget needs a ``table``.
    """

    model: str
    block_count: int
    blocks: tuple[int, ...]
    goal: Goal
    table: LatencyTable | None
    padding: str
    seed: int
    _known: dict[tuple[int, ...], str] = field(default_factory=dict, init=False, compare=False)

    def __call__(self, values: Values) -> tuple[bool, ...]:
        keep_mask = self.keep_mask(values)
        return tuple(keep_mask[block] == "1" for block in self.blocks)

    def keep_mask(self, values: Values) -> str:
        """One character a block of the network. Raises InfeasibleBudgetError."""
        order = self.removal_order(values)
        # Asked before every step, and the order seldom changes.
        if order not in self._known:
            self._known.clear()
            if self.goal.keep is None:
                assert self.table is not None
                mask = shrink_in_order(self.table, self.goal, order, self.padding)
            else:
                mask = self.goal.shrink(self.model, self.block_count, order)
            self._known[order] = mask
        return self._known[order]

    def removal_order(self, values: Values) -> tuple[int, ...]:
        """The numbers of the blocks, smallest value first."""
        places = list(range(len(self.blocks)))
        random.Random(self.seed).shuffle(places)
        return tuple(self.blocks[at] for at in sorted(places, key=lambda at: values[at]))
