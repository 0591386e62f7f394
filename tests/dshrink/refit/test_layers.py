"""What a fit sets in a layer is what the layer then computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dshrink.merge.algebra import ConvWeights
from dshrink.merge.merged_network import merged_layers
from dshrink.merge.padding import Merged
from dshrink.network.layers import ConstantMap, PaddedConv2d
from dshrink.refit.layers import KeptConv, MergedLayers
from latency_tables.opspec import Conv

OP = Conv(inputs=(0,), out_channels=6, kernel=(3, 3), pads=(1, 1, 1, 1), groups=2)


def conv(bias: bool) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias)


def norm() -> nn.BatchNorm2d:
    torch.manual_seed(1)
    found = nn.BatchNorm2d(6, eps=1e-3)
    for values in (found.weight.data, found.bias.data, found.running_mean):
        values.normal_()
    found.running_var.uniform_(0.5, 2.0)
    return found.eval()


def fitted(like: ConvWeights) -> ConvWeights:
    generator = torch.Generator().manual_seed(3)
    weight, bias = (
        torch.randn(values.shape, generator=generator, dtype=torch.float64)
        for values in (like.weight, like.bias)
    )
    return replace(like, weight=weight, bias=bias)


def ran(kept: KeptConv, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = kept.conv(x)
        return y if kept.norm is None else kept.norm(y)


@pytest.mark.parametrize("own_bias", [True, False])
@pytest.mark.parametrize("with_norm", [True, False])
def test_a_convolution_that_stays_computes_what_was_fitted(with_norm: bool, own_bias: bool) -> None:
    kept = KeptConv(conv=conv(own_bias or not with_norm), norm=norm() if with_norm else None, op=OP)
    x = torch.randn(2, 4, 8, 8)
    before = kept.shape()
    torch.testing.assert_close(before.run(x.double()).float(), ran(kept, x))
    wanted = fitted(before)
    statistics = (
        {}
        if kept.norm is None
        else {
            name: value.clone() for name, value in kept.norm.state_dict().items() if name != "bias"
        }
    )
    kept.set(wanted)
    torch.testing.assert_close(ran(kept, x), wanted.run(x.double()).float())
    torch.testing.assert_close(kept.shape().weight, wanted.weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept.shape().bias, wanted.bias, rtol=1e-5, atol=1e-5)
    for name, value in statistics.items():
        assert kept.norm is not None
        assert torch.equal(kept.norm.state_dict()[name], value)


def test_a_channel_that_its_norm_turns_off_stays_off() -> None:
    one = norm()
    with torch.no_grad():
        one.weight[2] = 0.0
        one.weight[4] = 1e-9
    kept = KeptConv(conv=conv(False), norm=one, op=OP)
    weight, bias = kept.conv.weight.detach().clone(), one.bias.detach().clone()
    wanted = fitted(kept.shape())
    kept.set(wanted)
    for off in (2, 4):
        assert torch.equal(kept.conv.weight[off], weight[off])
        assert one.bias[off] == bias[off]
    x = torch.randn(2, 4, 8, 8)
    on = [0, 1, 3, 5]
    torch.testing.assert_close(ran(kept, x)[:, on], wanted.run(x.double()).float()[:, on])


@pytest.mark.parametrize(
    ("bias", "norm", "can"),
    [
        (True, None, True),
        (False, None, False),
        (False, nn.BatchNorm2d(6), True),
        (True, nn.BatchNorm2d(6, affine=False), False),
    ],
)
def test_a_fit_needs_a_bias_to_go_to(bias: bool, norm: nn.BatchNorm2d | None, can: bool) -> None:
    assert KeptConv(conv=conv(bias), norm=norm, op=OP).can_be_set == can


@pytest.mark.parametrize("with_norm", [True, False])
def test_the_tensors_of_a_convolution_that_stays_are_all_that_a_fit_changes(
    with_norm: bool,
) -> None:
    def made() -> KeptConv:
        one = norm() if with_norm else None
        return KeptConv(conv=conv(not with_norm), norm=one, op=OP)

    first, second = made(), made()
    first.set(fitted(first.shape()))
    for name, tensor in second.tensors().items():
        tensor.copy_(first.tensors()[name])
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(ran(first, x), ran(second, x))


@pytest.mark.parametrize("with_map", [True, False])
def test_merged_layers_begin_as_the_region_was_linearised_and_take_a_fit(with_map: bool) -> None:
    shape = ConvWeights.from_weights(torch.randn(5, 3, 3, 3), torch.randn(5), pads=(1, 1, 1, 1))
    values = torch.randn(5, 6, 6, dtype=torch.float64) if with_map else None
    start = Merged(conv=shape, bias_map=values, padding="bias_map", size=(6, 6))
    layers = merged_layers(start, torch.float32)
    own, bias_map = layers[0], layers[1] if with_map else None
    assert isinstance(own, PaddedConv2d)
    assert bias_map is None or isinstance(bias_map, ConstantMap)
    merged = MergedLayers(conv=own, bias_map=bias_map, start=start)
    assert torch.equal(merged.shape().weight, shape.weight)
    assert torch.equal(merged.shape().bias, shape.bias)
    wanted = fitted(shape)
    merged.set(wanted)
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(own(x), wanted.run(x.double()).float())
    # What it began with stays known: a fit is drawn towards it.
    assert torch.equal(merged.shape().weight, shape.weight)
    names = {"weight", "bias", "values"} if with_map else {"weight", "bias"}
    assert set(merged.tensors()) == names
    assert not any(tensor.requires_grad for tensor in merged.tensors().values())
