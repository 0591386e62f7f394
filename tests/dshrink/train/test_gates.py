"""Gates against soft ones, and against the network with and without its activations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dshrink.merge.unmerged import unmerged_module
from dshrink.network.mask_changes import rewriting
from dshrink.network.models import Network, load_network
from dshrink.train.gates import MASK_NAME, SHARE_NAME, gated_module, searchable_blocks


def always(*kept: bool) -> Callable[[Sequence[float]], Sequence[bool]]:
    return lambda values: kept


def gated(network: Network, *kept: bool) -> fx.GraphModule:
    return gated_module(network, searchable_blocks(network), always(*kept))


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def gates_of(module: nn.Module) -> dict[str, tuple[int, nn.Module]]:
    """Each gate by its path, with the number of its block: layer1.0, layer2.0, ..."""
    found = {name: one for name, one in module.named_modules() if ".gate_" in name}
    return {name: (int(name[len("layer")]) - 1, one) for name, one in found.items()}


class Soft(nn.Module):
    """``z * act(x) + (1 - z) * x`` for any real z: what the gates are the ends of."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z

    def forward(self, x: Tensor, values: object) -> Tensor:
        return self.z * F.relu(x) + (1 - self.z) * x


def soft_loss(module: nn.Module, z: Sequence[float], weights: Tensor) -> float:
    """Of the same network with soft gates, each by its block's z."""
    module = copy.deepcopy(module)
    for path, (block, _) in gates_of(module).items():
        module.set_submodule(path, Soft(torch.tensor(z[block], dtype=torch.float64)))
    with torch.no_grad():
        return float((module(images().double()) * weights).sum())


@pytest.mark.parametrize("kept", [(True, False, True, False), (False, True, True, True)])
def test_a_mask_value_has_the_slope_of_the_loss_in_its_gates(
    network: Network, kept: tuple[bool, ...]
) -> None:
    module = gated(network, *kept).double()
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (module(images().double()) * weights).sum().backward()
    found = module.get_parameter(MASK_NAME).grad
    assert found is not None
    step = 1e-5
    for place in range(4):
        z = [float(k) for k in kept]
        z[place] += step
        above = soft_loss(module, z, weights)
        z[place] -= 2 * step
        below = soft_loss(module, z, weights)
        slope = (above - below) / (2 * step)
        assert found[place].item() == pytest.approx(slope, rel=1e-4)
        assert slope != 0


@pytest.mark.parametrize("kept", [(True,) * 4, (False,) * 4, (True, False, False, True)])
def test_what_a_gated_network_computes_is_that_of_the_network_without_its_removed_activations(
    network: Network, kept: tuple[bool, ...]
) -> None:
    mask = "".join("1" if k else "0" for k in kept)
    changes = rewriting(network, mask, free_activation=False)
    plain = unmerged_module(network, changes, padding="interior").train()
    module = gated(network, *kept).train()
    expected, found = plain(images()), module(images())
    assert torch.equal(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    parameters = dict(module.named_parameters())
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None and parameters[name].grad is not None
        assert torch.equal(parameters[name].grad, parameter.grad), name


def test_values_far_outside_of_0_and_1_have_the_same_gradients(network: Network) -> None:
    gradients = []
    for values in ([0.1, 0.2, 0.3, 0.4], [-70.0, -3.0, 50.0, 1e4]):
        module = gated_module(
            network, searchable_blocks(network), lambda v: [value > 0.25 for value in v]
        )
        mask = module.get_parameter(MASK_NAME)
        with torch.no_grad():
            mask.copy_(torch.tensor(values))
        module(images()).square().sum().backward()
        assert mask.grad is not None
        gradients.append(mask.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().min() > 0


def test_the_rule_is_asked_with_the_values_at_every_pass(network: Network) -> None:
    asked = []

    def rule(values: Sequence[float]) -> list[bool]:
        asked.append(list(values))
        return [True] * 4

    module = gated_module(network, searchable_blocks(network), rule)
    module(images())
    with torch.no_grad():
        module.get_parameter(MASK_NAME)[2] = 0.5
    copied = copy.deepcopy(module)
    copied(images())
    assert asked == [[0.0] * 4, [0.0, 0.0, 0.5, 0.0]]


def test_the_state_is_the_networks_own_and_the_mask(network: Network) -> None:
    state = gated(network, True, True, True, True).state_dict()
    assert torch.equal(state.pop(MASK_NAME), torch.zeros(4))
    assert torch.equal(state.pop(SHARE_NAME), torch.zeros(4))
    original = network.module.state_dict()
    assert list(state) == list(original)
    assert all(torch.equal(value, original[name]) for name, value in state.items())


def test_a_removed_block_stores_nothing_of_its_own(network: Network) -> None:
    module = gated(network, True, False, True, True)
    for block, gate in gates_of(module).values():
        x = torch.randn(2, 3, requires_grad=True)
        module(images())  # decides
        same = gate(x, module.get_parameter(MASK_NAME).unbind()).data_ptr() == x.data_ptr()
        assert same == (block == 1)


def test_half_precision_sums_a_mask_gradient_in_single(network: Network) -> None:
    module = gated(network, True, True, True, True)
    _, gate = next(iter(gates_of(module).values()))
    module(images())
    mask = module.get_parameter(MASK_NAME)
    x = torch.full((70_000,), -1.0, dtype=torch.float16, requires_grad=True)
    gate(x, mask.unbind()).backward(torch.ones_like(x))
    # Above the largest number of float16.
    assert mask.grad is not None and mask.grad[0].item() == 70_000
    assert x.grad is not None and x.grad.dtype == torch.float16


def test_half_precision_multiplies_a_mask_gradient_in_single(network: Network) -> None:
    module = gated(network, True, True, True, True)
    _, gate = next(iter(gates_of(module).values()))
    module(images())
    mask = module.get_parameter(MASK_NAME)
    x = torch.full((2,), -256.0, dtype=torch.float16, requires_grad=True)
    gate(x, mask.unbind()).backward(torch.full_like(x, 1024.0))
    assert mask.grad is not None and mask.grad[0].item() == 2 * 256 * 1024


def test_under_autocast_the_mask_stays_in_single_precision(network: Network) -> None:
    module = gated(network, True, False, True, False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(module(images()).float(), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    mask = module.get_parameter(MASK_NAME)
    assert mask.grad is not None and mask.grad.dtype == torch.float32
    assert mask.grad.abs().min() > 0 and mask.grad.isfinite().all()


def test_only_blocks_that_merge_have_gates() -> None:
    network = load_network("test_efficientnet", resolution=32)
    blocks = searchable_blocks(network)
    gone = [n for block in blocks for n in block.inner_activations]
    assert all(not block.unmergeable for block in blocks)
    assert not any("stem" in name or "head" in name for name in gone)
