"""The values of a graph's nodes, batch by batch, from where the graph has got to.

Passes over a network front to back would run its first layers again and again. So what they gave is
kept, for as many images as fit; of the others only the images are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from dshrink.refit.parts import image_of, live_before, part_between

#: Values are kept up to so many bytes, of a network and of its original each.
KEPT_BYTES = 1 << 30


@dataclass(kw_only=True)
class Stream:
    """Batches of images (N, C, H, W) on their way through ``module``, in inference mode.

    ``module``'s graph and weights may be changed behind the node that the stream was advanced to.
    """

    module: fx.GraphModule
    images: Iterable[Tensor]
    limit: int = KEPT_BYTES
    _cut: fx.Node | None = None
    _nodes: list[fx.Node] = field(default_factory=list)
    _values: list[tuple[Any, ...]] = field(default_factory=list)

    @torch.inference_mode()
    def values(self, nodes: Sequence[fx.Node]) -> Iterator[tuple[Any, ...]]:
        """The values of ``nodes``, a tuple a batch."""
        if not self._nodes:
            run = part_between(self.module, [image_of(self.module)], nodes)
            for batch in self.images:
                yield run(batch)
            return
        run = part_between(self.module, self._nodes, nodes)
        for known in self._values:
            yield run(*known)

    def advance(self, cut: fx.Node) -> None:
        """Keep what is needed from ``cut`` on, if there is room for it; else all stays as it is.

        On a branch beside the one before it the way begins at the images again.
        """
        if self._cut is not None and cut < self._cut:
            self._cut, self._nodes, self._values = None, [], []
        nodes = live_before(self.module, cut)
        kept: list[tuple[Any, ...]] = []
        room = self.limit
        for values in self.values(nodes):
            room -= sum(value.nbytes for value in values if isinstance(value, Tensor))
            if room < 0:
                return
            kept.append(values)
        self._cut, self._nodes, self._values = cut, nodes, kept
