"""Parallel branches and norms merge: against the eager modules, run by hand, in float64."""

from __future__ import annotations

import odd_networks
import pytest
import torch
import torch.nn.functional as F
from merging import merge_blocks, merge_spans

RELATIVE = 1e-10


def image():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 3, 12, 12, generator=generator, dtype=torch.float64)


def relative_error(result, expected):
    return float((result - expected).abs().max() / expected.abs().max())


def unpadded(conv, x):
    """A convolution and the norm behind it, without the convolution's padding."""
    layer, norm = conv
    return norm(F.conv2d(x, layer.weight, layer.bias, layer.stride, groups=layer.groups))


def cropped(x, rows=1):
    return x[:, :, rows:-rows, rows:-rows]


def check(merged, expected):
    with torch.inference_mode():
        assert relative_error(merged.module(torch.float64)(image()), expected) < RELATIVE
        assert relative_error(merged.unmerged(torch.float64)(image()), expected) < RELATIVE


@pytest.mark.parametrize("padding", ["repad", "bias_map"])
@pytest.mark.parametrize("kind", ["Reparameterised", "ManyBranches"])
def test_merging_blocks_of_branches_changes_nothing(kind, padding):
    net = odd_networks.made(kind)
    merged = merge_blocks(net, "0" * len(net.blocks), padding=padding)
    assert sum(op.kind in ("add", "batch_norm", "bias_map") for op in merged.network.spec.ops) == 0
    with torch.inference_mode():
        check(merged, odd_networks.eager(kind).double()(image()))


def test_branches_across_two_blocks_read_their_norms_shift_beyond_the_border():
    first, *blocks, last = odd_networks.eager("Reparameterised").double()
    merged = merge_spans(odd_networks.made("Reparameterised"), "10|1")
    with torch.inference_mode():
        x = F.pad(first(image()), (2, 2, 2, 2))
        for block in blocks:  # the norm of the input makes its shift of the zeros around it
            small, identity = (branch(cropped(x)) for branch in (block.small, block.identity))
            x = unpadded(block.large, x) + small + identity
        check(merged, last(x))


def test_a_norm_in_front_of_a_convolution_merges_with_the_padding_moved_before_it():
    net, module = odd_networks.made("PreActivated"), odd_networks.eager("PreActivated").double()
    assert [block.unmergeable for block in net.blocks] == [None, None]
    merged = merge_blocks(net, "10", padding="repad", free_activation=False)
    with torch.inference_mode():
        x = module.stem(image())
        y = module.act(module.layers[0](module.act(module.norms[0](x))))
        x = module.layers[1](y) + module.side(x)
        y = unpadded(module.layers[2], module.norms[1](F.pad(x, (2, 2, 2, 2))))
        last = module.layers[3]
        y = F.conv2d(y, last.weight, last.bias)
        check(merged, module.act(module.norms[2](x + y)))


def test_a_shortcut_through_dropout_is_cropped_in_the_span_that_swallows_it():
    # The second addition reads the dropout's result, so it is that which must be cropped.
    net, module = odd_networks.made("Excited"), odd_networks.eager("Excited").double()
    merged = merge_spans(net, "00000|11|")
    with torch.inference_mode():
        x = F.pad(module.act(module.stem(image())), (2, 2, 2, 2))
        for expand, depthwise, project in module.blocks[:2]:
            x = project(unpadded(depthwise, expand(x))) + cropped(x)
        expand, depthwise, project = module.blocks[2]
        y = module.act(depthwise(module.act(expand(x))))
        y = y * module.sigmoid(module.gate(y))
        check(merged, (project(y) + x).mean((2, 3)))
