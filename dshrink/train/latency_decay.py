"""The latency-aware decay of a mask search, and where it enters the gradient.

DepthShrinker, Sec. 4.2, with the sign as in its text (docs/methods.md): keeping a block costs what
merging it would save, so large savings lower a mask value. The released code has it reversed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from dshrink.search.errors import SearchError
from dshrink.search.goal import savings_ms
from dshrink.train.finetune import PADDING
from latency_tables.table import LatencyTable

#: Strength of the decay where none is given: of the size of what images say of most blocks.
DECAY = 0.003


@dataclass(frozen=True, kw_only=True)
class Decay:
    """``strength * sum_i weight_i * m_i`` added to the loss: large savings lower a mask value.

    ``savings_ms`` are the savings of the blocks that take part, in their order; a weight is such a
    saving divided by ``unit_ms``, the mean latency of these blocks unmerged, so that a strength
    means the same on a fast device and on a slow one.
    """

    strength: float
    savings_ms: tuple[float, ...]
    unit_ms: float

    @property
    def gradient(self) -> tuple[float, ...]:
        """What it adds to the gradient of each mask value, at every step."""
        return tuple(self.strength * (saving_ms / self.unit_ms) for saving_ms in self.savings_ms)


def latency_decay(table: LatencyTable, blocks: Sequence[int], strength: float) -> Decay:
    """The decay of the mask values of ``blocks``. Raises SearchError for a strength below 0."""
    if not 0 <= strength < math.inf:
        raise SearchError(f"the decay must be a number, 0 or more, got {strength:g}")
    savings = savings_ms(table, PADDING)
    latencies_ms = [table.cost_ms("original", block) for block in blocks]
    return Decay(
        strength=strength,
        savings_ms=tuple(savings[block] for block in blocks),
        unit_ms=sum(latencies_ms) / len(latencies_ms),
    )


@contextmanager
def decayed_steps(mask: Tensor, decay: Decay | None, limit: float) -> Iterator[None]:
    """Within it, a step along the mask's gradient is limited, and the decay is added.

    At this point gradients of all parts and processes have been averaged, and those of half
    precision divided by their scale. Added here, the decay stays out of the losses that are
    reported: mask values lie anywhere, and so would its term.
    """
    added = mask.new_tensor(decay.gradient) if decay else mask.new_zeros(())

    def step(optimiser: Optimizer, *arguments: Any) -> None:
        nonlocal added
        parameters = (one for group in optimiser.param_groups for one in group["params"])
        if mask.grad is not None and any(mask is one for one in parameters):
            added = added.to(mask.device)
            mask.grad.clamp_(-limit, limit).add_(added)

    handle = register_optimizer_step_pre_hook(step)
    try:
        yield
    finally:
        handle.remove()
