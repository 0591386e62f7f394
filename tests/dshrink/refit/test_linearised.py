"""The line of each channel against NumPy's, and the region that is merged with these lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from refit_networks import SIZE, images, linear_mobile, mobile, network_of
from torch import Tensor, nn

from dshrink.merge.merged_network import merge_network
from dshrink.merge.padding import merge
from dshrink.network.mask_changes import Rewriting, rewriting
from dshrink.network.models import Network
from dshrink.refit.linearised import closest_lines, linearised_graph
from dshrink.refit.stream import Stream
from latency_tables.onnx_file import Arrays

#: The second block and the third merge.
MASK = "100"


def batches() -> list[Tensor]:
    return [images(4, seed=1), images(3, seed=2)]


def lines_of(network: Network, changes: Rewriting) -> list[dict[int, Arrays]]:
    stream = Stream(module=network.module, images=batches())
    with torch.inference_mode():
        return [closest_lines(network, region, stream) for region in changes.regions]


def tensor(network: Network, number: int) -> Tensor:
    """What the images are at a tensor of the network, by a hook of torch's own interpreter."""
    seen: dict[str, Tensor] = {}

    class Notes(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> object:
            seen[node.name] = found = super().run_node(node)
            return found

    with torch.no_grad():
        Notes(network.module).run(torch.cat(batches()))
    return seen[network.lowered.nodes[number - 1]].double()


@pytest.mark.parametrize("make", [mobile, linear_mobile])
def test_each_channel_has_the_line_that_is_closest_on_its_values(
    make: Callable[[], nn.Module],
) -> None:
    network = network_of(make)
    changes = rewriting(network, MASK)
    found = lines_of(network, changes)
    assert [tuple(lines) for lines in found] == [region.removed for region in changes.regions]
    for lines in found:
        for number, (slope, offset) in lines.items():
            x, y = tensor(network, number), tensor(network, number + 1)
            for channel in range(x.shape[1]):
                pairs = x[:, channel].flatten().numpy(), y[:, channel].flatten().numpy()
                wanted = np.polyfit(*pairs, 1)
                assert slope[channel] == pytest.approx(wanted[0], rel=1e-6)
                assert offset[channel] == pytest.approx(wanted[1], rel=1e-5, abs=1e-6)


def test_what_never_acts_is_the_line_through_the_origin_and_what_is_never_on_is_flat() -> None:
    network = network_of(linear_mobile)
    changes = rewriting(network, MASK)
    (number, _) = changes.regions[0].removed
    norm = network.module.get_submodule(network.lowered.modules[number - 1][1])
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.bias[0] = -9.0  # never on
        norm.bias[1] = 20.0  # always beyond 6
        norm.weight[2], norm.bias[2] = 0.0, 2.5  # constant
    slope, offset = lines_of(network, changes)[0][number]
    np.testing.assert_allclose(slope[:3], 0.0, atol=1e-9)
    np.testing.assert_allclose(offset[:3], [0.0, 6.0, 2.5], atol=1e-6)
    np.testing.assert_allclose(slope[3:], 1.0, rtol=1e-7)
    np.testing.assert_allclose(offset[3:], 0.0, atol=1e-6)


def test_a_region_that_loses_no_activation_has_no_lines() -> None:
    network = network_of(mobile)
    (first, _) = rewriting(network, MASK).regions
    no_images = Stream(module=network.module, images=[])
    assert closest_lines(network, replace(first, removed=()), no_images) == {}


@pytest.mark.parametrize("padding", ["bias_map", "repad"])
def test_the_lines_are_merged_exactly(padding: str) -> None:
    """Against the network's own modules with a scale and a shift in place of each activation."""
    network = network_of(mobile)
    (region, _) = rewriting(network, MASK).regions
    stream = Stream(module=network.module, images=batches())
    with torch.inference_mode():
        lines = closest_lines(network, region, stream)
        merged = merge(linearised_graph(network, region, stream), padding)
    eager = mobile().double()
    body = eager.blocks[1].body
    for at, (slope, offset) in zip((2, 5), lines.values(), strict=True):
        norm = nn.BatchNorm2d(len(slope), eps=0.0).double().eval()
        norm.weight.data, norm.bias.data = torch.tensor(slope), torch.tensor(offset)
        body[at] = norm
    if padding == "repad":
        body.insert(0, nn.ZeroPad2d(1))
        body[4].padding = (0, 0)
    x = torch.randn(2, 4, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(merged.run(x), body(x), rtol=1e-9, atol=1e-9)


def test_activations_that_never_act_merge_as_if_they_were_removed() -> None:
    network = network_of(linear_mobile)
    changes = rewriting(network, MASK)
    stream = Stream(module=network.module, images=batches())
    wanted = merge_network(network, changes, padding="bias_map")
    for entry in wanted.regions:
        with torch.inference_mode():
            found = merge(linearised_graph(network, entry.region, stream), "bias_map")
        torch.testing.assert_close(found.conv.weight, entry.merged.conv.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.conv.bias, entry.merged.conv.bias, rtol=0, atol=1e-6)
