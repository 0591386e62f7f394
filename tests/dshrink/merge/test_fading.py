"""Activations that fade: the original at 0, the unmerged network at 1, the formula between."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn

from dshrink.merge.fading import Fade
from dshrink.merge.recording import RegionOutputs, recorded_module
from dshrink.merge.unmerged import unmerged_module
from dshrink.network.lowering import lower
from dshrink.network.mask_changes import Rewriting, rewriting
from dshrink.network.models import Network, load_network
from dshrink.network.tracing import trace


class Small(nn.Module):
    """Two inverted residuals between a stem and a head; the first has no skip."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        for name in ("a", "b"):
            self.add_module(f"{name}_expand", nn.Conv2d(4, 8, 1))
            padding = kernel // 2
            self.add_module(f"{name}_depth", nn.Conv2d(8, 8, kernel, padding=padding, groups=8))
            self.add_module(f"{name}_norm", nn.BatchNorm2d(8))
            self.add_module(f"{name}_project", nn.Conv2d(8, 4, 1))
        self.relu = nn.ReLU6(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.a_project(self.relu(self.a_norm(self.a_depth(self.relu(self.a_expand(x))))))
        inside = self.relu(self.b_norm(self.b_depth(self.relu(self.b_expand(x)))))
        x = x + self.b_project(inside)
        return self.head(x.mean((2, 3)))


def small(kernel: int) -> Network:
    torch.manual_seed(0)
    module = Small(kernel)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)  # so that activations cut at both ends
    traced = trace(module, (3, 6, 6))
    return Network(name="small", module=traced, lowered=lower(traced))


