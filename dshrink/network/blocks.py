"""Building blocks found from a network's structure, not from the names of its classes.

The network is cut wherever a single tensor carries everything on. Between two cuts is a
section: one operator, or a fork with its join. A block is then one of

- a residual section: its join is an addition and it holds a convolution (a ResNet's bottleneck, an
  inverted residual with its skip), with the activation that directly follows, if any;
- a run ``[1x1 conv] -> depthwise conv -> 1x1 conv`` (inverted residual without skip, depthwise
  separable), squeeze-excite allowed inside, with the activation that directly follows, if any;
- a run ``dense k x k conv -> 1x1 conv`` whose second convolution is linear (fused MBConv).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from latency_tables.masks import REMOVABLE
from latency_tables.opspec import Activation, Add, Conv, Mul, OpSpec, Pool


@dataclass(frozen=True, slots=True)
class Section:
    """Operators ``first`` to ``last`` between two tensors that alone carry everything on."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Operators ``first`` to ``last`` (numbers in the spec, both included) of one building block.

    ``inner_activations`` (operators ``inner_numbers``) disappear when the block is shrunk;
    ``end_activation`` directly follows the block's result and stays. ``unmergeable`` names the
    layer and the reason, or is None.
    """

    index: int
    name: str
    first: int
    last: int
    convolutions: tuple[str, ...]
    inner_activations: tuple[str, ...]
    inner_numbers: tuple[int, ...]
    end_activation: str | None
    unmergeable: str | None

    @property
    def body_last(self) -> int:
        """The last operator that merges: an end activation stays after the merged convolution."""
        return self.last - (self.end_activation is not None)


def find_sections(spec: OpSpec) -> tuple[Section, ...]:
    """Cut the operators wherever only one tensor is read further on."""
    earliest = len(spec.ops)
    cuts = []
    for number in range(len(spec.ops) - 1, 0, -1):
        earliest = min(earliest, *spec.ops[number].inputs)
        if earliest >= number:
            cuts.append(number)
    bounds = [0, *reversed(cuts), len(spec.ops)]
    return tuple(Section(a, b - 1) for a, b in itertools.pairwise(bounds))


def find_blocks(spec: OpSpec, layers: Sequence[str]) -> tuple[Block, ...]:
    """The building blocks in order; ``layers`` names the operators."""
    sections = find_sections(spec)
    blocks: list[Block] = []
    at = 0
    while at < len(sections):
        end = _match(spec, sections, at)
        if end is None:
            at += 1
            continue
        blocks.append(_block(spec, layers, len(blocks), sections[at].first, sections[end].last))
        at = end + 1
    return tuple(blocks)


def _match(spec: OpSpec, sections: Sequence[Section], at: int) -> int | None:
    """The last section of the block that starts at section ``at``, or None."""
    section = sections[at]
    if section.first != section.last:
        residual = isinstance(spec.ops[section.last], Add)
        holds_conv = any(isinstance(op, Conv) for op in spec.ops[section.first : section.last])
        return _with_activation(spec, sections, at) if residual and holds_conv else None
    return _match_run(spec, sections, at)


def _match_run(spec: OpSpec, sections: Sequence[Section], at: int) -> int | None:
    start, first = at, _conv_at(spec, sections, at)
    if first is None:
        return None
    spatial = at
    if first.is_pointwise:
        spatial = _skip_activations(spec, sections, at + 1)
    middle = _conv_at(spec, sections, spatial)
    if middle is None or middle.kernel == (1, 1):
        return None
    channels = spec.shapes[middle.inputs[0]][0]
    depthwise = middle.groups == channels > 1
    if not depthwise and spatial != start:
        return None
    project = _skip_activations(spec, sections, spatial + 1, gates=True)
    last = _conv_at(spec, sections, project)
    if last is None or not last.is_pointwise:
        return None
    end = _with_activation(spec, sections, project)
    return end if depthwise or end == project else None


def _conv_at(spec: OpSpec, sections: Sequence[Section], at: int) -> Conv | None:
    if at >= len(sections) or sections[at].first != sections[at].last:
        return None
    op = spec.ops[sections[at].first]
    return op if isinstance(op, Conv) else None


def _skip_activations(
    spec: OpSpec, sections: Sequence[Section], at: int, *, gates: bool = False
) -> int:
    """The first section from ``at`` on that is no activation (and, with ``gates``, no product)."""
    while at < len(sections):
        op = spec.ops[sections[at].last]
        if not (isinstance(op, Activation) or (gates and isinstance(op, Mul))):
            break
        at += 1
    return at


def _with_activation(spec: OpSpec, sections: Sequence[Section], at: int) -> int:
    follows = at + 1 < len(sections) and isinstance(spec.ops[sections[at + 1].first], Activation)
    return at + 1 if follows else at


def _block(spec: OpSpec, layers: Sequence[str], index: int, first: int, last: int) -> Block:
    numbers = range(first, last + 1)
    convolutions = tuple(layers[n] for n in numbers if isinstance(spec.ops[n], Conv))
    ends_active = isinstance(spec.ops[last], Activation)
    inner = [n for n in numbers if isinstance(spec.ops[n], Activation) and n != last]
    return Block(
        index=index,
        name=_common_path(convolutions),
        first=first,
        last=last,
        convolutions=convolutions,
        inner_activations=tuple(layers[n] for n in inner),
        inner_numbers=tuple(inner),
        end_activation=layers[last] if ends_active else None,
        unmergeable=why_unmergeable(spec, layers, numbers),
    )


def _common_path(names: Sequence[str]) -> str:
    """The module that holds all these layers: ``blocks.1.0`` for ``blocks.1.0.conv_pw``, ..."""
    if len(names) == 1:
        return names[0].rpartition(".")[0] or names[0]
    levels = zip(*(name.split(".") for name in names), strict=False)
    parts = [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]
    return ".".join(parts) or f"{names[0]}..{names[-1]}"


def why_unmergeable(spec: OpSpec, layers: Sequence[str], numbers: Sequence[int]) -> str | None:
    """Why these operators make no single convolution, or None; an activation may end them."""
    for n in numbers:
        if isinstance(spec.ops[n], Mul):
            return f"{layers[n]}: squeeze-excite multiplies two tensors, which is not linear"
    for n in numbers:
        op = spec.ops[n]
        if isinstance(op, Activation) and n != numbers[-1] and op.function not in REMOVABLE:
            return (
                f"{layers[n]}: activation {op.function} is not removed "
                f"(only {' and '.join(REMOVABLE)} are)"
            )
        if not isinstance(op, Activation | Conv | Add) and not is_plain_average(spec, n):
            kind = getattr(op, "operator", op.kind)
            return f"{layers[n]}: {kind} does not merge into a convolution"
    return None


def is_plain_average(spec: OpSpec, number: int) -> bool:
    """Whether an operator averages windows that see no pad: a convolution with equal weights."""
    op = spec.ops[number]
    if not isinstance(op, Pool) or op.function != "average" or any(op.pads):
        return False
    inputs = [spec.shapes[tensor] for tensor in op.inputs]
    return replace(op, ceil=False).output_shape(inputs) == spec.shapes[number + 1]
