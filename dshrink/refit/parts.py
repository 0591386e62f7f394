"""Parts of a graph as modules of their own: what leads to a tensor, and what follows it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx


def part_between(
    module: fx.GraphModule, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> fx.GraphModule:
    """A module of ``module``'s own layers that makes the values of ``outputs`` from ``inputs``.

    It takes an argument an input and gives a tuple. Only what the outputs need is computed.
    """
    graph = fx.Graph()
    made = {node: graph.placeholder(f"input_{n}") for n, node in enumerate(inputs)}
    needed = _behind(inputs, outputs)
    for node in module.graph.nodes:
        if node in needed:
            made[node] = graph.node_copy(node, lambda source: made[source])
    graph.output(tuple(made[node] for node in outputs))
    return fx.GraphModule(module, graph).eval()


def _behind(inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes that make ``outputs``, those that are given left out."""
    found: set[fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in found and node not in inputs:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def live_before(module: fx.GraphModule, cut: fx.Node) -> list[fx.Node]:
    """The nodes before ``cut`` whose values it, or a node behind it, reads."""
    nodes = list(module.graph.nodes)
    at = nodes.index(cut)
    read = {source for node in nodes[at:] for source in node.all_input_nodes}
    return [node for node in nodes[:at] if node in read]


def image_of(module: fx.GraphModule) -> fx.Node:
    """The graph's input."""
    (image,) = module.graph.find_nodes(op="placeholder")
    assert isinstance(image, fx.Node)
    return image


def result_of(module: fx.GraphModule) -> fx.Node:
    """The node whose value the graph gives."""
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    result = output.args[0]
    assert isinstance(result, fx.Node)  # lowering has seen to it
    return result
