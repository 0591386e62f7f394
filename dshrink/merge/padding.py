"""Padding is what makes merging inexact; here is how a graph merges in spite of it.

Zero padding inside a graph pads with 0 what the layer before it computes as more than 0.

- ``bias_map``: where every padded layer inside reads something that is constant beyond its own
  border (1x1 convolutions), the error does not depend on the input: a constant map corrects it.
- ``repad``: all padding moves to the graph's input; the merge is exact for that re-padded graph
  (`repad` returns it), which differs from the pre-trained one at the border.
- ``interior``: the border is left wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dshrink.errors import NotMergeable
from dshrink.merge.algebra import ConvWeights
from dshrink.merge.linear_graph import Layer, LinearGraph, Node, collapse
from dshrink.merge.window import NO_PADS, Pair, Sides, Window
from latency_tables.masks import check_padding

#: Relative to its largest value: a map this flat is a plain bias.
_FLAT = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Merged:
    """One convolution for inputs of ``size`` (H, W), and the map (O, H', W') to add if needed."""

    conv: ConvWeights
    bias_map: Tensor | None
    padding: str
    size: Pair

    @property
    def border(self) -> Sides:
        """Output rows and columns (top, left, bottom, right) that read padding."""
        return self.conv.window.border(self.size)

    def to(self, dtype: torch.dtype) -> Merged:
        """The same in another precision."""
        bias_map = None if self.bias_map is None else self.bias_map.to(dtype)
        return replace(self, conv=self.conv.to(dtype), bias_map=bias_map)

    def run(self, x: Tensor) -> Tensor:
        """The merged graph of a batch (N, C, H, W)."""
        y = self.conv.run(x)
        return y if self.bias_map is None else y + self.bias_map


def merge(graph: LinearGraph, padding: str = "bias_map") -> Merged:
    """One convolution for the whole graph.

    Exact everywhere for ``reference(graph, padding)``, except under ``interior``, which is exact
    in the interior only. Raises NotMergeable, with the reason, where there is no such convolution.
    """
    check_padding(padding)
    if padding == "bias_map":
        require_constant_border(graph)
    conv = collapse(graph)
    bias_map = None
    if padding == "bias_map" and pads_inside(graph):
        conv, bias_map = _correct_border(graph, conv)
    return Merged(conv=conv, bias_map=bias_map, padding=padding, size=graph.size)


def reference(graph: LinearGraph, padding: str) -> LinearGraph:
    """The unmerged graph that a merge under this padding mode must equal."""
    check_padding(padding)
    return repad(graph) if padding == "repad" else graph


def border_mask(border: Sides, size: Pair) -> Tensor:
    """A boolean (H', W') mask of an output of ``size``: True where padding is read."""
    top, left, bottom, right = border
    mask = torch.ones(size, dtype=torch.bool)
    mask[top : size[0] - bottom, left : size[1] - right] = False
    return mask


def pads_inside(graph: LinearGraph) -> bool:
    """Whether anything else than the graph's input is padded.

    If not, the plain convolution is exact everywhere, and a bias map is never needed.
    """
    return any(tensor and any(rows) for _, tensor, rows in _paddings(graph))


def _paddings(graph: LinearGraph) -> Iterator[tuple[Node, int, Sides]]:
    """(node, tensor it reads, its output rows and columns that read padding)."""
    for node in graph.nodes:
        if isinstance(node, Layer):
            yield node, node.source, node.conv.window.border(graph.sizes[node.source])
            continue
        for tensor, pads in zip(node.sources, node.pads, strict=True):
            yield node, tensor, Window(pads=pads).border(graph.sizes[tensor])


def require_constant_border(graph: LinearGraph) -> None:
    """Raise NotMergeable, with the layer, where no bias map is exact. Needs no weights."""
    for node, tensor, padded in _paddings(graph):
        before = graph.windows[tensor]
        constant = before.silent_outside(graph.size)
        if any(rows and not side for rows, side in zip(padded, constant, strict=True)):
            raise NotMergeable(
                f"{node.name or 'a layer'} pads what a {before.kernel[0]}x{before.kernel[1]} "
                "kernel computed, so its border depends on the input and no bias map is exact; "
                "use --padding repad"
            )


def _correct_border(graph: LinearGraph, conv: ConvWeights) -> tuple[ConvWeights, Tensor | None]:
    """The convolution with the bias of an interior position, and the map that others add."""
    response, (y, x) = _zero_response(graph)
    bias = response[:, y, x]
    bias_map = response - bias[:, None, None]
    conv = replace(conv, bias=bias)
    if bias.is_meta:
        return conv, bias_map
    flat = bool(bias_map.abs().max() <= _FLAT * response.abs().max())
    return conv, None if flat else bias_map


def _zero_response(graph: LinearGraph) -> tuple[Tensor, Pair]:
    """The graph's output (O, H', W') for an input of zeros, and a position of its interior.

    All interior positions are equal, so the graph runs on the smallest input with one of them
    (at equal phase of the stride), and that row and column are repeated: a thousandth of the work.
    """
    window = graph.windows[-1]
    border = window.border(graph.size)
    size: list[int] = []
    rows: list[Tensor] = []
    centre: list[int] = []
    for n, out, stride, begin, end in zip(
        graph.size, graph.sizes[-1], window.stride, border[:2], border[2:], strict=True
    ):
        repeats = max(0, out - begin - end - 1)
        place = min(begin, out - 1)
        index = torch.arange(out - repeats)
        counts = torch.where(index == place, repeats + 1, 1)
        size.append(n - repeats * stride)
        rows.append(torch.repeat_interleave(index, counts))
        centre.append(place)
    channels, device = graph.input_shape[0], graph.device
    zeros = torch.zeros(1, channels, *size, dtype=torch.float64, device=device)
    small = graph.run(zeros)[0]
    response = small[:, rows[0].to(device)][:, :, rows[1].to(device)]
    return response, (centre[0], centre[1])


def repad(graph: LinearGraph) -> LinearGraph:
    """The graph with all its padding moved to the layers that read the input.

    Each inner tensor grows by the margin that the layers after it would have padded
    (p_first = sum_l p_l * prod_{q<l} s_q along a chain), nothing inside is padded, and skips whose
    tensor is larger than the other branch are cropped (docs/methods.md).
    """
    margins = _margins(graph)
    present = [NO_PADS, *margins[1:]]  # nothing comes before the input that could make it larger
    nodes: list[Node] = []
    for number, node in enumerate(graph.nodes):
        needs = _needs(graph, number, margins[number + 1])
        pads = [_less(need, present[tensor]) for tensor, need in needs]
        if isinstance(node, Layer):
            conv = replace(node.conv, pads=_floor_pads(pads[0], node.conv.stride))
            nodes.append(replace(node, conv=conv))
        else:
            nodes.append(replace(node, pads=(pads[0], pads[1])))
    return replace(graph, nodes=tuple(nodes))


def _margins(graph: LinearGraph) -> list[Sides]:
    """Rows and columns that each tensor needs around it if nothing inside pads."""
    margins = [NO_PADS] * (len(graph.nodes) + 1)
    for number in reversed(range(len(graph.nodes))):
        for tensor, need in _needs(graph, number, margins[number + 1]):
            top, left, bottom, right = map(max, margins[tensor], need)
            margins[tensor] = (top, left, bottom, right)
    return margins


def _needs(graph: LinearGraph, number: int, margin: Sides) -> list[tuple[int, Sides]]:
    """(tensor, margin it needs) of a node's inputs if its output needs ``margin``."""
    node = graph.nodes[number]
    if not isinstance(node, Layer):
        moved = (Window(pads=pads).then(Window(pads=margin)).pads for pads in node.pads)
        return list(zip(node.sources, moved, strict=True))
    begin, end = [], []
    sizes = zip(graph.sizes[node.source], graph.sizes[number + 1], strict=True)
    for axis, (n, out) in enumerate(sizes):
        k, s, b, _ = node.conv.window.axes[axis]
        begin.append(s * margin[axis] + b)
        end.append(s * (out - 1 + margin[axis + 2]) - b + k - n)
    return [(node.source, (begin[0], begin[1], end[0], end[1]))]


def _less(need: Sides, present: Sides) -> Sides:
    top, left, bottom, right = (a - b for a, b in zip(need, present, strict=True))
    return top, left, bottom, right


def _floor_pads(pads: Sides, stride: Pair) -> Sides:
    """Without end crops of rows that the stride skips anyway."""
    top, left, bottom, right = pads
    bottom = 0 if -stride[0] < bottom < 0 else bottom
    right = 0 if -stride[1] < right < 0 else right
    return top, left, bottom, right
