"""A network with a dense convolution of equal FLOPs in place of each block (Sec. 3.2, Tab. 1).

The paper says of each block alone: its kernel, and channels scaled so that the FLOPs stay. In a
network a block's output channels are the next one's input channels, so that not every block can
keep its FLOPs: widths solved block for block alternate (45, 23, 40, 55, 28 in MobileNetV2, 13 and
600 in ResNet-101). The rule here keeps them stage for stage:

- A stage is a run of blocks of one output shape. Its blocks have one width c, of which the
  multiply-accumulates of the stage are a(1) c(before) c + (a(2) + ... + a(n)) c^2 with
  a = kernel area times output positions; c makes them those of the original stage.
- The stem gives what the first block by itself would take (``dense_block``). Stem and head are
  otherwise as they were. What the stem gains or loses by that goes to the first stage, and the last
  stage and the head keep their multiply-accumulates together, so that the network keeps its total.
- Widths are multiples of 8, as in the networks that they are compared with (tensor cores compute in
  eights). What one rounding leaves over, the following blocks are given, so that the widths of a
  stage may differ by 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dshrink.errors import ShrinkError
from dshrink.network.blocks import Block
from dshrink.network.models import Network
from dshrink.network.sections import part_of
from dshrink.pieces.advice import no_blocks
from dshrink.pieces.block_pieces import dense_block
from latency_tables.opspec import Conv, Opaque, OpSpec, OpSpecError, join


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A block (then ``dense`` is its convolution with its activation) or what stands between."""

    name: str
    original: OpSpec
    dense: OpSpec | None = None

    def alike(self, other: _Part) -> bool:
        """Whether both are blocks of one stage, if one follows the other."""
        both = self.dense is not None and other.dense is not None
        return both and self.original.output_shape == other.original.output_shape

    def macs_per_pair(self) -> int:
        """Multiply-accumulates of the dense convolution for a channel in and a channel out."""
        assert self.dense is not None
        conv = self.dense.ops[0]
        assert isinstance(conv, Conv)
        return math.prod(conv.kernel) * math.prod(self.original.output_shape[1:])

    def entered_by(self, channels: int, *, leaves: int | None = None) -> OpSpec:
        """It with ``channels`` channels at its input; ``leaves`` are those of its last convolution.

        Raises ShrinkError where it has layers that take a set number of channels.
        """
        spec = self.original if self.dense is None else self.dense
        before = spec.input_shape[0]
        if channels == before and leaves is None:
            return spec
        last = max((n for n, op in enumerate(spec.ops) if isinstance(op, Conv)), default=None)
        ops, shapes = [], [(channels, *spec.input_shape[1:])]
        try:
            for n, op in enumerate(spec.ops):
                given = [shapes[tensor] for tensor in op.inputs]
                if isinstance(op, Conv):
                    entering = spec.shapes[op.inputs[0]][0]
                    if op.groups == entering == op.out_channels > 1:
                        op = replace(op, groups=given[0][0], out_channels=given[0][0])
                    elif n == last and leaves is not None:
                        op = replace(op, out_channels=leaves)
                elif isinstance(op, Opaque) and given != [spec.shapes[t] for t in op.inputs]:
                    raise OpSpecError(
                        f"{op.operator} takes {spec.shapes[op.inputs[0]][0]} channels"
                    )
                ops.append(op)
                shapes.append(op.output_shape(given))
            return OpSpec(input_shape=shapes[0], ops=tuple(ops))
        except OpSpecError as error:
            raise ShrinkError(
                f"{self.name}: cannot have other channels, as a dense counterpart needs ({error})"
            ) from None


def dense_counterpart(network: Network, *, multiple: int = 8) -> OpSpec:
    """``network`` with one dense convolution for each block and as many multiply-accumulates.

    Widths are multiples of ``multiple``. Raises ShrinkError for a network without blocks, and for a
    block that cannot merge.
    """
    parts = _parts(network)
    made: list[OpSpec] = []
    channels = network.spec.input_shape[0]
    owed = 0  # multiply-accumulates of the original that nothing spends so far
    for at, part in enumerate(parts):
        leaves: int | None = None
        if part.dense is not None:
            leaves = _width(parts[at:], channels, owed, multiple)
        elif at == 0 and parts[1].dense is not None:
            leaves = _rounded(parts[1].dense.input_shape[0], multiple)
        made.append(part.entered_by(channels, leaves=leaves))
        owed += part.original.macs - made[-1].macs
        channels = made[-1].output_shape[0]
    return join(made)


def _parts(network: Network) -> list[_Part]:
    """The network in order: its blocks, and whatever stands before, between and after them."""
    spec, blocks = network.spec, network.blocks
    if not blocks:
        raise ShrinkError(no_blocks(network))
    parts, start = [], 0
    for block in blocks:
        if block.unmergeable:
            raise ShrinkError(
                f"block {block.index} ({block.name}) of {network.name} cannot become one "
                f"convolution ({block.unmergeable}); a dense counterpart is of a network all of "
                "whose blocks merge"
            )
        parts += _fixed(network, start, block.first)
        parts.append(_block_part(spec, block))
        start = block.last + 1
    return [*parts, *_fixed(network, start, len(spec.ops))]


def _block_part(spec: OpSpec, block: Block) -> _Part:
    original = part_of(spec, block.first, range(block.first, block.last + 1))
    return _Part(name=block.name, original=original, dense=dense_block(spec, block))


def _fixed(network: Network, first: int, stop: int) -> list[_Part]:
    if first == stop:
        return []
    layers = network.lowered.layers
    name = " .. ".join(dict.fromkeys((layers[first], layers[stop - 1])))
    return [_Part(name=name, original=part_of(network.spec, first, range(first, stop)))]


def _width(parts: Sequence[_Part], channels: int, owed: int, multiple: int) -> int:
    """The width of the first of these blocks, if the rest of its stage had the same.

    ``channels`` enter it; the stage's multiply-accumulates are to be the original's plus ``owed``.
    """
    count = next((n for n, part in enumerate(parts) if not parts[0].alike(part)), len(parts))
    stage = parts[:count]
    linear = stage[0].macs_per_pair() * channels
    square = sum(part.macs_per_pair() for part in stage[1:])
    budget = owed + sum(part.original.macs for part in stage)
    if count < len(parts) and parts[count].dense is None:
        # What follows is entered by this width too.
        was = stage[0].original.output_shape[0]
        more = parts[count].entered_by(was + multiple).macs - parts[count].original.macs
        linear += more // multiple
        budget += more * was // multiple
    budget = max(budget, 0)
    # The positive root in a form that holds without a square term.
    width = 2 * budget / (linear + math.sqrt(linear**2 + 4 * square * budget))
    return _rounded(width, multiple)


def _rounded(width: float, multiple: int) -> int:
    return max(multiple, round(width / multiple) * multiple)
