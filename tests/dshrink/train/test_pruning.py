"""Pruned networks against the library's own model with its blocks swapped by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dshrink.errors import ShrinkError
from dshrink.network.lowering import lower
from dshrink.network.models import Network, load_network
from dshrink.network.tracing import import_timm, trace
from dshrink.train.pruning import pruned_network, pruning


@pytest.fixture(scope="module")
def mobile():
    """17 blocks, of which 10 keep the shape of their input."""
    return load_network("mobilenetv2_035", resolution=32, weights="random", seed=1)


@pytest.fixture(scope="module")
def residual():
    """Four residual blocks; all but the first change channels, by a projection shortcut."""
    return load_network("test_resnet", resolution=32, weights="random", seed=1)


def library_model(network):
    model = import_timm().create_model(network.name, pretrained=False)
    model.load_state_dict(network.module.state_dict())
    return model.eval()


def mask_without(network, *removed):
    count = len(network.blocks)
    return "".join("0" if block in removed else "1" for block in range(count))


def network_of(module):
    import_timm()
    traced = trace(module, (3, 32, 32))
    return Network(name="made", module=traced, lowered=lower(traced))


def same(one, other):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.allclose(one(images), other(images), rtol=1e-4, atol=1e-5)


def test_a_block_that_keeps_its_shape_becomes_nothing(mobile):
    pruned = pruned_network(mobile, mask_without(mobile, 2, 8, 9))
    expected = library_model(mobile)
    expected.blocks[1][1] = nn.Identity()
    expected.blocks[3][2] = nn.Identity()
    expected.blocks[3][3] = nn.Identity()
    assert same(pruned.module, expected)
    assert not same(pruned.module, library_model(mobile))
    assert pruned.module.state_dict().keys() == expected.state_dict().keys()


def test_a_block_that_changes_shape_becomes_a_projection_with_its_stride_and_a_norm(mobile):
    pruned = pruned_network(mobile, mask_without(mobile, 1, 10, 11))
    expected = library_model(mobile)
    for stage, stride in ((1, 2), (4, 1)):
        block = pruned.module.get_submodule(f"blocks.{stage}.0")
        weight = block.projection.weight
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, stride=stride, bias=False)
        norm = nn.BatchNorm2d(weight.shape[0])
        conv.load_state_dict(block.projection.state_dict())
        norm.load_state_dict(block.projection_norm.state_dict())
        expected.blocks[stage][0] = nn.Sequential(conv, norm).eval()
    expected.blocks[4][1] = nn.Identity()
    assert same(pruned.module, expected)


def test_a_residual_block_is_cut_down_to_its_own_shortcut_and_end_activation(residual):
    pruned = pruned_network(residual, mask_without(residual, 0, 1, 2))
    expected = library_model(residual)
    expected.layer1[0] = nn.Identity()
    expected.layer2[0] = nn.Sequential(expected.layer2[0].downsample, nn.ReLU())
    expected.layer3[0] = nn.Sequential(expected.layer3[0].downsample, nn.ReLU())
    assert same(pruned.module, expected)
    assert not [name for name in pruned.module.state_dict() if "projection" in name]


def test_an_end_activation_stays_behind_a_projection():
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
    ]
    pruned = pruned_network(network_of(nn.Sequential(*layers)), "0").module
    block = pruned.get_submodule("2_to_3")
    expected = nn.Sequential(*layers[:2], block.projection, block.projection_norm, nn.ReLU())
    assert block.projection.stride == (2, 2)
    assert same(pruned, expected)


def test_what_remains_keeps_its_names_and_values(mobile):
    pruned = pruned_network(mobile, mask_without(mobile, *range(17)))
    before, after = mobile.module.state_dict(), pruned.module.state_dict()
    fresh = {name for name in after if name not in before}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in fresh} == {
        "projection",
        "projection_norm",
    }
    assert all(torch.equal(after[name], before[name]) for name in after.keys() - fresh)
    assert not [name for name in after if "conv_dw" in name]


def test_users_can_be_told_what_became_of_the_blocks(mobile, residual):
    told = pruning(mobile, mask_without(mobile, 0, 1, 2, 16))
    assert [block.name for block in told.removed] == ["blocks.1.1"]
    assert [block.name for block in told.projections] == ["blocks.0.0", "blocks.1.0", "blocks.6.0"]
    assert told.shortcuts == ()
    told = pruning(residual, mask_without(residual, 0, 3))
    assert [block.name for block in told.removed] == ["layer1.0"]
    assert [block.name for block in told.shortcuts] == ["layer4.0"]


def test_a_mask_of_ones_changes_nothing_and_the_original_stays(mobile):
    names = set(mobile.module.state_dict())
    pruned_network(mobile, mask_without(mobile, 1, 2))
    assert pruned_network(mobile, "1" * 17).spec.digest == mobile.spec.digest
    assert set(mobile.module.state_dict()) == names


def test_macs_and_parameters_fall_by_those_of_the_blocks(mobile):
    """blocks.1.1: 8 -> 48 -> 48 depthwise -> 8 at 8x8, each with a norm's shift folded in."""
    pruned = pruned_network(mobile, mask_without(mobile, 2))
    weights = 8 * 48 + 48 * 9 + 48 * 8
    assert mobile.spec.macs - pruned.spec.macs == weights * 64
    assert mobile.spec.parameters - pruned.spec.parameters == weights + 48 + 48 + 8


