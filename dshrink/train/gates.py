"""Learnable gates on the activations inside blocks (DepthShrinker, Sec. 4.2).

One mask value a block, shared by the activations inside it. Forward, a block is either kept or
removed: which ones follows from the order of the values alone, decided on the host once a pass,
because a latency budget is a question to a table. So a kept block computes its activations and
nothing else, a removed one neither computes nor stores anything. Backward, every value has a
gradient whether its block is kept or not, and however large it is: nothing is clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from dshrink.merge.surgery import Surgery
from dshrink.network.blocks import Block
from dshrink.network.layers import REMOVABLE_FUNCTIONS
from dshrink.network.mask_changes import block_region
from dshrink.network.models import Network
from latency_tables.opspec import Activation

#: The name of the mask in a gated module's parameters; one value a block that takes part.
MASK_NAME = "activation_mask"
#: A buffer: the share of the latest steps in which each block was kept.
SHARE_NAME = "kept_blocks.share"
_DECISION_NAME = "kept_blocks"

#: From the values of a mask to whether the block of each is kept.
Decision = Callable[[Sequence[float]], Sequence[bool]]


def searchable_blocks(network: Network) -> tuple[Block, ...]:
    """The blocks that can merge and have activations inside; stem and head are in no block."""
    blocks = network.blocks
    return tuple(block for block in blocks if block.inner_numbers and not block.unmergeable)


def gated_module(
    network: Network, blocks: Sequence[Block], rule: Decision, horizon: float = 1.0
) -> fx.GraphModule:
    """A trainable copy of ``network`` with the activations inside ``blocks`` gated.

    Its state dict is the original's, the mask (B,), all zero, since only differences between values
    matter, and the share (B,) of training steps in which each block was kept: a running mean over
    about ``horizon`` of them. In eval mode.
    """
    surgery = Surgery(network, torch.float32)
    module = surgery.module
    module.register_parameter(MASK_NAME, nn.Parameter(torch.zeros(len(blocks))))
    decision = _KeptBlocks(rule, len(blocks), horizon)
    module.add_submodule(_DECISION_NAME, decision)
    with module.graph.inserting_after(surgery.tensors[0]):
        mask = module.graph.get_attr(MASK_NAME)
    with module.graph.inserting_after(mask):
        values = module.graph.call_module(_DECISION_NAME, (mask,))
    for place, block in enumerate(blocks):
        for number in block.inner_numbers:
            op = network.spec.ops[number]
            assert isinstance(op, Activation)
            path = f"{block_region(block).path}.gate_{number}"
            module.add_submodule(path, _Gate(decision, place, op.function))
            source = surgery.tensors[op.inputs[0]]
            with module.graph.inserting_before(surgery.tensors[number + 1]):
                surgery.become(number + 1, module.graph.call_module(path, (source, values)))
    return surgery.finish()


class _KeptBlocks(nn.Module):
    """Decides which blocks this pass keeps, and gives the values of the mask (B,) one by one."""

    def __init__(self, rule: Decision, count: int, horizon: float) -> None:
        super().__init__()
        self._rule = rule
        self._weight = 1 / max(horizon, 1.0)
        self.kept: Sequence[bool] = ()
        self.register_buffer("share", torch.zeros(count))
        self.share: Tensor

    def forward(self, mask: Tensor) -> tuple[Tensor, ...]:
        self.kept = self._rule(mask.tolist())
        if self.training:
            kept = self.share.new_tensor([float(one) for one in self.kept])
            self.share.lerp_(kept, self._weight)
        return mask.unbind()


class _Gate(nn.Module):
    """``z * act(x) + (1 - z) * x`` with z in {0, 1}, and a gradient for the block's mask value."""

    def __init__(self, decision: _KeptBlocks, place: int, function: str) -> None:
        super().__init__()
        # In a list, else the one module would stand in every gate's tree.
        self._decision = [decision]
        self._place = place
        self._activation = REMOVABLE_FUNCTIONS[function]

    def forward(self, x: Tensor, values: tuple[Tensor, ...]) -> Tensor:
        kept = self._decision[0].kept[self._place]
        result: Tensor = _Gated.apply(x, values[self._place], self._activation, kept)  # type: ignore[no-untyped-call]
        return result


class _Gated(torch.autograd.Function):
    """Straight-through: dL/dm = dL/dz = <dL/dx', act(x) - x>.

    Only x is stored, which a removed block shares with its result; act(x) is recomputed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, activation: Any, kept: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation, ctx.kept, ctx.mask_type = activation, kept, value.dtype
        result: Tensor = activation(x) if kept else x
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            active = ctx.activation(x)
        to_x = torch.autograd.grad(active, x, gradient)[0] if ctx.kept else gradient
        change = active.detach() - x.detach()
        # In the mask's own type: products with a scaled gradient overflow float16, as do sums.
        slope = (gradient.to(ctx.mask_type) * change.to(ctx.mask_type)).sum()
        return to_x, slope, None, None
