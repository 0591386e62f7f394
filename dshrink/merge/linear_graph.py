"""A part of a network that is affine throughout: what merging turns into one convolution.

A ``LinearGraph`` is in single-assignment form like ``OpSpec``, with weights: tensor 0 is the input,
tensor k the output of node k - 1, and the last tensor is the result. Activations are removed, batch
norm is folded or a depthwise 1x1 convolution, average pooling is a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dshrink.errors import MergeError, NotMergeable
from dshrink.merge.algebra import (
    ConvWeights,
    add_parallel,
    compose,
    from_average_pool,
    identity,
    pad,
)
from dshrink.merge.window import NO_PADS, Pair, Sides, Window
from latency_tables import opspec
from latency_tables.span_masks import MOST_WEIGHT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A convolution of tensor ``source``; ``name`` appears in reasons."""

    conv: ConvWeights
    source: int
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sum:
    """The addition of two tensors, each padded or (negative pads) cropped first."""

    sources: tuple[int, int]
    pads: tuple[Sides, Sides] = (NO_PADS, NO_PADS)
    name: str = ""


Node: TypeAlias = Layer | Sum


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearGraph:
    """Nodes in order, and the input shape (C, H, W) without batch; validated when made."""

    input_shape: tuple[int, int, int]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise MergeError("a graph needs at least one layer")
        for number, node in enumerate(self.nodes):
            sources = (node.source,) if isinstance(node, Layer) else node.sources
            if not all(0 <= tensor <= number for tensor in sources):
                raise MergeError(f"node {number} reads tensors {sources}, which come later")
        _ = self.channels, self.sizes, self.windows

    @property
    def size(self) -> Pair:
        """(H, W) of the input."""
        return self.input_shape[1:]

    @cached_property
    def channels(self) -> tuple[int, ...]:
        """Channels of every tensor, the input first."""
        channels = [self.input_shape[0]]
        for node in self.nodes:
            if isinstance(node, Sum):
                channels.append(channels[node.sources[0]])
                continue
            if node.conv.in_channels != channels[node.source]:
                raise MergeError(
                    f"{node.name or 'a convolution'} takes {node.conv.in_channels} channels "
                    f"and gets {channels[node.source]}"
                )
            channels.append(node.conv.out_channels)
        return tuple(channels)

    @cached_property
    def sizes(self) -> tuple[Pair, ...]:
        """(H, W) of every tensor, the input first. Raises MergeError where additions do not fit."""
        sizes: list[Pair] = [self.size]
        for node in self.nodes:
            if isinstance(node, Layer):
                sizes.append(node.conv.window.output_size(sizes[node.source]))
                continue
            a, b = (
                (self.channels[tensor], *Window(pads=pads).output_size(sizes[tensor]))
                for tensor, pads in zip(node.sources, node.pads, strict=True)
            )
            if a != b:
                raise MergeError(f"{node.name or 'an addition'} gets shapes {a} and {b}")
            sizes.append(a[1:])
        return tuple(sizes)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """What every tensor reads of the input. Raises NotMergeable for unequal strides."""
        windows = [Window()]
        for node in self.nodes:
            if isinstance(node, Layer):
                windows.append(windows[node.source].then(node.conv.window))
                continue
            a, b = (
                windows[tensor].then(Window(pads=pads))
                for tensor, pads in zip(node.sources, node.pads, strict=True)
            )
            windows.append(a.union(b))
        return tuple(windows)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Groups of the one convolution that gives each tensor, the input's being its channels."""
        groups = [self.channels[0]]
        for node in self.nodes:
            if isinstance(node, Layer):
                groups.append(math.gcd(groups[node.source], node.conv.groups))
            else:
                groups.append(math.gcd(*(groups[tensor] for tensor in node.sources)))
        return tuple(groups)

    @property
    def window(self) -> Window:
        """That of the one convolution equal to the graph: no needless end pads."""
        return self.windows[-1].trimmed(self.size)

    @property
    def device(self) -> torch.device:
        """Where the weights are; on "meta" there are shapes only."""
        convs = (node.conv for node in self.nodes if isinstance(node, Layer))
        return next((conv.weight.device for conv in convs), torch.device("cpu"))

    def to(self, dtype: torch.dtype) -> LinearGraph:
        """The same graph in another precision."""
        return replace(
            self,
            nodes=tuple(
                replace(node, conv=node.conv.to(dtype)) if isinstance(node, Layer) else node
                for node in self.nodes
            ),
        )

    def run(self, x: Tensor) -> Tensor:
        """Layer by layer, for a batch (N, C, H, W)."""
        tensors = [x]
        for node in self.nodes:
            if isinstance(node, Layer):
                tensors.append(node.conv.run(tensors[node.source]))
            else:
                (a, b), (pads_a, pads_b) = node.sources, node.pads
                tensors.append(pad(tensors[a], pads_a) + pad(tensors[b], pads_b))
        return tensors[-1]


