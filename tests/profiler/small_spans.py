"""A small chain of convolutions cut into spans, with skips and a break, and what it costs."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import small_network
from small_network import conv, relu6

from latency_tables.opspec import (
    Activation,
    Add,
    Conv,
    Flatten,
    GlobalPool,
    Linear,
    Op,
    OpSpec,
    Pool,
    Shape,
)
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.places import Place
from latency_tables.span_masks import ACTIVE, SpanChain, mask_spans
from profiler.fake_device import FakeConnection
from profiler.profile import Profile, ProfileRequest, profile
from profiler.scheduling.serial import SerialScheduler
from profiler.session import Progress

LENGTH = 9
CHANNELS = 8
SIZE = 12
#: A skip around 2 and 3, one around 5 and 6; pooling behind 7, where nothing merges across.
SKIPS = ((1, 3), (4, 6))
BREAK = 7
MASK = "1|1111|11"
#: A span of this kernel or a larger one is far slower than its layers.
SLOW_KERNEL = 13
POOL = Pool(inputs=(0,), function="max", kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1))
STEM: tuple[Op, ...] = (conv(0, CHANNELS, 3), relu6(1))
HEAD: tuple[Op, ...] = (
    GlobalPool(inputs=(0,)),
    Flatten(inputs=(1,)),
    Linear(inputs=(2,), out_features=10),
)


def is_valid(i: int, j: int) -> bool:
    """Kim et al.: no break inside, and no skip that the span cuts through."""
    return not i < BREAK < j and all(not i < p < j < q and not p < i < q < j for p, q in SKIPS)


def span_ops(i: int, j: int) -> tuple[Op, ...]:
    """One convolution and its activation; spans of as many convolutions are equal pieces."""
    return conv(0, CHANNELS, 2 * (j - i) + 1), relu6(1)


def inner(ops: tuple[Op, ...]) -> OpSpec:
    return OpSpec(input_shape=(CHANNELS, SIZE, SIZE), ops=ops)


ADDITION = inner((Add(inputs=(0, 0)),))


def span_pieces() -> NetworkPieces:
    spans = [(i, j) for i in range(LENGTH) for j in range(i + 1, LENGTH + 1) if is_valid(i, j)]
    stem = OpSpec(input_shape=(3, SIZE, SIZE), ops=STEM)
    return NetworkPieces(
        model="chain",
        resolution=(SIZE, SIZE),
        in_channels=3,
        block_names=("b0", "b1"),
        pieces=(
            Piece(kind="stem", layers=("stem",), spec=stem),
            *(
                Piece(kind="span", span=(i, j), layers=names(i, j), spec=inner(span_ops(i, j)))
                for i, j in spans
            ),
            *(Piece(kind="addition", span=skip, layers=("add",), spec=ADDITION) for skip in SKIPS),
            Piece(kind="between", span=(BREAK, BREAK), layers=("pool",), spec=inner((POOL,))),
            Piece(kind="head", layers=("fc",), spec=inner(HEAD)),
        ),
        chain=SpanChain(convolutions=names(0, LENGTH), mask=MASK, skips=SKIPS, block_ends=(3, 6)),
    )


def names(i: int, j: int) -> tuple[str, ...]:
    return tuple(f"conv{at}" for at in range(i + 1, j + 1))


def compose(mask: str, padding: str) -> OpSpec:
    """The network of a mask, written without the package under test."""
    return OpSpec(input_shape=(3, SIZE, SIZE), ops=tuple(op for op, _ in placed_ops(mask)))


def operators(mask: str, padding: str) -> tuple[Place, ...]:
    return tuple(place for _, place in placed_ops(mask))


def placed_ops(mask: str) -> list[tuple[Op, Place]]:
    """The operators of a network and the places that they belong to."""
    found: list[tuple[Op, Place]] = [(op, ("stem", None)) for op in STEM]
    behind = {0: len(found)}
    for i, j in mask_spans(mask):
        convolution, activation = span_ops(i, j)
        found.append((replace(convolution, inputs=(len(found),)), ("span", (i, j))))
        if mask[j - 1] == ACTIVE:
            found.append((replace(activation, inputs=(len(found),)), ("span", (i, j))))
        for p, q in SKIPS:
            if q == j and p < i:
                addition = Add(inputs=(behind[p], len(found)))
                found.append((addition, ("addition", (p, q))))
        if j == BREAK:
            found.append((replace(POOL, inputs=(len(found),)), ("between", (j, j))))
        behind[j] = len(found)
    start = len(found)
    for n, op in enumerate(HEAD):
        found.append((replace(op, inputs=(start + n,)), ("head", None)))
    return found


def op_ms(op: Op, shape: Shape) -> float:
    """What an operator costs; a merged convolution less than its layers, but for large kernels."""
    if isinstance(op, Activation):
        return 0.0
    if not isinstance(op, Conv):
        return 0.02
    wide = op.kernel[0]
    return 0.1 + 0.01 * wide + (5.0 if wide >= SLOW_KERNEL else 0.0)


def latency_ms(spec: OpSpec) -> float:
    """Additive, but for a whole network, which costs 0.95 of its pieces and 0.3 ms."""
    pieces_ms = sum(op_ms(op, spec.input_shape) for op in spec.ops)
    whole = spec.input_shape[0] == 3 and len(spec.output_shape) == 1
    return 0.95 * pieces_ms + 0.3 if whole else pieces_ms


def layers(spec: OpSpec) -> list[tuple[str, float]]:
    """A profile by operators; the profiler slows the network."""
    outputs = [*(f"t{number + 1}" for number in range(len(spec.ops) - 1)), "result"]
    return [
        (f"{output}/{op.kind}", 1.4 * op_ms(op, spec.input_shape))
        for output, op in zip(outputs, spec.ops, strict=True)
    ]


@cache
def small_pieces() -> NetworkPieces:
    return span_pieces()


def request(folder: Path, **changes: object) -> ProfileRequest:
    own = {"pieces": small_pieces(), "compose": compose, "operators": operators}
    return small_network.request(folder, **{**own, **changes})


def run(
    wanted: ProfileRequest, device: FakeConnection, progress: Progress | None = None
) -> Profile:
    return profile(wanted, SerialScheduler(device), progress=progress)


def fake_device() -> FakeConnection:
    return FakeConnection(latency_ms=latency_ms, layers=layers, noise=0.0005)
