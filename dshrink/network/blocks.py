"""Building blocks found from a network's structure, not from the names of its classes.

The network is cut into sections (``sections.find_sections``): one operator, or a fork with its
join. A block is then one of

- a residual section: its join is an addition and it holds a convolution (a ResNet's bottleneck, an
  inverted residual with its skip), with the activation that directly follows, if any;
- a run ``[1x1 conv] -> depthwise conv -> 1x1 conv`` (inverted residual without skip, depthwise
  separable), squeeze-excite allowed inside, with the activation that directly follows, if any;
- a run ``dense k x k conv -> 1x1 conv`` whose second convolution is linear (fused MBConv);
- any other section that holds a convolution (DenseNet's dense block, a fire module's expansion, an
  inception module, a cross-stage section), squeeze-excite alone left out: it cannot merge, but it
  is measured as it is.

Where none of these is found, whatever forks and joins and computes, and every layer that dshrink
has no words for, is a block.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dshrink.errors import MergeError
from dshrink.merge.linear_graph import check_size, from_spec
from dshrink.network.sections import Section, find_sections, part_of
from latency_tables.masks import REMOVABLE
from latency_tables.opspec import Activation, Add, BatchNorm, Conv, Mul, Opaque, OpSpec, Pool


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


def find_blocks(spec: OpSpec, layers: Sequence[str]) -> tuple[Block, ...]:
    """The building blocks in order; ``layers`` names the operators."""
    sections = find_sections(spec)
    found = _spans_of_blocks(spec, sections) or [
        (at, at) for at, section in enumerate(sections) if _computes(spec, section)
    ]
    bounds = [(sections[at].first, sections[end].last) for at, end in found]
    names = _names(spec, layers, bounds)
    return tuple(
        _block(spec, layers, index, names[index], *bound) for index, bound in enumerate(bounds)
    )


def _spans_of_blocks(spec: OpSpec, sections: Sequence[Section]) -> list[tuple[int, int]]:
    """The first and the last section of each block."""
    found = []
    at = 0
    while at < len(sections):
        end = _match(spec, sections, at)
        if end is not None:
            found.append((at, end))
        at = at + 1 if end is None else end + 1
    return found


def _match(spec: OpSpec, sections: Sequence[Section], at: int) -> int | None:
    """The last section of the block that starts at section ``at``, or None."""
    section = sections[at]
    if section.first == section.last:
        return _match_run(spec, sections, at)
    holds_conv = any(isinstance(spec.ops[n], Conv) for n in section.ops)
    return (
        _with_activation(spec, sections, at) if holds_conv and not _gates(spec, section) else None
    )


def _gates(spec: OpSpec, section: Section) -> bool:
    """Whether a section is squeeze-excite: it scales its channels, whatever the position."""
    join = spec.ops[section.last]
    shapes = [spec.shapes[tensor] for tensor in join.inputs]
    return isinstance(join, Mul) and any(shape[1:] == (1, 1) for shape in shapes)


def _computes(spec: OpSpec, section: Section) -> bool:
    if section.first == section.last and not isinstance(spec.ops[section.first], Opaque):
        return False
    shapes = spec.shapes
    return any(spec.ops[n].macs([shapes[t] for t in spec.ops[n].inputs]) for n in section.ops)


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


def _block(
    spec: OpSpec, layers: Sequence[str], index: int, name: str, first: int, last: int
) -> Block:
    numbers = range(first, last + 1)
    ends_active = isinstance(spec.ops[last], Activation)
    inner = [n for n in numbers if isinstance(spec.ops[n], Activation) and n != last]
    return Block(
        index=index,
        name=name,
        first=first,
        last=last,
        convolutions=_convolutions(spec, layers, first, last),
        inner_activations=tuple(layers[n] for n in inner),
        inner_numbers=tuple(inner),
        end_activation=layers[last] if ends_active else None,
        unmergeable=why_unmergeable(spec, layers, numbers)
        or _why_no_convolution(spec, layers, range(first, last + (not ends_active)), inner),
    )


def _why_no_convolution(
    spec: OpSpec, layers: Sequence[str], numbers: range, removed: Sequence[int]
) -> str | None:
    """Why affine operators add up to no one convolution that can be made, or None."""
    part = part_of(spec, numbers[0], numbers)
    names = [layers[n] for n in numbers]
    try:
        check_size(from_spec(part, names=names, removed=[n - numbers[0] for n in removed]))
    except MergeError as error:
        return str(error)
    return None


def _convolutions(spec: OpSpec, layers: Sequence[str], first: int, last: int) -> tuple[str, ...]:
    return tuple(layers[n] for n in range(first, last + 1) if isinstance(spec.ops[n], Conv))


def _names(spec: OpSpec, layers: Sequence[str], bounds: Sequence[tuple[int, int]]) -> list[str]:
    """A name for each block: the module that holds it, its ends where that holds several."""
    held = [_convolutions(spec, layers, *ends) or layers[ends[0] : ends[1] + 1] for ends in bounds]
    names = [_common_path(inside) for inside in held]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return [
        "..".join(dict.fromkeys((inside[0], inside[-1]))) if name in shared else name
        for name, inside in zip(names, held, strict=True)
    ]


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
        affine = isinstance(op, Activation | Conv | BatchNorm | Add) or is_plain_average(spec, n)
        if not affine:
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
