"""Norms behind a change have the original's moments again, on the images that they are shown."""

from __future__ import annotations

import copy

import pytest
import torch
from refit_networks import images, mobile, network_of, residual
from torch import Tensor, fx, nn

from dshrink.network.models import Network
from dshrink.refit.norms import match_norms, norms_behind

#: Fewer than are joined, and two joined batches of unequal size.
BATCHES = {"one": (7,), "joined": (20, 9), "two": (20, 20, 3)}


def batches(sizes: tuple[int, ...]) -> list[Tensor]:
    return [images(size, seed=at) for at, size in enumerate(sizes)]


def changed(network: Network) -> fx.GraphModule:
    """A copy whose first convolution gives something else."""
    module = copy.deepcopy(network.module)
    conv = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        conv.weight.add_(0.2 * torch.randn(conv.weight.shape))
    return module


def first_convolution(module: fx.GraphModule) -> fx.Node:
    return next(
        node
        for node in module.graph.nodes
        if node.op == "call_module"
        and isinstance(module.get_submodule(str(node.target)), nn.Conv2d)
    )


def moments(module: nn.Module, paths: tuple[str, ...], x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    hooks = []
    for path in paths:

        def note(layer: nn.Module, inputs: object, y: Tensor, path: str = path) -> None:
            y = y.double()
            found[path] = torch.stack([y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)])

        hooks.append(module.get_submodule(path).register_forward_hook(note))
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("make", [mobile, residual])
def test_the_norms_behind_are_those_that_the_graph_calls_once(make) -> None:
    network = network_of(make)
    module = network.module
    norms = [name for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert sorted(norms_behind(module, first_convolution(module))) == sorted(norms)
    nodes = [node for node in module.graph.nodes if str(node.target) in norms]
    assert set(norms_behind(module, nodes[3])) == {str(node.target) for node in nodes[3:]}
    nodes[4].target = nodes[3].target  # one norm in two places
    assert nodes[3].target not in norms_behind(module, nodes[0])


@pytest.mark.parametrize("name", ["one", "joined"])
@pytest.mark.parametrize("make", [mobile, residual])
def test_after_a_pass_each_norm_gives_the_originals_moments(make, name: str) -> None:
    network = network_of(make)
    module = changed(network)
    paths = norms_behind(module, first_convolution(module))
    x = torch.cat(batches(BATCHES[name]))
    before = moments(module, paths, x)
    match_norms(network.module, module, paths, batches(BATCHES[name]))
    wanted, found = moments(network.module, paths, x), moments(module, paths, x)
    for path in paths:
        torch.testing.assert_close(found[path], wanted[path], rtol=1e-3, atol=1e-4)
    assert any(not torch.allclose(before[path], wanted[path], rtol=0.05) for path in paths)


def test_of_a_first_norm_moments_are_those_of_all_images_however_they_are_batched() -> None:
    """Of those behind it, a batch's own moments take the place of all images'."""
    network = network_of(mobile)
    module = changed(network)
    first, *_ = paths = norms_behind(module, first_convolution(module))
    x = torch.cat(batches(BATCHES["two"]))
    match_norms(network.module, module, paths, batches(BATCHES["two"]))
    found = moments(module, (first,), x)[first]
    wanted = moments(network.module, (first,), x)[first]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [mobile, residual])
def test_statistics_become_the_refitted_networks_own(make) -> None:
    network = network_of(make)
    module = changed(network)
    paths = norms_behind(module, first_convolution(module))
    x = images(24, seed=5)
    match_norms(network.module, module, paths, [x])
    assert not module.training
    with torch.no_grad():
        told = module(x)
        trained = copy.deepcopy(module).train()(x)
    torch.testing.assert_close(trained, told, rtol=1e-3, atol=1e-3)


def test_a_negative_scale_stays_negative_and_a_dead_channel_dead() -> None:
    network = network_of(mobile)
    paths = norms_behind(network.module, first_convolution(network.module))
    first = network.module.get_submodule(paths[2])
    with torch.no_grad():
        first.weight[0] *= -1
        first.weight[1] = 0.0
    module = changed(network)
    match_norms(network.module, module, paths, [images(24)])
    weight = module.get_submodule(paths[2]).weight
    assert weight[0] < 0 and weight[1] == 0 and (weight[2:] > 0).all()
    own = network.module.get_submodule(paths[2])
    torch.testing.assert_close(module.get_submodule(paths[2]).bias[1], own.bias[1])


def test_the_original_and_what_hooks_it_are_left_alone() -> None:
    network = network_of(mobile)
    before = copy.deepcopy(network.module.state_dict())
    module = changed(network)
    paths = norms_behind(module, first_convolution(module))
    match_norms(network.module, module, paths, [images(8)])
    after = network.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    for one in (network.module, module):
        assert not any(layer._forward_hooks for layer in one.modules())


def test_norms_without_a_scale_are_left_as_they_are() -> None:
    network = network_of(mobile)
    module = changed(network)
    paths = norms_behind(module, first_convolution(module))
    norm = module.get_submodule(paths[1])
    bare = nn.BatchNorm2d(norm.num_features, affine=False)
    bare.load_state_dict(
        {n: v for n, v in norm.state_dict().items() if "running" in n or "num" in n}
    )
    module.set_submodule(paths[1], bare.eval())
    before = copy.deepcopy(bare.state_dict())
    match_norms(network.module, module, paths, [images(8)])
    assert all(torch.equal(value, bare.state_dict()[name]) for name, value in before.items())


def test_no_images_change_nothing() -> None:
    network = network_of(mobile)
    module = changed(network)
    before = copy.deepcopy(module.state_dict())
    match_norms(network.module, module, norms_behind(module, first_convolution(module)), [])
    after = module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
