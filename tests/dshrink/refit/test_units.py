"""Which convolutions are fitted, to which tensor of the original, and what stands behind them."""

from __future__ import annotations

import pytest
import torch
from odd_networks import made
from refit_networks import Inverted, layer, mobile, network_of, residual
from torch import Tensor, nn

from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network
from dshrink.refit.units import Unit, units_of


def units(
    network: Network,
    mask: str,
    segments: str = "blocks",
    *,
    free_activation: bool = True,
    merged_only: bool = False,
) -> tuple[Unit, ...]:
    changes = rewriting(network, mask, segments=segments, free_activation=free_activation)
    return units_of(network, changes, merged_only=merged_only)


def labels(found: tuple[Unit, ...]) -> list[str]:
    return [unit.label for unit in found]


def tensors(network: Network, unit: Unit) -> list[str]:
    """The layers that make what a unit reads, makes, gives and shall equal."""
    numbers = (unit.enters, unit.makes, unit.result, unit.wanted)
    return [network.lowered.layers[number - 1] for number in numbers]


def activation(network: Network, layer: str) -> int:
    return network.lowered.layers.index(layer)


def test_merged_blocks_and_what_ends_the_blocks_behind_in_the_order_of_their_results() -> None:
    network = network_of(mobile)
    first, between, last = units(network, "010", free_activation=False)
    assert labels((first, between, last)) == [
        "block 0 (blocks.0.body)",
        "blocks.1.body.6",
        "block 2 (blocks.2.body)",
    ]
    assert tensors(network, first) == ["stem.2", *["blocks.0.add"] * 3]
    assert tensors(network, between) == ["blocks.1.body.5", *["blocks.1.body.6"] * 3]
    assert tensors(network, last) == ["blocks.1.body.6", *["blocks.2.add"] * 3]
    assert [unit.function for unit in (first, between, last)] == [""] * 3
    assert [unit.region is None for unit in (first, between, last)] == [False, True, False]
    assert [unit.number is None for unit in (first, between, last)] == [True, False, True]


def test_a_convolution_before_an_addition_is_fitted_to_the_sum() -> None:
    network = network_of(mobile)
    found = units(network, "011", free_activation=False)
    assert labels(found)[1:] == ["blocks.1.body.6", "blocks.2.body.6"]
    assert tensors(network, found[2])[1:] == ["blocks.2.body.6", *["blocks.2.add"] * 2]


def test_merged_only_leaves_the_blocks_behind_alone() -> None:
    network = network_of(mobile)
    assert labels(units(network, "011", merged_only=True)) == ["block 0 (blocks.0.body)"]
    # The head has an activation behind it, the classifier is no convolution.
    assert labels(units(network, "110")) == ["block 2 (blocks.2.body)"]
    assert units(network, "111") == ()


def test_the_free_activation_comes_behind_blocks_that_end_without_one() -> None:
    network = network_of(mobile)
    (unit, *_) = units(network, "011")
    assert (unit.comes, unit.goes, unit.function) == ("blocks.0.body", None, "relu6")
    (unit, *_) = units(network, "011", free_activation=False)
    assert (unit.comes, unit.goes, unit.function) == (None, None, "")


def test_a_residual_block_is_fitted_through_the_activation_at_its_end() -> None:
    network = network_of(residual)
    block, behind = units(network, "101")
    assert labels((block, behind)) == ["block 1 (blocks.1)", "blocks.2.second.0"]
    assert tensors(network, block) == ["blocks.0.act@2", *["blocks.1.add"] * 3]
    assert tensors(network, behind)[1:] == ["blocks.2.second.0", *["blocks.2.add"] * 2]
    assert {(unit.function, unit.goes, unit.comes) for unit in (block, behind)} == {
        ("relu", None, None)
    }


def test_a_projection_beside_a_block_is_fitted_to_the_sum_as_well() -> None:
    network = network_of(residual)
    found = units(network, "011")
    assert labels(found) == [
        *("block 0 (blocks.0)", "blocks.1.second.0", "blocks.1.shortcut.0", "blocks.2.second.0")
    ]
    for unit in found[1:3]:
        assert tensors(network, unit)[2:] == ["blocks.1.add"] * 2
        assert unit.function == "relu"


