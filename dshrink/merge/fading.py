"""Activations that fade out or in: a weighted sum of with and without.

How far they are is one number for all of them, outside of the module: not part of its state dict,
whose names stay the original's, and shared with every copy of it, so that an average of the weights
is validated as far as what is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class Fade:
    """``value`` is 0 while the network has its own activations, 1 once it has the new ones.

    A deep copy is the very object.
    """

    value: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Fade:
        return self


class Fading(nn.Module):
    """``(1 - a) * before(x) + a * after(x)``, with a the value of ``fade``.

    At 0 and at 1 it is the one or the other to the last bit. Both are None or element-wise; None
    gives x.
    """

    def __init__(
        self,
        fade: Fade,
        *,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.fade = fade
        self._functions = before or _same, after or _same

    def forward(self, x: Tensor) -> Tensor:
        before, after = self._functions
        if (share := self.fade.value) in (0, 1):
            return after(x) if share else before(x)
        return torch.lerp(before(x), after(x), share)


def _same(x: Tensor) -> Tensor:
    return x
