"""The chain of convolutions along a network's trunk: positions, skips, hard breaks, valid spans.

Positions number the convolutions 1..L as in Kim et al. (ICML 2023); a span (i, j] stands for the
convolutions i+1..j. What comes before the first block on the trunk, and after the last one, takes
no part (without such a block, every convolution does). It reads an ``OpSpec``, not torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from dshrink.errors import DshrinkError
from dshrink.network.blocks import Block
from dshrink.network.trunk import FixedPart, Item, Join, Step, make_trunk
from latency_tables.masks import REMOVABLE
from latency_tables.opspec import Activation, Conv, OpSpec, Shape
from latency_tables.span_masks import ACTIVE, LINEAR, SpanChain

SPAN_MODES = ("exact", "kim2023")


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """A residual from after position ``start`` to after ``end``.

    Operator ``op`` adds tensor ``shortcut``, which comes from the trunk's tensor ``fork``, through
    layers of its own where the two differ, to tensor ``main``.
    """

    op: int
    start: int
    end: int
    fork: int
    shortcut: int
    main: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConv:
    """A convolution on the trunk. ``position`` is None in the stem and the head.

    After it, up to the next one, come: residual ``additions``, an activation (its function, and
    its operator's number), and the operators ``after`` that, which no span changes (the head's
    after the last position), later additions left out. ``break_after`` says why nothing merges
    across this place, or is None.
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
    """The trunk of a network: its convolutions, and what of it no span changes.

    ``stem`` are the operators before position 1; ``fixed`` parts join tensors by something else
    than a residual addition, so that no convolution in them is on the trunk.
    """

    convs: tuple[ChainConv, ...]
    additions: tuple[Addition, ...]
    blocks: tuple[Block, ...]
    stem: tuple[int, ...] = ()
    fixed: tuple[FixedPart, ...] = ()

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
    numbers = _convolutions(spec, make_trunk(spec, layers))
    inside = _body(spec, numbers, blocks)
    position = {n: at for at, n in enumerate(inside, start=1)}
    trunk = make_trunk(spec, layers, inside)
    numbers = _convolutions(spec, trunk)
    owner = {n: block.index for block in blocks for n in range(block.first, block.last + 1)}
    additions = _additions(spec, trunk, position)
    at = {item.op: place for place, item in enumerate(trunk) if isinstance(item, Step)}
    convs = []
    for n in numbers:
        # Between two positions everything stays, convolutions that are none included.
        marks = inside if n in position else numbers
        stop = next((at[m] for m in marks if m > n), len(trunk))
        behind = trunk[at[n] + 1 : stop]
        op = spec.ops[n]
        assert isinstance(op, Conv)
        added, activation, rest = _behind(spec, behind, additions)
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
                after=_operators(rest),
                break_after=_break(spec, layers, behind),
            )
        )
    return Chain(
        convs=tuple(convs),
        additions=tuple(additions.values()),
        blocks=blocks,
        stem=_operators(trunk[: at[inside[0]]]) if inside else (),
        fixed=tuple(item for item in trunk if isinstance(item, FixedPart)),
    )


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


def _convolutions(spec: OpSpec, trunk: Sequence[Item]) -> list[int]:
    steps = [item.op for item in trunk if isinstance(item, Step)]
    return [n for n in steps if isinstance(spec.ops[n], Conv)]


def _operators(items: Sequence[Item]) -> tuple[int, ...]:
    """What they are made of, additions left out."""
    found: list[int] = []
    for item in items:
        if isinstance(item, FixedPart):
            found += item.ops
        elif isinstance(item, Step):
            found.append(item.op)
    return tuple(found)


def _body(spec: OpSpec, numbers: Sequence[int], blocks: Sequence[Block]) -> list[int]:
    """The convolutions of the trunk that take part.

    From the first block that holds one to the last, or all that give a map where none does. A
    convolution that gives a single position is a linear layer in disguise (timm's VGG head).
    """
    holding = [b for b in blocks if any(b.first <= n <= b.last for n in numbers)]
    if holding:
        return [n for n in numbers if holding[0].first <= n <= holding[-1].last]
    return [n for n in numbers if spec.shapes[n + 1][1:] != (1, 1)]


def _behind(
    spec: OpSpec, behind: Sequence[Item], additions: Mapping[int, Addition]
) -> tuple[tuple[Addition, ...], int | None, Sequence[Item]]:
    """The additions directly after a convolution, the activation after them, and the rest."""
    joins = takewhile(lambda item: isinstance(item, Join), behind)
    added = tuple(additions[item.op] for item in joins if isinstance(item, Join))
    rest = behind[len(added) :]
    if rest and isinstance(rest[0], Step) and isinstance(spec.ops[rest[0].op], Activation):
        return added, rest[0].op, rest[1:]
    return added, None, rest


def _function(spec: OpSpec, number: int | None) -> str | None:
    op = None if number is None else spec.ops[number]
    return op.function if isinstance(op, Activation) else None


def _break(spec: OpSpec, layers: Sequence[str], behind: Sequence[Item]) -> str | None:
    for item in behind:
        if isinstance(item, FixedPart):
            return item.reason
        op = spec.ops[item.op]
        if isinstance(op, Activation) and op.function not in REMOVABLE:
            return f"{layers[item.op]}: {op.function}"
        if isinstance(item, Step) and not isinstance(op, Activation):
            return f"{layers[item.op]}: {getattr(op, 'operator', op.kind)}"
    return None


def _additions(
    spec: OpSpec, trunk: Sequence[Item], position: Mapping[int, int]
) -> dict[int, Addition]:
    """The additions on the trunk by their number."""
    seen = 0
    behind = {0: 0}  # tensor on the trunk -> positions passed when it exists
    found = {}
    for item in trunk:
        last = item.ops[-1] if isinstance(item, FixedPart) else item.op
        seen = max(seen, position.get(last, 0))
        behind[last + 1] = seen
        if isinstance(item, Join):
            (main,) = {*spec.ops[item.op].inputs} - {item.shortcut}
            found[item.op] = Addition(
                op=item.op,
                start=behind[item.fork],
                end=seen,
                fork=item.fork,
                shortcut=item.shortcut,
                main=main,
            )
    return found