@pytest.fixture(scope="module")
def image() -> Tensor:
    return 3 * torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def result(module: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = module.eval()(x)
    return found


#: Plans of networks; the one of spans removes an activation behind a merge, and adds one elsewhere.
PLANS = ["blocks 00", "blocks 01", "blocks 10", "no free activation", "end activations", "spans"]


@cache
def plan(name: str) -> tuple[Network, Rewriting]:
    if name == "end activations":
        network = load_network("test_resnet", resolution=32, weights="random", classes=3)
        return network, rewriting(network, "0010")
    network = small(3)
    if name == "spans":
        changes = rewriting(network, "0|10|1", segments="spans")
        assert changes.removed and changes.activated
    elif name == "no free activation":
        changes = rewriting(network, "00", free_activation=False)
    else:
        changes = rewriting(network, name.removeprefix("blocks "))
    return network, changes


@pytest.mark.parametrize("name", PLANS)
def test_at_the_end_it_is_the_unmerged_network_to_the_last_bit(name: str) -> None:
    network, changes = plan(name)
    x = torch.randn(2, *network.spec.input_shape, generator=torch.Generator().manual_seed(2))
    fade = Fade(1.0)
    fading = unmerged_module(network, changes, fade=fade)
    assert torch.equal(result(fading, x), result(unmerged_module(network, changes), x))
    # Its weights load into the original.
    assert {name: value.shape for name, value in fading.state_dict().items()} == {
        name: value.shape for name, value in network.module.state_dict().items()
    }
    fade.value = 0.0
    assert not torch.equal(result(fading, x), result(unmerged_module(network, changes), x))


@pytest.mark.parametrize("name", PLANS)
def test_at_the_start_it_is_the_original_where_padding_stays(name: str) -> None:
    network, changes = plan(name)
    x = torch.randn(2, *network.spec.input_shape, generator=torch.Generator().manual_seed(2))
    fading = unmerged_module(network, changes, padding="interior", fade=Fade())
    assert torch.equal(result(fading, x), result(network.module, x))


def test_at_the_start_it_is_the_original_with_padding_in_front_where_none_is_inside(
    image: Tensor,
) -> None:
    network = small(1)
    fading = unmerged_module(network, rewriting(network, "0"), fade=Fade())
    assert torch.equal(result(fading, image), result(network.module, image))


def test_on_the_way_it_is_the_sum_of_with_and_without(image: Tensor) -> None:
    network, share = small(3), 0.3
    layers = dict(network.module.named_children())

    def out(x: Tensor) -> Tensor:
        return (1 - share) * x.clamp(0, 6) + share * x

    def come(x: Tensor) -> Tensor:
        return (1 - share) * x + share * x.clamp(0, 6)

    def block(x: Tensor, name: str) -> Tensor:
        expanded = out(layers[f"{name}_expand"](x))
        inside = out(layers[f"{name}_norm"](layers[f"{name}_depth"](expanded)))
        found: Tensor = layers[f"{name}_project"](inside)
        return found

    with torch.no_grad():
        x = layers["stem"](image).clamp(0, 6)
        x = come(block(x, "a"))
        x = come(x + block(x, "b"))
        expected = layers["head"](x.mean((2, 3)))
    changes = rewriting(network, "00")
    fading = unmerged_module(network, changes, padding="interior", fade=Fade(share))
    torch.testing.assert_close(result(fading, image), expected)


def test_every_weight_has_a_gradient_all_the_way(image: Tensor) -> None:
    network = small(3)
    fade = Fade()
    fading = unmerged_module(network, rewriting(network, "00"), fade=fade).train()
    for fade.value in (0.0, 0.5, 1.0):
        fading.zero_grad()
        fading(image).square().sum().backward()
        for name, parameter in fading.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_copies_are_as_far_as_the_module(image: Tensor) -> None:
    network = small(3)
    fade = Fade()
    fading = unmerged_module(network, rewriting(network, "00"), fade=fade)
    copied = copy.deepcopy(fading)
    before = result(copied, image)
    fade.value = 1.0
    assert torch.equal(result(copied, image), result(fading, image))
    assert not torch.equal(result(copied, image), before)


def tensors_of(module: fx.GraphModule, x: Tensor) -> dict[str, Tensor]:
    """What every node gives, by the interpreter of torch.fx."""
    found: dict[str, Tensor] = {}

    class Notes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Tensor:
            value: Tensor = super().run_node(n)
            found[n.name] = value.clone() if isinstance(value, Tensor) else value
            return value

    with torch.no_grad():
        Notes(module).run(x)
    return found


@pytest.mark.parametrize("name", PLANS)
def test_what_regions_give_is_told_before_their_activations(name: str) -> None:
    network, changes = plan(name)
    x = torch.randn(2, *network.spec.input_shape, generator=torch.Generator().manual_seed(2))
    outputs, taught = RegionOutputs(), RegionOutputs()
    student = unmerged_module(network, changes, outputs=outputs)
    teacher = recorded_module(network, changes.regions, taught)
    assert torch.equal(result(teacher, x), result(network.module, x))
    assert torch.equal(result(student, x), result(unmerged_module(network, changes), x))
    assert student.state_dict().keys() == network.module.state_dict().keys()
    known = tensors_of(network.module, x)
    own, whole = outputs.take(), taught.take()
    assert list(own) == list(whole) == [region.label for region in changes.regions]
    for region in changes.regions:
        node = network.lowered.nodes[region.result - 1]
        assert torch.equal(whole[region.label], known[node])
        assert own[region.label].shape == known[node].shape
    assert outputs.take() == {}  # nothing keeps the memory


def test_a_network_without_changes_inside_gives_what_its_original_does(image: Tensor) -> None:
    # At the start of a fade, with padding in place, both networks' blocks agree to the last bit.
    network = small(3)
    changes = rewriting(network, "00")
    outputs, taught = RegionOutputs(), RegionOutputs()
    student = unmerged_module(network, changes, padding="interior", fade=Fade(), outputs=outputs)
    result(student, image)
    result(recorded_module(network, changes.regions, taught), image)
    own, whole = outputs.take(), taught.take()
    assert len(own) == 2
    assert all(torch.equal(own[label], whole[label]) for label in whole)
