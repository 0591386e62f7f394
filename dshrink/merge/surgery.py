"""Operations on a copy of a network's graph, addressed by the numbers of its ``OpSpec``.

Tensor 0 is the image, tensor n + 1 what operator n makes; ``tensors`` always holds the node that
gives a tensor now.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import fx, nn

from dshrink.merge.fading import Fade, Fading
from dshrink.network.layers import REMOVABLE_FUNCTIONS
from dshrink.network.mask_changes import Region, Rewriting
from dshrink.network.models import Network
from latency_tables.opspec import Activation


class Surgery:
    """A copy of a network's graph, operated on in the order of its operators.

    With a ``fade`` activations go and come by its value.
    """

    def __init__(self, network: Network, dtype: torch.dtype, fade: Fade | None = None) -> None:
        self.network, self._fade = network, fade
        self.module = copy.deepcopy(network.module).to(dtype)
        self.tensors = network.lowered.tensor_nodes(self.module)

    def replace(self, region: Region, layers: Sequence[nn.Module]) -> None:
        """Put ``layers``, one after the other, in place of a region."""
        result = self.tensors[region.enters]
        end = self.tensors[region.result]
        for number, layer in enumerate(layers):
            result = self.call(f"{region.path}.merged_{number}", layer, end, result)
        self.become(region.result, result)

    def source(self, number: int, tensor: int) -> fx.Node:
        """The node by which operator ``number`` reads a tensor, through dropout for example."""
        known = set(self.tensors)
        reader: fx.Node = self.tensors[number + 1]
        for node in reader.all_input_nodes:
            made = node
            while made not in known:
                (made,) = made.all_input_nodes
            if made is self.tensors[tensor]:
                return node
        raise AssertionError(f"operator {number} does not read tensor {tensor}")

    def remove(self, number: int) -> None:
        """Take out an activation, or let it fade out."""
        node = self.tensors[number + 1]
        (before,) = node.all_input_nodes
        if self._fade is not None:
            op = self.network.spec.ops[number]
            assert isinstance(op, Activation)
            layer = Fading(self._fade, before=REMOVABLE_FUNCTIONS[op.function])
            call = self.call(f"fading.activation_{number}", layer, node, before)
            self.become(number + 1, call)
            return
        node.replace_all_uses_with(before)
        self.tensors[number + 1] = before

    def change_activations(self, changes: Rewriting) -> None:
        """Those outside of the regions: take out what goes, put in the free ones."""
        for number in changes.removed:
            self.remove(number)
        for tensor, path in changes.activated.items():
            node = self.tensors[tensor]
            layer = nn.ReLU6() if self._fade is None else Fading(self._fade, after=F.relu6)
            call = self.call(f"{path}.free_activation", layer, node.next, node)
            self.become(tensor, call)

    def call(self, path: str, layer: nn.Module, before: fx.Node, source: fx.Node) -> fx.Node:
        """A new layer that reads ``source``; its node comes before the node ``before``.

        Its path is ``path``, or one like it where the network has something there already.
        """
        path = self._free(path)
        self.module.add_submodule(path, layer)
        with self.module.graph.inserting_before(before):
            return self.module.graph.call_module(path, (source,))

    def _free(self, path: str) -> str:
        """A path that no module or parameter has, inside of no layer of the graph."""
        layers = {node.target for node in self.module.graph.nodes if node.op == "call_module"}
        within, parts = "", path.split(".")
        for at, part in enumerate(parts[:-1]):
            inside = f"{within}.{part}".lstrip(".")
            child = getattr(self._module_at(within), part, None)
            if child is not None and (inside in layers or not isinstance(child, nn.Module)):
                parts = [*parts[:at], "_".join(parts[at:])]
                break
            within = inside
            if child is None:
                return path
        parent, name, number = self._module_at(within), parts[-1], 1
        while hasattr(parent, name):
            number += 1
            name = f"{parts[-1]}_{number}"
        return f"{within}.{name}".lstrip(".")

    def _module_at(self, path: str) -> nn.Module:
        return self.module.get_submodule(path)

    def finish(self) -> fx.GraphModule:
        """The module, without what is no longer used. Its nodes know their old shapes, or none."""
        self.module.graph.eliminate_dead_code()
        self.module.graph.lint()
        self.module.delete_all_unused_submodules()
        self.module.recompile()
        return self.module

    def become(self, tensor: int, result: fx.Node) -> None:
        """Let whoever reads a tensor read ``result`` instead, but for that node itself."""
        self.tensors[tensor].replace_all_uses_with(
            result, delete_user_cb=lambda user: user is not result
        )
        self.tensors[tensor] = result
