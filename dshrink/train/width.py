"""Uniform width scaling: every channel count of a network times one factor, freshly initialised.

Channel counts are those of tensors, and tensors that are added, multiplied or passed through a
layer that keeps channels (norm, activation, pooling, depthwise convolution) share one. So the
counts are settled on the ``OpSpec``, one for each set of tied tensors, and the layers then follow:

- a count is the original's times the width, rounded as timm rounds (``make_divisible``: to the
  nearest multiple of 8, never by more than 10 % down). An original that is no multiple of 8 keeps
  the divisor that it shares with 8, so that a width of 1 always gives the network itself;
- the middle of an inverted bottleneck (a block whose first convolution widens) keeps its ratio to
  the block's input instead, as timm's ``channel_multiplier`` does;
- grouped convolutions keep the size of their groups; there are more or fewer groups;
- the image's channels and the classes stay.
"""

from __future__ import annotations

import copy
import importlib
import io
import math
from contextlib import redirect_stderr
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from dshrink.errors import NetworkError
from dshrink.network.lowering import lower
from dshrink.network.models import Network
from dshrink.network.tracing import import_timm, propagate_shapes
from latency_tables.opspec import (
    BiasMap,
    Concat,
    Conv,
    Linear,
    Op,
    Opaque,
    OpSpec,
    OpSpecError,
)

DIVISOR = 8


