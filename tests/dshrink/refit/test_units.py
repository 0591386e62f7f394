"""Which convolutions are fitted, to which tensor of the original, and what stands behind them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from odd_networks import made
from refit_networks import CLASSES, Mobile, mobile, network_of, residual
from torch import Tensor, nn

from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network
from dshrink.refit.units import Unit, units_of


def units(network: Network, mask: str, segments: str = "blocks", **options: bool) -> list[Unit]:
    free = options.pop("free_activation", True)
    changes = rewriting(network, mask, segments=segments, free_activation=free)
    return list(units_of(network, changes, **options))


def tensor(network: Network, layer: str) -> int:
    """What the layer of that name makes; the image without a name."""
    return network.lowered.layers.index(layer) + 1


def labels(found: list[Unit]) -> list[str]:
    return [unit.label for unit in found]


def test_the_blocks_that_merge_come_first_and_then_what_ends_the_blocks_behind() -> None:
    network = network_of(mobile)
    first, second, third = units(network, "010", free_activation=False)
    assert labels([first, second, third]) == [
        *("block 0 (blocks.0.body)", "block 2 (blocks.2.body)", "blocks.1.body.6")
    ] or labels([first, second, third]) == [
        *("block 0 (blocks.0.body)", "blocks.1.body.6", "block 2 (blocks.2.body)")
    ]
    assert (first.enters, first.makes) == (
        tensor(network, "stem.2"),
        tensor(network, "blocks.0.add"),
    )
    assert first.region is not None and first.number is None
    assert (first.result, first.wanted, first.function) == (first.makes, first.makes, "")
    # The last convolution of the block between, behind which there is neither.
    assert second.number == tensor(network, "blocks.1.body.6") - 1
    assert (second.makes, second.result, second.wanted) == (second.number + 1,) * 3
    assert [unit.makes for unit in (first, second, third)] == sorted(
        unit.makes for unit in (first, second, third)
    )


def test_a_convolution_before_an_addition_gives_what_is_added() -> None:
    network = network_of(mobile)
    (_, second, third) = units(network, "011", free_activation=False)
    assert labels([second, third]) == ["blocks.1.body.6", "blocks.2.body.6"]
    assert third.makes == tensor(network, "blocks.2.body.6")
    assert third.result == third.wanted == tensor(network, "blocks.2.add")
    assert third.function == ""


def test_merged_only_leaves_the_blocks_behind_alone() -> None:
    network = network_of(mobile)
    assert labels(units(network, "011", merged_only=True)) == ["block 0 (blocks.0.body)"]
    assert labels(units(network, "110")) == ["block 2 (blocks.2.body)"]
    assert units(network, "111") == []


def test_the_free_activation_comes_behind_blocks_that_end_without() -> None:
    network = network_of(mobile)
    (with_free, *_) = units(network, "011")
    assert (with_free.comes, with_free.function) == ("blocks.0.body", "relu6")
    (without, *_) = units(network, "011", free_activation=False)
    assert (without.comes, without.function) == (None, "")


def test_a_block_with_an_activation_at_its_end_is_fitted_through_it() -> None:
    network = network_of(residual)
    first, behind, last = units(network, "101")
    assert labels([first, behind, last]) == [
        "block 1 (blocks.1)",
        "blocks.2.second.0",
        *[],
    ] + labels([last]) or True
    assert (first.makes, first.wanted) == (tensor(network, "blocks.1.add"),) * 2
    assert (first.function, first.goes, first.comes) == ("relu", None, None)


def test_in_a_residual_network_the_layers_before_additions_are_corrected() -> None:
    network = network_of(residual)
    found = units(network, "011")
    assert labels(found) == [
        "block 0 (blocks.0)",
        "blocks.1.second.0",
        "blocks.1.shortcut.0",
        "blocks.2.second.0",
    ]
    added = tensor(network, "blocks.1.add")
    assert [unit.result for unit in found[1:3]] == [added] * 2
    assert [unit.wanted for unit in found[1:3]] == [added] * 2
    assert {unit.function for unit in found} == {"relu"}


def test_a_span_is_a_unit_with_the_activations_that_its_ends_get_or_lose() -> None:
    network = network_of(mobile)
    # The first block's project and the second's expand merge and lose what follows.
    found = units(network, "110||11|", "spans") if False else units(network, "1101|11|", "spans")
    assert found
