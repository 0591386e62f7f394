"""The chain of convolutions along a network's trunk: positions, skips, hard breaks, valid spans.

Positions number the convolutions 1..L as in Kim et al. (ICML 2023); a span (i, j] stands for the
convolutions i+1..j. The stem before the first block and the head behind the last one take no part
(in a network without blocks, every convolution does). It reads an ``OpSpec``, not torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dshrink.blocks import REMOVABLE, Block, Segment, find_blocks, find_segments
from dshrink.errors import DshrinkError
from latency_tables.opspec import Activation, Add, Conv, OpSpec, Shape

SPAN_MODES = ("exact", "kim2023")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConv:
    """A convolution on the trunk. ``position`` is None in the stem and the head.

    ``break_after`` says why nothing merges across the place behind it, or is None.
    """

    op: int
    name: str
    conv: Conv
    in_shape: Shape
    out_shape: Shape
    position: int | None
    block: int | None
    activation: str | None
    break_after: str | None


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The trunk of a network; ``skips`` are pairs (p, q): a residual from behind p to behind q."""

    convs: tuple[ChainConv, ...]
    skips: tuple[tuple[int, int], ...]
    blocks: tuple[Block, ...]

    @property
    def length(self) -> int:
        """L, the number of positions."""
        return sum(conv.position is not None for conv in self.convs)

    def hard_breaks(self, mode: str = "exact") -> dict[int, str]:
        """Position to the reason why no span crosses it.

        ``kim2023`` also breaks after the convolution that follows a strided one.
        """
        if mode not in SPAN_MODES:
            raise DshrinkError(f"unknown span mode {mode!r}; known: {', '.join(SPAN_MODES)}")
        body = [conv for conv in self.convs if conv.position is not None]
        breaks = {c.position: c.break_after for c in body if c.position and c.break_after}
        if mode == "kim2023":
            for before, conv in pairwise(body):
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
        spans = []
        for i in range(self.length):
            for j in range(i + 1, self.length + 1):
                if not any(i < p < j < q or p < i < q < j for p, q in self.skips):
                    spans.append((i, j))
                if j in breaks:
                    break
        return spans


def make_chain(spec: OpSpec, layers: Sequence[str]) -> Chain:
    """The chain of a lowered network."""
    blocks = find_blocks(spec, layers)
    segments = find_segments(spec)
    trunk = [n for segment in segments for n in _trunk(spec, segment)]
    numbers = [n for n in trunk if isinstance(spec.ops[n], Conv)]
    inside = _body(spec, numbers, blocks)
    position = {n: at for at, n in enumerate(inside, start=1)}
    owner = {n: block.index for block in blocks for n in range(block.first, block.last + 1)}
    forks = _unsupported_forks(spec, segments)
    convs = []
    for at, n in enumerate(numbers):
        follow = numbers[at + 1] if at + 1 < len(numbers) else len(spec.ops)
        between = [m for m in trunk if n < m < follow]
        op = spec.ops[n]
        assert isinstance(op, Conv)
        convs.append(
            ChainConv(
                op=n,
                name=layers[n],
                conv=op,
                in_shape=spec.shapes[op.inputs[0]],
                out_shape=spec.shapes[n + 1],
                position=position.get(n),
                block=owner.get(n),
                activation=_activation(spec, between),
                break_after=forks.get(n) or _break(spec, layers, between),
            )
        )
    return Chain(convs=tuple(convs), skips=_skips(spec, trunk, position), blocks=blocks)


def _body(spec: OpSpec, numbers: Sequence[int], blocks: Sequence[Block]) -> list[int]:
    """The convolutions that take part: from the first block to the last, or all that give a map.

    A convolution that gives a single position is a linear layer in disguise (timm's VGG head).
    """
    if blocks:
        return [n for n in numbers if blocks[0].first <= n <= blocks[-1].last]
    return [n for n in numbers if spec.shapes[n + 1][1:] != (1, 1)]


def _trunk(spec: OpSpec, segment: Segment) -> list[int]:
    """The path of a segment with the most convolutions, then the most operators."""
    best: dict[int, tuple[int, int, list[int]]] = {}
    for n in range(segment.first, segment.last + 1):
        op = spec.ops[n]
        before = [best[t] for t in op.inputs if t in best] or [(0, 0, [])]
        convs, length, path = max(before, key=lambda entry: entry[:2])
        best[n + 1] = (convs + isinstance(op, Conv), length + 1, [*path, n])
    return best[segment.last + 1][2]


def _activation(spec: OpSpec, between: Sequence[int]) -> str | None:
    for n in between:
        op = spec.ops[n]
        if isinstance(op, Activation):
            return op.function
    return None


def _break(spec: OpSpec, layers: Sequence[str], between: Sequence[int]) -> str | None:
    for n in between:
        op = spec.ops[n]
        if isinstance(op, Activation) and op.function not in REMOVABLE:
            return f"{layers[n]}: {op.function}"
        if not isinstance(op, Activation | Add):
            return f"{layers[n]}: {getattr(op, 'operator', op.kind)}"
    return None


def _unsupported_forks(spec: OpSpec, segments: Sequence[Segment]) -> dict[int, str]:
    """Convolutions in segments that join by anything else than an addition."""
    found = {}
    for segment in segments:
        join = spec.ops[segment.last]
        if segment.first == segment.last or isinstance(join, Add):
            continue
        for n in range(segment.first, segment.last):
            found[n] = f"tensor used twice, joined by {join.kind}"
    return found


def _skips(
    spec: OpSpec, trunk: Sequence[int], position: dict[int, int]
) -> tuple[tuple[int, int], ...]:
    """Positions between which an addition on the trunk carries a tensor past the convolutions."""
    seen = 0
    behind = {0: 0}  # tensor on the trunk -> positions passed when it exists
    skips = set()
    for n in trunk:
        seen = max(seen, position.get(n, 0))
        behind[n + 1] = seen
        if isinstance(spec.ops[n], Add):
            source = min(_source(spec, tensor, behind) for tensor in spec.ops[n].inputs)
            skips.add((source, seen))
    return tuple(sorted(skip for skip in skips if skip[0] < skip[1]))


def _source(spec: OpSpec, tensor: int, behind: dict[int, int]) -> int:
    """Positions passed at the trunk tensor that ``tensor`` comes from (through a projection)."""
    while tensor not in behind:
        tensor = spec.ops[tensor - 1].inputs[0]
    return behind[tensor]
