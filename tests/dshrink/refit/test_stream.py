"""Parts of a graph against torch's interpreter of the whole, and values that are kept or not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from refit_networks import images, mobile, network_of, residual
from torch import Tensor, fx, nn

from dshrink.network.models import Network
from dshrink.refit.parts import image_of, live_before, part_between, result_of
from dshrink.refit.stream import KEPT_BYTES, Stream


def interpreted(module: fx.GraphModule, x: Tensor) -> dict[fx.Node, Tensor]:
    interpreter = fx.Interpreter(module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(x)
    return dict(interpreter.env)


def node_of(network: Network, layer: str) -> fx.Node:
    number = network.lowered.layers.index(layer)
    (node,) = network.module.graph.find_nodes(
        op="call_module", target=network.lowered.modules[number][0]
    )
    return node


@pytest.fixture(params=[mobile, residual])
def network(request: pytest.FixtureRequest) -> Network:
    return network_of(request.param)


def test_a_part_computes_what_the_whole_graph_does_there(network: Network) -> None:
    module = network.module
    values = interpreted(module, images(2))
    nodes = list(module.graph.nodes)
    for cut in nodes[1:-1:3]:
        live = live_before(module, cut)
        part = part_between(module, live, [cut, result_of(module)])
        assert not part.training
        with torch.no_grad():
            made, result = part(*(values[node] for node in live))
        assert torch.equal(made, values[cut])
        assert torch.equal(result, values[result_of(module)])


def test_a_part_has_no_more_layers_than_its_outputs_need(network: Network) -> None:
    module = network.module
    cut = list(module.graph.nodes)[8]
    part = part_between(module, [image_of(module)], [cut])
    wanted, waiting = set(), [cut]
    while waiting:
        node = waiting.pop()
        wanted.add(node.name)
        waiting += node.all_input_nodes
    calls = {node.target for node in part.graph.nodes if node.op == "call_module"}
    behind = {node for node in module.graph.nodes if node.name in wanted}
    assert calls == {node.target for node in behind if node.op == "call_module"}
    with torch.no_grad():
        assert torch.equal(part(images(2))[0], interpreted(module, images(2))[cut])


def test_an_output_that_is_given_is_passed_on(network: Network) -> None:
    image = image_of(network.module)
    (found,) = part_between(network.module, [image], [image])(images(1))
    assert torch.equal(found, images(1))


def test_what_is_live_are_the_values_that_the_rest_reads(network: Network) -> None:
    module = network.module
    nodes = list(module.graph.nodes)
    for at, cut in enumerate(nodes[1:], 1):
        wanted = [
            node for node in nodes[:at] if any(nodes.index(user) >= at for user in node.users)
        ]
        assert live_before(module, cut) == wanted
    # Inside of a block with a skip: its input as well as what its first layers gave.
    assert max(len(live_before(module, node)) for node in nodes[1:]) == 2


def run(stream: Stream, nodes: list[fx.Node]) -> list[tuple[Tensor, ...]]:
    return list(stream.values(nodes))


def batches() -> list[Tensor]:
    return [images(3, seed=1), images(2, seed=2)]


class Counted:
    """Batches that count how often they are read."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.reads += 1
        yield from batches()


@pytest.mark.parametrize("limit", [0, 40_000, KEPT_BYTES])
def test_values_are_those_of_the_whole_graph_however_many_are_kept(
    limit: int, network: Network
) -> None:
    module = network.module
    wanted = [interpreted(module, batch) for batch in batches()]
    stream = Stream(module=module, images=batches(), limit=limit)
    nodes = list(module.graph.nodes)
    for at in range(1, len(nodes) - 2, 4):
        stream.advance(nodes[at])
        asked = [nodes[at], nodes[-2]]
        for found, values in zip(run(stream, asked), wanted, strict=True):
            for node, value in zip(asked, found, strict=True):
                assert torch.equal(value, values[node])


def test_images_are_read_no_more_once_their_values_are_kept(network: Network) -> None:
    nodes = list(network.module.graph.nodes)
    kept, none = Counted(), Counted()
    for source, limit in ((kept, KEPT_BYTES), (none, 0)):
        stream = Stream(module=network.module, images=source, limit=limit)
        for cut in (nodes[3], nodes[6], nodes[9]):
            stream.advance(cut)
            run(stream, [nodes[-2]])
    assert (kept.reads, none.reads) == (1, 6)


def test_only_what_the_rest_needs_is_kept(network: Network) -> None:
    cut = list(network.module.graph.nodes)[6]
    live = live_before(network.module, cut)
    values = [interpreted(network.module, batch) for batch in batches()]
    size = sum(found[node].nbytes for found in values for node in live)
    for limit, reads in ((size, 1), (size - 1, 2)):
        source = Counted()
        stream = Stream(module=network.module, images=source, limit=limit)
        stream.advance(cut)
        run(stream, [cut])
        assert source.reads == reads


@pytest.mark.parametrize("limit", [0, KEPT_BYTES])
def test_weights_that_change_behind_the_cut_take_effect(limit: int, network: Network) -> None:
    module = network.module
    stream = Stream(module=module, images=batches(), limit=limit)
    node = next(
        node
        for node in list(module.graph.nodes)[5:]
        if isinstance(module.get_submodule(str(node.target)), nn.Conv2d)
    )
    stream.advance(node)
    before = run(stream, [result_of(module)])
    conv = module.get_submodule(str(node.target))
    with torch.no_grad():
        conv.weight.mul_(1.5)
    after = run(stream, [result_of(module)])
    for (old,), (found,), batch in zip(before, after, batches(), strict=True):
        assert torch.equal(found, interpreted(module, batch)[result_of(module)])
        assert not torch.equal(found, old)


@pytest.mark.parametrize("limit", [0, KEPT_BYTES])
def test_a_branch_beside_begins_at_the_images_again(limit: int) -> None:
    """A layer before the cut changes: what was kept behind it is no longer true."""
    network = network_of(residual)
    module = network.module
    stream = Stream(module=module, images=batches(), limit=limit)
    beside, later = (node_of(network, f"blocks.1.{name}.0") for name in ("first", "shortcut"))
    stream.advance(later)
    run(stream, [result_of(module)])
    stream.advance(beside)
    conv = module.get_submodule(str(beside.target))
    with torch.no_grad():
        conv.weight.mul_(1.5)
    for cut in (None, later):
        if cut is not None:
            stream.advance(cut)
        for (found,), batch in zip(run(stream, [result_of(module)]), batches(), strict=True):
            assert torch.equal(found, interpreted(module, batch)[result_of(module)])


def test_values_are_computed_without_gradients(network: Network) -> None:
    stream = Stream(module=network.module, images=batches())
    for (found,) in run(stream, [result_of(network.module)]):
        assert found.is_inference()


def test_two_streams_may_be_read_side_by_side(network: Network) -> None:
    result, source = result_of(network.module), Counted()
    streams = [Stream(module=network.module, images=source) for _ in range(2)]
    pairs = zip(*(stream.values([result]) for stream in streams), strict=True)
    for (one,), (other,) in pairs:
        assert torch.equal(one, other)
