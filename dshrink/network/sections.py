"""A network's graph as a series of sections, each an operator or a fork with its join.

A section takes one tensor and gives one: whoever stands outside of it reads nothing else of it.
That holds of a branch of a section too, so branches are cut in the same way, down to operators:
the graph's series-parallel form, as far as it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from latency_tables.opspec import OpSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Operators ``ops`` (in order) that make one tensor of tensor ``enters`` alone."""

    enters: int
    ops: tuple[int, ...]

    @property
    def first(self) -> int:
        return self.ops[0]

    @property
    def last(self) -> int:
        """Its join, or the one operator that it is."""
        return self.ops[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """What a join reads: tensor ``result``, made by ``ops``; none where it is the fork's own."""

    result: int
    ops: tuple[int, ...]


def find_sections(spec: OpSpec) -> tuple[Section, ...]:
    """The sections of a whole network; each of them is numbered without gaps."""
    return in_series(spec, 0, range(len(spec.ops)))


def in_series(spec: OpSpec, enters: int, ops: Sequence[int]) -> tuple[Section, ...]:
    """Cut operators that read ``enters`` and each other wherever one tensor is read further on."""
    earliest = len(spec.ops)
    bounds = [len(ops)] if ops else []
    for at in range(len(ops) - 1, 0, -1):
        earliest = min(earliest, *spec.ops[ops[at]].inputs)
        if earliest > ops[at - 1]:
            bounds.append(at)
    found, start = [], 0
    for stop in reversed(bounds):
        found.append(Section(enters=enters, ops=tuple(ops[start:stop])))
        enters, start = ops[stop - 1] + 1, stop
    return tuple(found)


def two_branches(spec: OpSpec, section: Section) -> tuple[Branch, Branch] | None:
    """The two branches of a section, or None where these share operators, or are not two."""
    inside = set(section.ops[:-1])
    results = sorted(set(spec.ops[section.last].inputs))
    branches = [Branch(result=t, ops=_making(spec, t, inside)) for t in results]
    if len(branches) != 2 or sum(len(branch.ops) for branch in branches) != len(inside):
        return None
    one, other = branches
    return None if set(one.ops) & set(other.ops) else (one, other)


def _making(spec: OpSpec, result: int, among: Iterable[int]) -> tuple[int, ...]:
    """The operators among these that tensor ``result`` comes from, in order."""
    among, found, waiting = set(among), set[int](), [result - 1]
    while waiting:
        number = waiting.pop()
        if number in among and number not in found:
            found.add(number)
            waiting += (tensor - 1 for tensor in spec.ops[number].inputs)
    return tuple(sorted(found))


def part_of(spec: OpSpec, enters: int, ops: Sequence[int]) -> OpSpec:
    """These operators as a piece of their own; they read tensor ``enters`` and each other."""
    tensor = {enters: 0, **{n + 1: at for at, n in enumerate(ops, start=1)}}
    return OpSpec(
        input_shape=spec.shapes[enters],
        ops=tuple(
            replace(spec.ops[n], inputs=tuple(tensor[t] for t in spec.ops[n].inputs)) for n in ops
        ),
    )
