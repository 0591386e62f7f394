"""Expansions against what they are contracted to: the library's own network with the state loaded.

The oracle of a contraction is torch: the trained, linear expansion and the original network with
the contracted state dict, both in float64, compared at the borders too.
"""

from __future__ import annotations

import copy

import pytest
import torch
from expandable import make_network, plain, tiny_vgg
from torch import nn

from dshrink.network.layers import PaddedConv2d
from dshrink.network.models import load_network, randomise
from dshrink.network.tracing import import_timm
from dshrink.train.expansion import contract, expand, without_activations
from dshrink.train.expansion_rules import ExpansionError, choose

RELATIVE = 1e-9


def trained(expanded):
    """Weights and statistics as after training: nothing at its initial value, norms included."""
    randomise(expanded.module, expanded.network.spec.input_shape, seed=3)
    return expanded


def in_double(expanded):
    expanded.network.module.double()
    expanded.module.double()
    return expanded


def linear(network, layers, **options):
    return in_double(trained(without_activations(expand(network, layers, **options))))


def difference(expanded, original):
    """Largest difference over the largest value, over all positions of the outputs."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(2, *expanded.network.spec.input_shape, generator=generator).double()
    with torch.no_grad():
        wanted, found = expanded.module(images), original(images)
    assert wanted.shape == found.shape
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def contracted(expanded):
    """The original network's own module with the contracted state, loaded strictly."""
    module = copy.deepcopy(expanded.network.module)
    module.load_state_dict(contract(expanded))
    return module


@pytest.mark.parametrize("layout", ["A", "B"], ids=["VGG-11", "VGG-13"])
@pytest.mark.parametrize("norms", [False, True], ids=["biases", "norms"])
def test_a_vgg_shrinks_back_to_its_shapes_and_computes_the_same(layout, norms):
    network = tiny_vgg(layout, norms=norms)
    before = {name: value.shape for name, value in network.module.state_dict().items()}
    expanded = linear(network, choose(network).layers)
    state = contract(expanded)
    assert {name: value.shape for name, value in state.items()} == before
    assert difference(expanded, contracted(expanded)) < RELATIVE


CASES = {
    "stride 2 and a bias": plain(nn.Conv2d(4, 5, 3, stride=2, padding=1)),
    "stride 2 and a norm": plain(nn.Conv2d(4, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5)),
    "a bias and a norm": plain(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5, eps=1e-2)),
    "a norm without parameters": plain(
        nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5, affine=False)
    ),
    "pads of two sizes": plain(nn.Conv2d(4, 5, (3, 5), padding=(0, 3))),
    "pads wider than the kernel": plain(nn.Conv2d(4, 5, 3, padding=4)),
    "a padded pointwise": plain(nn.Conv2d(4, 4, 1, padding=1)),
    "a dilated kernel": plain(nn.Conv2d(4, 4, 3, padding=2, dilation=2)),
    "a skip": plain(nn.Conv2d(4, 4, 3, padding=1)),
    "a skip before a norm": plain(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)),
    "a skip beside an even kernel": plain(
        PaddedConv2d(4, 4, (4, 4), stride=(1, 1), pads=(1, 2, 2, 1), groups=1)
    ),
    "a skip beside a pointwise": plain(nn.Conv2d(4, 4, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_contracted_convolution_computes_the_same_at_the_borders_too(case):
    network = make_network(copy.deepcopy(CASES[case]), (3, 9, 10))
    expanded = linear(network, ["1"], seed=1)
    assert expanded.module.get_submodule("1").skip == case.startswith("a skip")
    assert difference(expanded, contracted(expanded)) < RELATIVE


def test_one_channel_and_one_middle_channel_are_enough():
    network = make_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), (1, 5, 5))
    expanded = linear(network, ["0"], ratio=1)
    assert difference(expanded, contracted(expanded)) < RELATIVE


@pytest.mark.parametrize("name", ["mobilenetv2_035", "test_efficientnet", "test_resnet"])
def test_library_networks_load_what_their_expansions_are_contracted_to(name):
    network = load_network(name, resolution=32, classes=10)
    expanded = linear(network, choose(network).layers)
    original = import_timm().create_model(name, num_classes=10).double().eval()
    original.load_state_dict(contract(expanded))
    assert difference(expanded, original) < RELATIVE


def test_a_contraction_in_float32_is_as_near_as_float32_allows():
    network = tiny_vgg("A", norms=True)
    expanded = trained(without_activations(expand(network, choose(network).layers)))
    state = contract(expanded)
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    module = copy.deepcopy(network.module)
    module.load_state_dict(state)
    expanded.module.double()
    assert difference(expanded, module.double()) < 1e-5