def collapse(graph: LinearGraph) -> ConvWeights:
    """The one convolution equal to the graph away from padding, with no needless end pads."""
    maps: list[ConvWeights | None] = [None]
    for node in graph.nodes:
        if isinstance(node, Layer):
            before = maps[node.source]
            maps.append(node.conv if before is None else compose(before, node.conv))
            continue
        a, b = (
            _padded(maps[tensor] or identity(graph.input_shape[0], graph.device), pads)
            for tensor, pads in zip(node.sources, node.pads, strict=True)
        )
        maps.append(add_parallel(a, b))
    conv = maps[-1]
    assert conv is not None  # a graph has a node, and each gives a convolution
    return replace(conv, pads=graph.window.pads)


def _padded(conv: ConvWeights, pads: Sides) -> ConvWeights:
    return replace(conv, pads=conv.window.then(Window(pads=pads)).pads)


def from_spec(
    spec: opspec.OpSpec,
    arrays: Sequence[Sequence[Any]] | None = None,
    *,
    names: Sequence[str] = (),
    removed: Collection[int] = (),
) -> LinearGraph:
    """The graph that an ``OpSpec`` describes.

    ``arrays`` holds each operator's weights (numpy arrays or tensors: weight and bias; scale and
    shift of a batch norm); without them the graph has shapes only. ``names`` are the operators'
    names for reasons, ``removed`` the numbers of activations to leave out. Raises NotMergeable,
    which names the first operator that does not merge.
    """
    if len(spec.input_shape) != 3:
        raise NotMergeable(f"input {spec.input_shape} is no feature map (C, H, W)")
    channels, height, width = spec.input_shape
    tensor = [0]
    nodes: list[Node] = []
    for number, op in enumerate(spec.ops):
        sources = [tensor[t] for t in op.inputs]
        name = names[number] if names else f"operator {number}"
        if isinstance(op, opspec.Activation) and number in removed:
            tensor.append(sources[0])
            continue
        if isinstance(op, opspec.Add):
            nodes.append(Sum(sources=(sources[0], sources[1]), name=name))
        else:
            shape = spec.shapes[op.inputs[0]]
            try:
                conv = _conv_of(op, shape, None if arrays is None else arrays[number])
            except NotMergeable as error:
                raise NotMergeable(f"{name}: {error}") from error
            nodes.append(Layer(conv=conv, source=sources[0], name=name))
        tensor.append(len(nodes))
    return LinearGraph(input_shape=(channels, height, width), nodes=tuple(nodes))


def _conv_of(op: opspec.Op, shape: opspec.Shape, arrays: Sequence[Any] | None) -> ConvWeights:
    match op:
        case opspec.Conv():
            weight, bias = _tensors(arrays, op.weight_shape(shape[0]), (op.out_channels,))
            return ConvWeights.from_weights(
                weight,
                bias,
                stride=op.stride,
                pads=op.pads,
                dilation=op.dilation,
                groups=op.groups,
            )
        case opspec.BatchNorm():
            scale, shift = _tensors(arrays, (shape[0],), (shape[0],))
            return ConvWeights.from_weights(scale.reshape(-1, 1, 1, 1), shift, groups=shape[0])
        case opspec.Pool(function="average"):
            return from_average_pool(
                shape[0],
                (shape[1], shape[2]),
                kernel=op.kernel,
                stride=op.stride,
                pads=op.pads,
                ceil=op.ceil,
                count_pads=op.count_pads,
                device=torch.device("meta" if arrays is None else "cpu"),
            )
        case opspec.Activation():
            raise NotMergeable(f"the activation {op.function} is not removed")
        case _:
            kind = getattr(op, "operator", op.kind)
            raise NotMergeable(f"{kind} does not merge into a convolution")


def _tensors(arrays: Sequence[Any] | None, *shapes: tuple[int, ...]) -> list[Tensor]:
    if arrays is None:
        return [torch.empty(shape, dtype=torch.float64, device="meta") for shape in shapes]
    return [torch.as_tensor(array, dtype=torch.float64) for array in arrays]


def check_size(graph: LinearGraph) -> None:
    """Raise NotMergeable where the one convolution would have too many weights to be made."""
    height, width = graph.window.kernel
    channels = graph.channels[0] // graph.groups[-1] * graph.channels[-1]
    weight_bytes = 4 * channels * height * width
    if weight_bytes > MOST_WEIGHT_BYTES:
        raise NotMergeable(
            f"its merged {height}x{width} kernel has {weight_bytes / 1024**2:.0f} MiB of weights, "
            f"none above {MOST_WEIGHT_BYTES / 1024**2:.0f} MiB is made; merge fewer convolutions"
        )
