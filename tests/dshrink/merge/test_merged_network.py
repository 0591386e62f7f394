"""Merged networks against the library's own model, its modules swapped, in float64.

The oracle shares no code with the merge: inner activations of timm's and torchvision's blocks are
set to Identity, a ReLU6 is appended, and for ``repad`` a block's forward pass is written out here.
"""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from merging import merge_blocks
from torch import nn

from dshrink.errors import NotMergeable, ShrinkError
from dshrink.network.tracing import import_timm, import_torchvision_models
from dshrink.pieces.specs import shrunk_spec
from latency_tables.opspec import Activation, Conv

RELATIVE = 1e-10

MOBILE = [
    ("mobilenetv2_100", 96),
    ("mobilenetv2_100", 97),
    ("mobilenetv2_140", 112),
    ("tf_efficientnet_lite0", 96),
    ("tf_efficientnet_lite0", 97),
    ("tf_efficientnet_lite0", 112),
]
BASIC = [("torchvision:resnet18", 96), ("torchvision:resnet18", 97)]
# Half of the cases without the free activation: each family and each parity of size has both.
FREE = (True, False, False, False, True, True)
WITH_FREE = [(*case, free) for case, free in zip(MOBILE, FREE, strict=True)]
# A block of a ResNet ends in an activation of its own, so the free one changes nothing there.
BIAS_MAP = [*WITH_FREE, ("resnet14t", 64, True), ("resnet14t", 63, False)]
REPAD = [*WITH_FREE, ("resnet14t", 63, True), *((*case, False) for case in BASIC)]


def library_model(net):
    """The network as its library makes it, in float64, with the weights of ``net``."""
    library, _, name = net.name.rpartition(":")
    if library:
        model = import_torchvision_models().get_model(name, weights=None)
    else:
        model = import_timm().create_model(name, pretrained=False)
    model.load_state_dict(net.module.state_dict())
    return model.double().eval()


