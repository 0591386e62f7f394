"""Expand-then-shrink (DepthShrinker+): convolutions grown for training, and shrunk back exactly.

A chosen convolution becomes a standard inverted residual: pointwise - depthwise - pointwise, with
norms, ReLU6 after the first two, and a skip where its result has the shape of its input. The
weights of an expansion are initialised at random: with the ReLU6 inside, none computes what a given
convolution computed. All padding of the convolution is at the first pointwise from the start
(``repad``), so that nothing inside reads zeros where its input has a bias, and ``contract`` is
exact in the padded region too.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from dshrink.merge.algebra import ConvWeights, add_identity, compose
from dshrink.merge.verify import Difference
from dshrink.network.batch_norm import folded_weights
from dshrink.network.layers import PaddedConv2d
from dshrink.network.lowering import lower
from dshrink.network.models import Network
from dshrink.network.tracing import trace
from dshrink.train.expansion_rules import ExpansionError, find_convolution, find_expandable
from latency_tables.opspec import Conv, OpSpec

#: Middle channels for each input channel (DepthShrinker, App. D).
RATIO, MOST_RATIO = 6, 64


class Expansion(nn.Sequential):
    """The inverted residual that a convolution ``op`` of ``channels`` inputs is trained as.

    Without ``own_norm`` the network's own norm follows the last pointwise. No layer has a bias:
    each is followed by a norm.
    """

    def __init__(self, op: Conv, channels: int, ratio: int, *, own_norm: bool, skip: bool) -> None:
        middle = ratio * channels
        layers: dict[str, nn.Module] = {
            "expand": PaddedConv2d(
                channels, middle, (1, 1), stride=(1, 1), pads=op.pads, groups=1, bias=False
            ),
            "expand_norm": nn.BatchNorm2d(middle),
            "expand_activation": nn.ReLU6(),
            "depthwise": nn.Conv2d(
                middle, middle, op.kernel, op.stride, 0, op.dilation, groups=middle, bias=False
            ),
            "depthwise_norm": nn.BatchNorm2d(middle),
            "depthwise_activation": nn.ReLU6(),
            "project": nn.Conv2d(middle, op.out_channels, 1, bias=False),
        }
        if own_norm:
            layers["project_norm"] = nn.BatchNorm2d(op.out_channels)
        super().__init__(OrderedDict(layers))
        self.depthwise: nn.Conv2d
        self.op, self.skip = op, skip
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if op.kernel == (1, 1):
            # The norm after it cancels the scale of a single weight; one near 0 has huge gradients.
            nn.init.ones_(self.depthwise.weight)

    def forward(self, input: Tensor) -> Tensor:
        result = input
        for layer in self:
            result = layer(result)
        return result + input if self.skip else result

    def remove_activations(self) -> None:
        """Make it linear. The names of its state stay. In place."""
        self.expand_activation: nn.Module = nn.Identity()
        self.depthwise_activation: nn.Module = nn.Identity()

    def contracted(self) -> ConvWeights:
        """The one convolution that it computes, in float64. Raises ExpansionError unless linear."""
        if any(isinstance(layer, nn.ReLU6) for layer in self):
            raise ExpansionError("an expansion with its activations is not a convolution")
        children = dict(self.named_children())
        factors = []
        for name in ("expand", "depthwise", "project"):
            layer, norm = children[name], children.get(f"{name}_norm")
            assert isinstance(layer, nn.Conv2d)
            # With two 1x1 factors the stride and dilation of the third do not enter its weights.
            weight, bias = map(torch.from_numpy, folded_weights(layer, *([norm] if norm else [])))
            factors.append(ConvWeights.from_weights(weight, bias, groups=layer.groups))
        merged = replace(compose(*factors), pads=self.op.pads)
        return add_identity(merged) if self.skip else merged


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """``network`` with its convolutions ``layers`` expanded, as the trainable ``module``.

    The state of ``module`` has the names of the network's, but for the expanded convolutions.
    """

    network: Network
    module: fx.GraphModule
    layers: tuple[str, ...]

    @property
    def spec(self) -> OpSpec:
        """The expanded network's operators: what a step of training computes. Leaves it in eval."""
        channels, height, width = self.network.spec.input_shape
        return lower(trace(self.module, (channels, height, width))).spec