def test_behind_an_activation_that_goes_the_convolution_gives_what_it_gave() -> None:
    network = network_of(residual)
    found = {unit.label: unit for unit in units(network, "1||111", "spans")}
    assert set(found) == {"blocks.0.second.0", "blocks.1.first.0"}  # no region: no more than these
    for name, result, behind in (
        ("blocks.0.second.0", "blocks.0.add", "blocks.0.act@2"),
        ("blocks.1.first.0", "blocks.1.first.0", "blocks.1.act"),
    ):
        assert tensors(network, found[name])[1:] == [name, result, behind]
        assert found[name].goes == activation(network, behind)
        assert (found[name].comes, found[name].function) == (None, "")


def test_a_span_that_ends_before_an_activation_that_goes_gives_what_that_gave() -> None:
    network = network_of(residual)
    (span, *_) = units(network, "0|1111", "spans")
    assert span.label == "span 0-2 (blocks.0.first.0 .. blocks.0.second.0)"
    assert tensors(network, span) == ["stem.2", *["blocks.0.add"] * 2, "blocks.0.act@2"]
    assert (span.goes, span.function) == (activation(network, "blocks.0.act@2"), "")


def test_a_span_inside_of_a_skip_is_fitted_to_the_sum_behind_it() -> None:
    network = network_of(mobile)
    (span, *_) = units(network, "10111|11|", "spans")
    assert span.region is not None and span.region.span == (1, 3)
    assert tensors(network, span) == ["blocks.0.body.2", "blocks.0.body.6", *["blocks.0.add"] * 2]
    # Position 3 is active, where the network has no activation.
    assert (span.comes, span.function) == ("blocks.0.body.position_3", "relu6")


def test_an_activation_that_comes_is_fitted_through() -> None:
    network = network_of(mobile)
    found = units(network, "11111111|", "spans")
    assert [(unit.label, unit.comes, unit.function) for unit in found] == [
        ("blocks.0.body.6", "blocks.0.body.position_3", "relu6"),
        ("blocks.1.body.6", "blocks.1.body.position_6", "relu6"),
    ]
    assert tensors(network, found[0])[1:] == ["blocks.0.body.6", *["blocks.0.add"] * 2]


def test_branches_that_never_lose_an_activation_merge_into_a_unit_all_the_same() -> None:
    network = made("Reparameterised")
    count = len(network.blocks)
    found = [unit for unit in units(network, "0" * count) if unit.region is not None]
    assert len(found) == count
    for unit in found:
        assert unit.region is not None and unit.region.removed == ()
        assert unit.comes is None and unit.result == unit.wanted == unit.makes


class Shared(nn.Module):
    """A convolution that two places call, behind a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layer(3, 4, 3), nn.ReLU6())
        self.block, self.own = Inverted(4, 4), Inverted(4, 4)
        self.shared = nn.Conv2d(4, 4, 1)
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.block(self.stem(x)))
        # Its calls are told apart by the norms behind them, its weights are not.
        return self.two(self.shared(self.one(self.shared(x)))).mean((2, 3))


def shared() -> nn.Module:
    torch.manual_seed(0)
    return Shared().eval()


def test_weights_that_two_places_share_are_left_out() -> None:
    network = network_of(shared)
    assert network.lowered.layers.count("shared") == 1
    assert labels(units(network, "01")) == ["block 0 (block.body)", "own.body.6"]


class Summed(nn.Module):
    """Two additions behind a block's last convolution, an activation behind these."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layer(3, 4, 3), nn.ReLU())
        self.block = Inverted(4, 4)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.side, self.act = nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        y = self.two(self.act(self.one(x)))
        return self.act((y + x) + self.side(x)).mean((2, 3))


def summed() -> nn.Module:
    torch.manual_seed(0)
    return Summed().eval()


@pytest.mark.parametrize("name", ["two", "side"])
def test_behind_several_additions_the_whole_sum_is_what_is_wanted(name: str) -> None:
    network = network_of(summed)
    mask = "0" + "1" * (len(network.blocks) - 1)
    (unit,) = (unit for unit in units(network, mask) if unit.label == name)
    last = [layer for layer in network.lowered.layers if "add" in layer][-1]
    assert tensors(network, unit)[1:] == [name, last, last]
    assert unit.function == "relu"
