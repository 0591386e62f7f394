"""Batch norms behind merged convolutions while these are trained, folded into them afterwards.

A merged convolution has no norm: those of the layers that it replaced are folded into it. To train
it well it gets one, which at first changes nothing: its scale and shift are the deviation and the
mean of what it normalises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dshrink.network.batch_norm import folded_weights
from dshrink.network.layers import PaddedConv2d
from dshrink.network.models import Network


class NormedConv(nn.Sequential):
    """A merged convolution and its norm."""


@torch.no_grad()
def add_norms(module: nn.Module, source: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give each merged convolution of ``module`` a norm that keeps what the network computes.

    ``source`` is what was merged; from ``batches`` of images, on the module's device, the norms
    learn the moments; without any they wait for a checkpoint. In place; ends in eval mode.
    """
    module.eval()
    merged = dict(_merged_convolutions(module, source))
    sums = {
        conv: conv.weight.new_zeros(2, conv.out_channels, dtype=torch.float64)
        for conv in merged.values()
    }
    count = 0

    def note(conv: nn.Module, inputs: object, output: Tensor) -> None:
        assert isinstance(conv, PaddedConv2d)
        output = output.double()
        moments = torch.stack([output, output.square()])
        sums[conv] += moments.mean(dim=(3, 4)).sum(dim=1)

    hooks = [conv.register_forward_hook(note) for conv in merged.values()]
    for images, _ in batches:
        module(images)
        count += len(images)
    for hook in hooks:
        hook.remove()
    for name, conv in merged.items():
        mean, square = sums[conv] / max(count, 1)
        variance = (square - mean.square()).clamp_min(0)
        norm = nn.BatchNorm2d(conv.out_channels)
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)
        module.set_submodule(name, NormedConv(conv, norm.to(conv.weight.device)))
    module.eval()


def _merged_convolutions(module: nn.Module, source: Network) -> Iterator[tuple[str, PaddedConv2d]]:
    own = {name for name, _ in source.module.named_modules()}
    for name, layer in module.named_modules():
        if isinstance(layer, PaddedConv2d) and name not in own:
            yield name, layer


def fold_norms(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the merged network without the norms that ``module`` and ``state`` have.

    The state is loaded into ``module``.
    """
    module.load_state_dict(state)
    found = dict(state)
    for name, layer in module.named_modules():
        if isinstance(layer, NormedConv):
            conv, norm = layer
            assert isinstance(conv, PaddedConv2d)
            weight, bias = folded_weights(conv, norm)
            for key in layer.state_dict(prefix=f"{name}."):
                del found[key]
            found[f"{name}.weight"] = torch.as_tensor(weight, dtype=conv.weight.dtype)
            found[f"{name}.bias"] = torch.as_tensor(bias, dtype=conv.weight.dtype)
    return found