def expand(
    network: Network, layers: Sequence[str], *, ratio: int = RATIO, seed: int = 0
) -> Expanded:
    """Replace the convolutions ``layers`` of a copy of ``network`` by expansions, in eval mode.

    Method: DepthShrinker, Sec. 4.5 and App. D; which layers: ``expansion_rules``. Raises
    ExpansionError for a layer that is not a convolution of the network or cannot be expanded.
    """
    if not 1 <= ratio <= MOST_RATIO:
        raise ExpansionError(
            f"ratio {ratio:.12g}: give 1 to {MOST_RATIO} middle channels an input channel"
        )
    if not layers:
        raise ExpansionError(f"{network.name}: no convolution to expand; name some: --layer NAME")
    module = copy.deepcopy(network.module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in layers:
            expansion = _expansion(network, name, ratio)
            like = next(network.module.get_submodule(name).parameters())
            module.set_submodule(name, expansion.to(like.device, like.dtype))
    return Expanded(network=network, module=module.eval(), layers=tuple(layers))


def _expansion(network: Network, name: str, ratio: int) -> Expansion:
    number, spec = find_expandable(network, name), network.spec
    op = spec.ops[number]
    assert isinstance(op, Conv)
    before, after = spec.shapes[op.inputs[0]], spec.shapes[number + 1]
    return Expansion(
        op,
        before[0],
        ratio,
        own_norm=len(network.lowered.modules[number]) == 1,
        # A dilated kernel need not have a tap at the position of the skip.
        skip=before == after and op.stride == op.dilation == (1, 1),
    )


def without_activations(expanded: Expanded) -> Expanded:
    """The same with linear expansions, on a copy: what is fine-tuned before it is contracted."""
    module = copy.deepcopy(expanded.module)
    for name in expanded.layers:
        _expansion_at(module, name).remove_activations()
    return replace(expanded, module=module)


def contract(expanded: Expanded) -> dict[str, Tensor]:
    """The state dict of the original network that computes what the expanded one computes.

    In float64, cast at the end. Where a convolution has no bias, that of its expansion is taken
    from the running mean of the norm after it. Raises ExpansionError unless the expansions are
    linear (``without_activations``).
    """
    trained = expanded.module.state_dict()
    state = expanded.network.module.state_dict()
    state = {name: trained.get(name, value).detach().clone() for name, value in state.items()}
    for name in expanded.layers:
        conv = _expansion_at(expanded.module, name).contracted()
        state[f"{name}.weight"] = _like(conv.weight, state[f"{name}.weight"])
        if f"{name}.bias" in state:
            state[f"{name}.bias"] = _like(conv.bias, state[f"{name}.bias"])
        else:
            number = find_convolution(expanded.network, name)
            mean = f"{expanded.network.lowered.modules[number][1]}.running_mean"
            state[mean] = _like(state[mean].double() - conv.bias, state[mean])
    return state


def _like(value: Tensor, original: Tensor) -> Tensor:
    if value.shape != original.shape:
        raise ExpansionError(
            f"an expansion contracts to {tuple(value.shape)}, not {tuple(original.shape)}"
        )
    return value.to(original.dtype)


def _expansion_at(module: fx.GraphModule, name: str) -> Expansion:
    expansion = module.get_submodule(name)
    assert isinstance(expansion, Expansion)
    return expansion


@torch.no_grad()
def contraction_error(expanded: Expanded, *, seed: int = 0) -> float:
    """How far the original network with the contracted state is from the linear expansions.

    The largest difference of the outputs over the largest output, in float64, on random images,
    padding included: only rounding remains.
    """
    module = copy.deepcopy(expanded.module).double().eval()
    original = copy.deepcopy(expanded.network.module).double().eval()
    network = replace(expanded.network, module=original)
    original.load_state_dict(contract(replace(expanded, network=network, module=module)))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(
        2, *expanded.network.spec.input_shape, generator=generator, dtype=torch.float64
    )
    wanted, found = module(images), original(images)
    return Difference.between(found, wanted, float(wanted.abs().max())).relative
