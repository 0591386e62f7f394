"""What the regions of a network give while it runs, next to its result.

A layer behind each region notes the tensor that passes: before the free activation, or the
activation at a block's own end. The module's result and the names of its state dict stay, so it
trains, is averaged and is validated like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from dshrink.merge.surgery import Surgery
from dshrink.network.mask_changes import Region
from dshrink.network.models import Network


class RegionOutputs:
    """The tensors that the regions gave in the latest pass, by their labels."""

    def __init__(self) -> None:
        self._latest: dict[str, Tensor] = {}

    def note(self, label: str, x: Tensor) -> None:
        self._latest[label] = x

    def take(self) -> dict[str, Tensor]:
        """Hand the tensors over: nothing here keeps their memory."""
        found, self._latest = self._latest, {}
        return found


class _Noted(nn.Module):
    def __init__(self, outputs: RegionOutputs, label: str) -> None:
        super().__init__()
        self._outputs, self._label = outputs, label

    def forward(self, x: Tensor) -> Tensor:
        self._outputs.note(self._label, x)
        return x


def record(surgery: Surgery, regions: Sequence[Region], outputs: RegionOutputs) -> None:
    """Let ``outputs`` know what regions give: once they are changed, before activations come."""
    for region in regions:
        node = surgery.tensors[region.result]
        layer = _Noted(outputs, region.label)
        surgery.become(region.result, surgery.call(f"{region.path}.output", layer, node.next, node))


def recorded_module(
    network: Network, regions: Sequence[Region], outputs: RegionOutputs
) -> fx.GraphModule:
    """A copy of ``network`` as it is, in eval mode, that tells ``outputs`` of these regions."""
    surgery = Surgery(network, torch.float32)
    record(surgery, regions, outputs)
    return surgery.finish()