def scaled_network(network: Network, width: float, seed: int = 0) -> Network:
    """The network with every channel count times ``width``, and fresh weights drawn by ``seed``.

    Convolutions are drawn as timm's EfficientNet builder draws them (normal, variance 2 / fan out
    of a group), linear layers as torch does; norms start at scale 1 and shift 0. Layers keep their
    names. Raises NetworkError, with the layer, where the width cannot be had.
    """
    spec = scaled_spec(network, width)
    module = copy.deepcopy(network.module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, names in enumerate(network.lowered.modules):
            source, result = spec.shapes[spec.ops[number].inputs[0]], spec.shapes[number + 1]
            for name in names:
                _resize(module.get_submodule(name), spec.ops[number], source[0], result[0])
    channels, height, columns = network.spec.input_shape
    try:
        with redirect_stderr(io.StringIO()):  # torch.fx prints the traceback of what it raises
            propagate_shapes(module, (channels, height, columns))
    except RuntimeError as error:  # a count written out in the forward pass, or in a parameter
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise _impossible(network, width, f"its forward pass fails ({reason[:160]})") from None
    return Network(name=network.name, module=module, lowered=lower(module))


def scaled_spec(network: Network, width: float) -> OpSpec:
    """The structure of ``scaled_network`` alone: its shapes, MACs and parameters.

    Raises NetworkError.
    """
    if not (math.isfinite(width) and width > 0):
        raise _impossible(network, width, "a width is a number above 0")
    _check_layers(network, width)
    counts = _Counts(network, width)
    try:
        ops = tuple(_scaled(network, number, counts) for number in range(len(network.spec.ops)))
        return OpSpec(input_shape=network.spec.input_shape, ops=ops)
    except OpSpecError as error:
        raise _impossible(network, width, str(error)) from None


def _impossible(network: Network, width: float, reason: str) -> NetworkError:
    return NetworkError(
        f"{network.name} cannot have {width:g} times its width: {reason}; try another width or "
        "another network"
    )


def _check_layers(network: Network, width: float) -> None:
    """Raise NetworkError for weights that no rule here scales: other norms, attention, merges."""
    lowered = network.lowered
    for op, layer, names in zip(lowered.spec.ops, lowered.layers, lowered.modules, strict=True):
        modules = [network.module.get_submodule(name) for name in names]
        weighted = any(module.state_dict() for module in modules)
        if isinstance(op, BiasMap) or (isinstance(op, Opaque) and weighted):
            kind = op.operator if isinstance(op, Opaque) else "border of a merge"
            raise _impossible(network, width, f"the weights of {layer} ({kind}) do not scale")


class _Counts:
    """The channel counts of a network's tensors at a width, settled when asked for.

    Tensors with one ``root`` have one count. ``derived`` has the sets whose count keeps its ratio
    to that of other tensors together, and the divisor it is rounded to.
    """

    def __init__(self, network: Network, width: float) -> None:
        spec = network.spec
        self.width = width
        self.originals = [shape[0] for shape in spec.shapes]
        self.root = _tied(spec)
        self.known = {self.root[tensor]: self.originals[tensor] for tensor in (0, len(spec.ops))}
        self.divisors: dict[int, int] = {}
        for op in spec.ops:
            if isinstance(op, Conv) and op.groups > 1:
                self._add_divisor(op.inputs[0], self.originals[op.inputs[0]] // op.groups)
        self.derived: dict[int, tuple[tuple[int, ...], int]] = {}
        for number, op in enumerate(spec.ops):
            if _follows(op) and self.root[op.inputs[0]] != self.root[number + 1]:
                self.derived.setdefault(self.root[number + 1], (op.inputs, 1))
        for number in _widening(network):
            root = self.root[number + 1]
            self.derived[root] = (spec.ops[number].inputs, self._divisor(root))

    def __getitem__(self, tensor: int) -> int:
        root = self.root[tensor]
        if root not in self.known:
            self.known[root] = 0  # a count that follows from itself follows from nothing
            self.known[root] = self._settle(root)
        return self.known[root]

    def _settle(self, root: int) -> int:
        value, divisor = self.originals[root] * self.width, self._divisor(root)
        sources, exact = self.derived.get(root, ((), 1))
        counts = [self[tensor] for tensor in sources]
        if counts and all(counts):
            ratio = self.originals[root] / sum(self.originals[tensor] for tensor in sources)
            value, divisor = sum(counts) * ratio, exact
        return int(_make_divisible()(value, divisor))

    def _divisor(self, root: int) -> int:
        return self.divisors.get(root, math.gcd(DIVISOR, self.originals[root]))

    def _add_divisor(self, tensor: int, size: int) -> None:
        root = self.root[tensor]
        self.divisors[root] = math.lcm(self._divisor(root), size)


@cache
def _make_divisible() -> Any:
    import_timm()
    return importlib.import_module("timm.layers").make_divisible


def _follows(op: Op) -> bool:
    """Whether an operator has no width of its own: its result's follows from what it reads."""
    return not isinstance(op, Linear) and not (isinstance(op, Conv) and op.groups == 1)


def _tied(spec: OpSpec) -> list[int]:
    """For each tensor the first of those that must have as many channels as it."""
    root = list(range(len(spec.shapes)))
    for number, op in enumerate(spec.ops):
        if not _follows(op) or isinstance(op, Concat):
            continue
        for tensor in op.inputs:
            if spec.shapes[tensor][0] == spec.shapes[number + 1][0]:
                first, second = sorted((root[tensor], root[number + 1]))
                root = [first if at == second else at for at in root]
    return root


def _widening(network: Network) -> list[int]:
    """The first convolutions of inverted bottlenecks: wider than the block's input and result."""
    spec, numbers = network.spec, []
    for block in network.blocks:
        op, before = spec.ops[block.first], spec.shapes[block.first][0]
        after = spec.shapes[block.body_last + 1][0]
        dense = isinstance(op, Conv) and op.groups == 1
        if block.first and dense and spec.shapes[block.first + 1][0] > max(before, after):
            numbers.append(block.first)
    return numbers


def _scaled(network: Network, number: int, counts: _Counts) -> Op:
    op, result = network.spec.ops[number], counts[number + 1]
    match op:
        case Conv(groups=1):
            return replace(op, out_channels=result)
        case Conv():
            source = counts[op.inputs[0]]
            size = network.spec.shapes[op.inputs[0]][0] // op.groups
            if source % size or result % (source // size):
                raise OpSpecError(
                    f"{network.lowered.layers[number]}: {source} channels in and {result} out do "
                    f"not divide into groups of {size}"
                )
            return replace(op, out_channels=result, groups=source // size)
        case Linear():
            return replace(op, out_features=result)
        case Opaque():
            return replace(op, shape=(result, *op.shape[1:]))
        case _:
            return op


def _resize(layer: nn.Module, op: Op, source: int, result: int) -> None:
    """Give a convolution, norm or linear layer its new counts and fresh weights, in place."""
    if isinstance(layer, nn.Conv2d) and isinstance(op, Conv):
        layer.in_channels, layer.out_channels, layer.groups = source, result, op.groups
        layer.weight = _empty(layer.weight, *op.weight_shape(source))
        fan_out = result // op.groups * math.prod(op.kernel)
        nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan_out))
        if layer.bias is not None:
            layer.bias = _empty(layer.bias, result)
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = source, result
        layer.weight = _empty(layer.weight, result, source)
        layer.bias = None if layer.bias is None else _empty(layer.bias, result)
        layer.reset_parameters()
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = result
        for name, value in layer.named_parameters(recurse=False):
            setattr(layer, name, _empty(value, result))
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(layer, name, buffer.new_empty((result,) if buffer.ndim else ()))
        layer.reset_parameters()


def _empty(like: torch.Tensor, *shape: int) -> nn.Parameter:
    return nn.Parameter(like.new_empty(shape))