def pads_of(conv, size):
    """(left, right, top, bottom): static pads, or TensorFlow's SAME for an input of this size."""
    if type(conv).__name__ != "Conv2dSame":
        return (conv.padding[1],) * 2 + (conv.padding[0],) * 2
    pads = []
    for n, k, s in zip(size, conv.kernel_size, conv.stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads[1] + pads[0]


def unpadded(conv, x):
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def run_inverted_residual(block, x, repad):
    expand = getattr(block, "conv_pwl", None) is not None
    pads = pads_of(block.conv_dw, x.shape[2:])
    y = F.pad(x, pads) if repad else x
    if expand:
        y = F.batch_norm(block.conv_pw(y), *norm_of(block.bn1))
    y = y if repad else F.pad(y, pads)
    y = F.batch_norm(unpadded(block.conv_dw, y), *norm_of(block.bn2 if expand else block.bn1))
    last, norm = (block.conv_pwl, block.bn3) if expand else (block.conv_pw, block.bn2)
    y = F.batch_norm(last(y), *norm_of(norm))
    return y + x if block.has_skip else y


def norm_of(norm):
    return norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps


def run_bottleneck(block, x, repad):
    y = block.bn1(block.conv1(F.pad(x, (1, 1, 1, 1)) if repad else x))
    y = block.bn2(unpadded(block.conv2, y if repad else F.pad(y, (1, 1, 1, 1))))
    y = block.bn3(block.conv3(y))
    return F.relu(y + (x if block.downsample is None else block.downsample(x)))


def run_basic(block, x, repad):
    assert repad
    margin = 1 + block.conv1.stride[0]
    y = block.bn1(unpadded(block.conv1, F.pad(x, (margin,) * 4)))
    y = block.bn2(unpadded(block.conv2, y))
    return F.relu(y + (x if block.downsample is None else block.downsample(x)))


class ByHand(nn.Module):
    """A block of the library without its inner activations, with the free one if it ends linear."""

    def __init__(self, block, repad, free_activation):
        super().__init__()
        self.block, self.repad, self.free_activation = block, repad, free_activation

    def forward(self, x):
        kind = type(self.block).__name__
        if kind == "Bottleneck":
            return run_bottleneck(self.block, x, self.repad)
        if kind == "BasicBlock":
            return run_basic(self.block, x, self.repad)
        y = run_inverted_residual(self.block, x, self.repad)
        return F.relu6(y) if self.free_activation else y


def identity_activations(block):
    """The library's own forward pass; only the activation modules inside are swapped."""
    for name in [name for name, _ in block.named_modules()]:
        last = name.rpartition(".")[2]
        if last == "act" or last in ("act1", "act2"):
            block.set_submodule(name, nn.Identity())
    return block


def block_paths(model):
    kinds = ("InvertedResidual", "DepthwiseSeparableConv", "Bottleneck", "BasicBlock")
    return [name for name, layer in model.named_modules() if type(layer).__name__ in kinds]


def shrunk_model(net, mask, *, repad=False, free_activation=True):
    """The oracle: what the merged network must compute."""
    model = library_model(net)
    paths = block_paths(model)
    assert len(paths) == len(mask)
    for path, keep in zip(paths, mask, strict=True):
        if keep == "1":
            continue
        block = model.get_submodule(path)
        if repad:
            model.set_submodule(path, ByHand(block, repad, free_activation))
        elif hasattr(block, "conv_dw"):
            free = nn.ReLU6() if free_activation else nn.Identity()
            model.set_submodule(path, nn.Sequential(identity_activations(block), free))
        else:
            identity_activations(block)
    return model


def random_mask(net, seed):
    count = len(net.blocks)
    draw = random.Random(f"{net.name}/{net.resolution}/{seed}")
    return "".join(draw.choice("01") for _ in range(count))


def images(net, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *net.spec.input_shape, generator=generator, dtype=torch.float64)


def relative_error(result, expected):
    return float((result - expected).abs().max() / expected.abs().max())


def check(net, mask, padding, free_activation):
    merged = merge_blocks(net, mask, padding=padding, free_activation=free_activation)
    repad = padding == "repad"
    oracle = shrunk_model(net, mask, repad=repad, free_activation=free_activation)
    x = images(net)
    with torch.inference_mode():
        expected = oracle(x)
        assert relative_error(merged.module(torch.float64)(x), expected) < RELATIVE
        assert relative_error(merged.unmerged(torch.float64)(x), expected) < RELATIVE
    spec = shrunk_spec(net, mask, padding=padding, free_activation=free_activation)
    assert merged.network.spec == spec


@pytest.mark.parametrize(("name", "resolution", "free_activation"), BIAS_MAP)
def test_bias_map_equals_the_library_without_the_activations(
    name, resolution, free_activation, network
):
    net = network(name, resolution, "random")
    check(net, random_mask(net, free_activation), "bias_map", free_activation)


@pytest.mark.parametrize(("name", "resolution", "free_activation"), REPAD)
def test_repad_equals_the_library_with_all_padding_at_the_input_of_a_block(
    name, resolution, free_activation, network
):
    net = network(name, resolution, "random")
    check(net, random_mask(net, free_activation), "repad", free_activation)


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0"])
def test_every_block_may_merge_at_once(name, padding, network):
    net = network(name, 96, "random")
    count = len(net.blocks)
    check(net, "0" * count, padding, True)


def test_the_oracles_without_repadding_agree_with_each_other(network):
    net = network("tf_efficientnet_lite0", 97, "random")
    swapped = shrunk_model(net, "0" * 16, free_activation=False)
    by_hand = library_model(net)
    for path in block_paths(by_hand):
        by_hand.set_submodule(path, ByHand(by_hand.get_submodule(path), False, False))
    x = images(net)
    with torch.inference_mode():
        assert relative_error(by_hand(x), swapped(x)) < RELATIVE


def test_repadding_and_removing_activations_both_change_the_network(network):
    net = network("mobilenetv2_100", 96, "random")
    x = images(net)
    mask = "10101010101010101"
    with torch.inference_mode():
        original = library_model(net)(x)
        plain = shrunk_model(net, mask)(x)
        repadded = shrunk_model(net, mask, repad=True)(x)
        linear = shrunk_model(net, mask, free_activation=False)(x)
    for a, b in [(original, plain), (plain, repadded), (plain, linear)]:
        assert relative_error(a, b) > 1e-3


def test_keeping_every_block_gives_the_original(network):
    net = network("mobilenetv2_100", 96, "random")
    merged = merge_blocks(net, "1" * 17)
    x = images(net)
    assert merged.regions == ()
    assert merged.network.spec == net.spec
    with torch.inference_mode():
        assert torch.equal(merged.module(torch.float64)(x), library_model(net)(x))


def test_merging_leaves_its_source_as_it_was(network):
    net = network("mobilenetv2_100", 96, "random")
    before = {key: value.clone() for key, value in net.module.state_dict().items()}
    spec, code = net.spec, net.module.code
    merged = merge_blocks(net, "0" * 17)
    _ = merged.network, merged.unmerged(torch.float64)
    after = net.module.state_dict()
    assert net.spec == spec and net.module.code == code
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_merged_network_has_the_precision_of_its_source(network):
    merged = merge_blocks(network("mobilenetv2_100", 96, "random"), "0" * 17).network
    assert {p.dtype for p in merged.module.parameters()} == {torch.float32}


def test_interior_differs_from_the_library_at_the_border_of_a_block_only(network):
    net = network("mobilenetv2_100", 96, "random")
    mask = "11101111111111111"
    (entry,) = merge_blocks(net, mask, padding="interior", free_activation=False).regions
    model = shrunk_model(net, mask, free_activation=False)
    seen = {}
    block = model.get_submodule(block_paths(library_model(net))[3])
    block.register_forward_hook(lambda _, given, result: seen.update(x=given[0], y=result))
    with torch.inference_mode():
        model(images(net))
        difference = (entry.merged.run(seen["x"]) - seen["y"]).abs()
    scale = float(seen["y"].abs().max())
    # Block 3 goes from 24 to 12 with a 3x3 kernel and pad 1: only the first row and column pad.
    assert tuple(seen["y"].shape[2:]) == (12, 12)
    assert float(difference[:, :, 1:, 1:].max()) < RELATIVE * scale
    assert float(difference[:, :, 0, :].max()) > 1e-3 * scale
    assert float(difference[:, :, :, 0].max()) > 1e-3 * scale


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
def test_the_whole_of_mobilenetv2_140_merges(padding, network):
    net = network("mobilenetv2_140", 224, "random")
    merged = merge_blocks(net, "0" * 17, padding=padding)
    assert [entry.region.block for entry in merged.regions] == list(range(17))
    spec = merged.network.spec
    assert spec == shrunk_spec(net, "0" * 17, padding=padding)
    # Stem, a convolution and an activation a block, the last 1x1; with no depthwise one left.
    convs = [op for op in spec.ops if isinstance(op, Conv)]
    assert len(convs) == 17 + 2
    assert sum(isinstance(op, Activation) for op in spec.ops) == 17 + 2
    assert {conv.groups for conv in convs} == {1}


def test_bias_map_on_basic_blocks_names_the_block_and_the_layer_and_the_way_out(network):
    net = network("torchvision:resnet18", 96, "random")
    with pytest.raises(NotMergeable, match=r"block 2 \(layer2\.0\): layer2\.0\.conv2 pads") as e:
        merge_blocks(net, "11011111")
    assert "--padding repad" in str(e.value)


@pytest.mark.parametrize("mask", ["", "0" * 16, "x" * 17])
def test_a_mask_that_does_not_fit_is_refused(mask, network):
    with pytest.raises(ShrinkError, match=r"keep mask .*(17 blocks|is neither 1)"):
        merge_blocks(network("mobilenetv2_100", 96, "random"), mask)
