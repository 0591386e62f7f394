"""The trunk of a network: what stands in one line from its image to its result.

A section that an addition joins opens into its main branch and the addition, with the other branch
as the shortcut, and so do the sections inside that branch. Whatever else joins tensors (a concat, a
product, an addition past no convolution) stays one fixed part: nothing in it merges by itself, but
it is measured as it is and the rest of the network goes on behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dshrink.network.sections import Branch, Section, find_sections, in_series, two_branches
from latency_tables.opspec import Add, Conv, Opaque, OpSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operator, with one input."""

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Addition ``op`` of tensor ``shortcut`` to the trunk; it comes from the tensor ``fork``.

    ``convs`` is how many positions it carries that past.
    """

    op: int
    fork: int
    shortcut: int
    convs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPart:
    """Operators ``ops`` that no span changes, as one; ``reason`` names the layer that joins."""

    ops: tuple[int, ...]
    reason: str


Item: TypeAlias = Step | Join | FixedPart


def make_trunk(
    spec: OpSpec, layers: Sequence[str], positions: Collection[int] | None = None
) -> tuple[Item, ...]:
    """The trunk in order. ``positions`` are the convolutions that count; all if not given."""
    if positions is None:
        positions = {n for n, op in enumerate(spec.ops) if isinstance(op, Conv)}
    opening = _Opening(spec, layers, frozenset(positions))
    return tuple(item for section in find_sections(spec) for item in opening.items(section))


@dataclass(frozen=True, slots=True)
class _Opening:
    spec: OpSpec
    layers: Sequence[str]
    positions: frozenset[int]

    def items(self, section: Section) -> list[Item]:
        if section.first == section.last:
            return [Step(op=section.first)]
        name, join = self.layers[section.last], self.spec.ops[section.last]
        if not isinstance(join, Add):
            kind = join.operator if isinstance(join, Opaque) else join.kind
            return self._fixed(section, f"{name} joins tensors by {kind}")
        branches = two_branches(self.spec, section)
        if branches is None:
            return self._fixed(section, f"{name} adds branches that share layers")
        main, shortcut = sorted(
            ((self._line(section, branch), branch) for branch in branches),
            key=lambda entry: self._rank(entry[0]),
            reverse=True,
        )
        items, convs = main[0], self._count(main[0])
        if reason := self._why_fixed(section, items, convs):
            return self._fixed(section, f"{name} {reason}")
        joined = Join(
            op=section.last, fork=section.enters, shortcut=shortcut[1].result, convs=convs
        )
        return [*items, joined]

    def _line(self, section: Section, branch: Branch) -> list[Item]:
        inner = in_series(self.spec, section.enters, branch.ops)
        return [item for part in inner for item in self.items(part)]

    def _convs(self, items: Sequence[Item]) -> Iterator[Conv]:
        for item in items:
            op = self.spec.ops[item.op] if isinstance(item, Step) else None
            if isinstance(item, Step) and isinstance(op, Conv) and item.op in self.positions:
                yield op

    def _count(self, items: Sequence[Item]) -> int:
        return sum(1 for _ in self._convs(items))

    def _rank(self, items: Sequence[Item]) -> tuple[int, int, int]:
        """The main branch has the most convolutions, then the largest kernel, then most else."""
        kernels = [conv.kernel[0] * conv.kernel[1] for conv in self._convs(items)]
        return len(kernels), max(kernels, default=0), len(items)

    def _why_fixed(self, section: Section, main: Sequence[Item], convs: int) -> str:
        """Why an addition is none of spans, or an empty text.

        What is added past one convolution is part of that layer's own piece, so nothing else may
        stand beside that; additions past the same convolutions share one piece of one input shape.
        """
        if not convs:
            return "adds branches without a convolution to merge"
        if convs == 1 and not (
            isinstance(main[0], Step)
            and main[0].op in self.positions
            and all(isinstance(item, Join) for item in main[1:])
        ):
            return "adds past one convolution and more"
        for item in main:
            if isinstance(item, Join) and item.convs == convs:
                shapes = self.spec.shapes[item.fork], self.spec.shapes[section.enters]
                if shapes[0] != shapes[1]:
                    return "is one of several additions past the same convolutions"
        return ""

    def _fixed(self, section: Section, reason: str) -> list[Item]:
        return [FixedPart(ops=section.ops, reason=reason)]