def test_an_expansion_is_an_inverted_residual_of_ratio_6_with_all_padding_in_front():
    network = make_network(plain(nn.Conv2d(4, 5, 3, stride=2, padding=1)), (3, 9, 10))
    expansion = expand(network, ["1"]).module.get_submodule("1")
    assert [(name, type(layer).__name__) for name, layer in expansion.named_children()] == [
        ("expand", "PaddedConv2d"),
        ("expand_norm", "BatchNorm2d"),
        ("expand_activation", "ReLU6"),
        ("depthwise", "Conv2d"),
        ("depthwise_norm", "BatchNorm2d"),
        ("depthwise_activation", "ReLU6"),
        ("project", "Conv2d"),
        ("project_norm", "BatchNorm2d"),
    ]
    assert expansion.expand.weight.shape == (24, 4, 1, 1)
    assert expansion.expand.pads == (1, 1, 1, 1)
    assert expansion.depthwise.weight.shape == (24, 1, 3, 3)
    assert (expansion.depthwise.stride, expansion.depthwise.padding) == ((2, 2), (0, 0))
    assert expansion.project.weight.shape == (5, 24, 1, 1)


def test_the_norm_that_a_network_has_is_the_expansions_last():
    with_norm = plain(nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5))
    expanded = expand(make_network(with_norm, (3, 9, 10)), ["1"])
    assert "1.project_norm.weight" not in expanded.module.state_dict()
    assert expanded.module.get_submodule("2").weight.shape == (5,)


def test_the_rest_keeps_its_names_and_weights_and_the_network_is_not_touched():
    network = tiny_vgg("A")
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    expanded = expand(network, ["6", "8"])
    learnt = expanded.module.state_dict()
    for name, value in before.items():
        assert torch.equal(network.module.state_dict()[name], value)
        if name.rpartition(".")[0] not in ("6", "8"):
            assert torch.equal(learnt[name], value)
    assert not {"6.weight", "8.weight"} & set(learnt)
    assert not any(layer.training for layer in expanded.module.modules())


def test_a_network_in_float64_is_expanded_in_float64():
    network = tiny_vgg("A")
    network.module.double()
    state = expand(network, ["6"]).module.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float64, torch.int64}


def test_expansions_are_drawn_by_the_seed_alone():
    network = tiny_vgg("A")
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(states))
        states.append(expand(network, ["6"], seed=seed).module.state_dict()["6.expand.weight"])
        assert torch.equal(torch.rand(1), torch.rand(1, generator=_at(len(states) - 1)))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def _at(seed):
    return torch.Generator().manual_seed(seed)


def test_weights_are_drawn_so_that_signals_keep_their_size():
    expansion = expand(tiny_vgg("A"), ["13"], ratio=64).module.get_submodule("13")
    for layer, inputs in ((expansion.expand, 32), (expansion.depthwise, 9)):
        assert layer.weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.05)
    # A depthwise kernel of 1 is a scale that the norm behind it takes out again.
    pointwise = expand(make_network(plain(nn.Conv2d(4, 5, 1)), (3, 8, 8)), ["1"]).module
    assert torch.equal(pointwise.get_submodule("1.depthwise").weight, torch.ones(24, 1, 1, 1))


def test_with_its_activations_an_expansion_does_not_contract():
    network = tiny_vgg("A")
    expanded = expand(network, ["6"])
    with pytest.raises(ExpansionError, match="with its activations"):
        contract(expanded)
    contract(without_activations(expanded))
    assert isinstance(expanded.module.get_submodule("6.expand_activation"), nn.ReLU6)


def test_the_activations_matter_and_their_removal_leaves_the_weights():
    network = tiny_vgg("A")
    expanded = in_double(trained(expand(network, ["6"])))
    bare = without_activations(expanded)
    before, after = expanded.module.state_dict(), bare.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert difference(expanded, bare.module) > 1e-3


def test_the_expanded_networks_operators_are_counted():
    network = make_network(plain(nn.Conv2d(4, 5, 3, padding=1)), (3, 8, 8))
    spec = expand(network, ["1"]).spec
    # Pointwise on the padded 8 x 8, depthwise and pointwise on 6 x 6.
    grown = 24 * 4 * 64 + 24 * 9 * 36 + 5 * 24 * 36
    assert spec.macs - network.spec.macs == grown - 5 * 4 * 9 * 36
    weights_and_biases = (24 * 4 + 24) + (24 * 9 + 24) + (5 * 24 + 5)
    assert spec.parameters - network.spec.parameters == weights_and_biases - (5 * 4 * 9 + 5)


@pytest.mark.parametrize("ratio", [0, -1, 65])
def test_a_ratio_out_of_proportion_is_refused(ratio):
    with pytest.raises(ExpansionError, match=f"ratio {ratio}: give 1 to 64"):
        expand(tiny_vgg("A"), ["6"], ratio=ratio)


def test_nothing_to_expand_is_refused():
    with pytest.raises(ExpansionError, match="no convolution to expand"):
        expand(tiny_vgg("A"), [])
