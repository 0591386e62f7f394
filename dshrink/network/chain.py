"""The chain of convolutions along a network's trunk: positions, skips, hard breaks, valid spans.

Positions number the convolutions 1..L as in Kim et al. (ICML 2023); a span (i, j] stands for the
convolutions i+1..j. The stem before the first block and the head after the last one take no part
(in a network without blocks, every convolution does). It reads an ``OpSpec``, not torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from dshrink.errors import DshrinkError
from dshrink.network.blocks import Block, Section, find_sections
from latency_tables.masks import REMOVABLE
from latency_tables.opspec import Activation, Add, Conv, OpSpec, Shape
from latency_tables.span_masks import ACTIVE, LINEAR, SpanChain

SPAN_MODES = ("exact", "kim2023")


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """A residual from after position ``start`` to after ``end``.

    Operator ``op`` adds tensor ``shortcut``, which comes from the trunk's tensor ``fork``, through
    layers of its own where the two differ.
    """

    op: int
    start: int
    end: int
    fork: int
    shortcut: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConv:
    """A convolution on the trunk. ``position`` is None in the stem and the head.

    After it, up to the next one, come: residual ``additions``, an activation (its function, and
    its operator's number), and the operators ``after`` that, which no span changes. ``break_after``
    says why nothing merges across this place, or is None.
    """

    op: int
    name: str
    conv: Conv
    in_shape: Shape
    out_shape: Shape
    position: int | None
    block: int | None
    additions: tuple[Addition, ...]
    activation: str | None
    activation_op: int | None
    after: tuple[int, ...]
    break_after: str | None

    @property
    def linear(self) -> int:
        """The tensor after the convolution and its additions, before the activation."""
        return (self.additions[-1].op if self.additions else self.op) + 1

    @property
    def end(self) -> int:
        """The tensor after its activation."""
        return self.linear if self.activation_op is None else self.activation_op + 1


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The trunk of a network, from its first convolution to its last."""

    convs: tuple[ChainConv, ...]
    additions: tuple[Addition, ...]
    blocks: tuple[Block, ...]

    @property
    def skips(self) -> tuple[tuple[int, int], ...]:
        """Pairs (p, q): a residual from behind p to behind q."""
        return tuple(sorted({(a.start, a.end) for a in self.additions}))

    @property
    def body(self) -> tuple[ChainConv, ...]:
        """The convolutions that take part, position 1 first."""
        return tuple(conv for conv in self.convs if conv.position is not None)

    @property
    def length(self) -> int:
        """L, the number of positions."""
        return len(self.body)

    def hard_breaks(self, mode: str = "exact") -> dict[int, str]:
        """Position to the reason why no span crosses it.

        ``kim2023`` also breaks after the convolution that follows a strided one.
        """
        if mode not in SPAN_MODES:
            raise DshrinkError(f"unknown span mode {mode!r}; known: {', '.join(SPAN_MODES)}")
        breaks = {c.position: c.break_after for c in self.body if c.position and c.break_after}
        if mode == "kim2023":
            for before, conv in pairwise(self.body):
                if max(before.conv.stride) > 1 and conv.position is not None:
                    breaks.setdefault(conv.position, f"{before.name}: strided")
        breaks.pop(self.length, None)
        return breaks

    def spans(self, mode: str = "exact") -> list[tuple[int, int]]:
        """All valid spans (i, j], sorted.

        A span crosses no hard break, and its ends lie on one side of every skip p -> q: neither
        i < p < j < q nor p < i < q < j.
        """
        breaks = self.hard_breaks(mode)
        length, skips = self.length, self.skips
        spans = []
        for i in range(length):
            for j in range(i + 1, length + 1):
                if not any(i < p < j < q or p < i < q < j for p, q in skips):
                    spans.append((i, j))
                if j in breaks:
                    break
        return spans


def make_chain(spec: OpSpec, layers: Sequence[str], blocks: tuple[Block, ...]) -> Chain:
    """The chain of a lowered network with these building blocks (``find_blocks``)."""
    sections = find_sections(spec)
    trunk = [n for section in sections for n in _trunk(spec, section)]
    numbers = [n for n in trunk if isinstance(spec.ops[n], Conv)]
    inside = _body(spec, numbers, blocks)
    position = {n: at for at, n in enumerate(inside, start=1)}
    owner = {n: block.index for block in blocks for n in range(block.first, block.last + 1)}
    forks = _unsupported_forks(spec, sections)
    additions = _additions(spec, trunk, position)
    convs = []
    for at, n in enumerate(numbers):
        follow = numbers[at + 1] if at + 1 < len(numbers) else len(spec.ops)
        between = [m for m in trunk if n < m < follow]
        op = spec.ops[n]
        assert isinstance(op, Conv)
        added, activation, after = _behind(spec, between, additions)
        convs.append(
            ChainConv(
                op=n,
                name=layers[n],
                conv=op,
                in_shape=spec.shapes[op.inputs[0]],
                out_shape=spec.shapes[n + 1],
                position=position.get(n),
                block=owner.get(n),
                additions=added,
                activation=_function(spec, activation),
                activation_op=activation,
                after=after,
                break_after=forks.get(n) or _break(spec, layers, between),
            )
        )
    return Chain(convs=tuple(convs), additions=tuple(additions.values()), blocks=blocks)


def span_chain(chain: Chain) -> SpanChain:
    """The chain as plain data: names, the original network's span mask, skips, block ends.

    A skip past a single convolution is none of its skips: every span with that convolution
    swallows it, even the layer by itself.
    """
    last = {conv.block: conv.position for conv in chain.body if conv.position is not None}
    return SpanChain(
        convolutions=tuple(conv.name for conv in chain.body),
        mask="".join(LINEAR if conv.activation_op is None else ACTIVE for conv in chain.body),
        skips=tuple((p, q) for p, q in chain.skips if q > p + 1),
        block_ends=tuple(at for block, at in last.items() if block is not None),
    )


def _body(spec: OpSpec, numbers: Sequence[int], blocks: Sequence[Block]) -> list[int]:
    """The convolutions that take part: from the first block to the last, or all that give a map.

    A convolution that gives a single position is a linear layer in disguise (timm's VGG head).
    """
    if blocks:
        return [n for n in numbers if blocks[0].first <= n <= blocks[-1].last]
    return [n for n in numbers if spec.shapes[n + 1][1:] != (1, 1)]


def _trunk(spec: OpSpec, section: Section) -> list[int]:
    """The path of a section with the most convolutions, then the most operators."""
    best: dict[int, tuple[int, int, list[int]]] = {}
    for n in range(section.first, section.last + 1):
        op = spec.ops[n]
        before = [best[t] for t in op.inputs if t in best] or [(0, 0, [])]
        convs, length, path = max(before, key=lambda entry: entry[:2])
        best[n + 1] = (convs + isinstance(op, Conv), length + 1, [*path, n])
    return best[section.last + 1][2]


def _behind(
    spec: OpSpec, between: Sequence[int], additions: Mapping[int, Addition]
) -> tuple[tuple[Addition, ...], int | None, tuple[int, ...]]:
    """The additions directly after a convolution, the activation after them, and the rest."""
    added = tuple(additions[n] for n in takewhile(additions.__contains__, between))
    rest = between[len(added) :]
    if rest and isinstance(spec.ops[rest[0]], Activation):
        return added, rest[0], tuple(rest[1:])
    return added, None, tuple(rest)


def _function(spec: OpSpec, number: int | None) -> str | None:
    op = None if number is None else spec.ops[number]
    return op.function if isinstance(op, Activation) else None


def _break(spec: OpSpec, layers: Sequence[str], between: Sequence[int]) -> str | None:
    for n in between:
        op = spec.ops[n]
        if isinstance(op, Activation) and op.function not in REMOVABLE:
            return f"{layers[n]}: {op.function}"
        if not isinstance(op, Activation | Add):
            return f"{layers[n]}: {getattr(op, 'operator', op.kind)}"
    return None


def _unsupported_forks(spec: OpSpec, sections: Sequence[Section]) -> dict[int, str]:
    """Convolutions in sections that join by anything else than an addition."""
    found = {}
    for section in sections:
        join = spec.ops[section.last]
        if section.first == section.last or isinstance(join, Add):
            continue
        for n in range(section.first, section.last):
            found[n] = f"tensor used twice, joined by {join.kind}"
    return found


def _additions(
    spec: OpSpec, trunk: Sequence[int], position: Mapping[int, int]
) -> dict[int, Addition]:
    """The additions on the trunk that carry a tensor past convolutions, by their number."""
    seen = 0
    behind = {0: 0}  # tensor on the trunk -> positions passed when it exists
    found = {}
    for n in trunk:
        seen = max(seen, position.get(n, 0))
        behind[n + 1] = seen
        if isinstance(spec.ops[n], Add):
            forks = {tensor: _fork(spec, tensor, behind) for tensor in spec.ops[n].inputs}
            shortcut, fork = min(forks.items(), key=lambda entry: behind[entry[1]])
            start = behind[fork]
            if start < seen:
                found[n] = Addition(op=n, start=start, end=seen, fork=fork, shortcut=shortcut)
    return found


def _fork(spec: OpSpec, tensor: int, behind: Mapping[int, int]) -> int:
    """The trunk's tensor that ``tensor`` comes from (through a projection)."""
    while tensor not in behind:
        tensor = spec.ops[tensor - 1].inputs[0]
    return tensor