@torch.no_grad()
def test_a_projection_does_to_an_even_picture_what_its_block_did_without_activations(mobile):
    block = library_model(mobile).blocks[1][0]
    block.bn1.act = block.bn2.act = nn.Identity()
    pruned = pruned_network(mobile, mask_without(mobile, 1)).module.get_submodule("blocks.1.0")
    colours = torch.randn(4, 8, 1, 1, generator=torch.Generator().manual_seed(2))
    even = colours.expand(-1, -1, 9, 9)
    # The shifts of the norms are the norm's affair; inside, no border is felt.
    linear = (block(even) - block(torch.zeros_like(even)))[:, :, 2, 2]
    found = pruned.projection(even)[:, :, 2, 2]
    assert torch.allclose(found, linear, rtol=1e-3, atol=1e-4 * float(linear.abs().max()))
    assert torch.equal(pruned.projection_norm.weight, block.bn3.weight.abs())
    assert torch.equal(pruned.projection_norm.bias, block.bn3.bias)


def test_projections_of_what_cannot_merge_are_drawn_by_the_seed():
    network = load_network("test_efficientnet", resolution=32, weights="random")
    blocks = network.blocks
    told = pruning(network, "0" * len(blocks)).projections
    (block,) = [block for block in told if block.unmergeable][-1:]
    mask = mask_without(network, block.index)
    weights = [
        pruned_network(network, mask, seed=seed)
        .module.get_submodule(f"{block.name}.projection")
        .weight.detach()
        for seed in (3, 3, 4)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    expected = (2 / weights[0].shape[0]) ** 0.5
    assert float(weights[0].std()) == pytest.approx(expected, rel=0.1)


def test_a_projection_norm_has_the_eps_and_momentum_of_the_blocks_own():
    network = load_network("tf_efficientnet_lite0", resolution=32)
    norm = pruned_network(network, "0" + "1" * 15).module.get_submodule(
        "blocks.0.0.projection_norm"
    )
    assert norm.eps == 1e-3
    assert not norm.training


def test_a_pruned_network_trains_and_its_projections_learn(mobile):
    module = pruned_network(mobile, "0" * 17).module
    module.train()
    module(torch.randn(4, 3, 32, 32)).square().mean().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_blocks_that_cannot_merge_can_be_pruned():
    network = load_network("test_efficientnet", resolution=32, weights="random")
    blocks = network.blocks
    unmergeable = [block.index for block in blocks if block.unmergeable]
    assert unmergeable
    pruned = pruned_network(network, mask_without(network, *unmergeable))
    assert pruned.spec.macs < network.spec.macs


def test_a_mask_that_does_not_fit_is_refused(mobile):
    with pytest.raises(ShrinkError, match=r"has 3 characters, mobilenetv2_035 has 17 blocks"):
        pruned_network(mobile, "101")
    with pytest.raises(ShrinkError, match="'2' is neither 1"):
        pruned_network(mobile, "2" * 17)


def test_a_block_whose_size_no_strided_projection_gives_is_refused():
    """Without padding 32x32 becomes 30x30."""
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 8, 1),
    )
    with pytest.raises(ShrinkError, match=r"block 0 .* of made .* makes 30x30 of 32x32"):
        pruned_network(network_of(module), "0")
