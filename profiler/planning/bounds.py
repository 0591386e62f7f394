"""Spans that are bounded, not measured to the end: which, and why.

A merged kernel grows with every convolution it takes in, and soon costs many times what its layers
do. As far as latency goes, such a span is in no fastest network: leaving its layers as they are is
faster, and computes what the span does (except at the border where padding is moved). So spans
of excessive size are never built, and a span that one round shows to be far slower than its layers
one by one is not measured again. Under a bound on memory a slow span might have been useful, as one
convolution holds no map between its layers. That is given up: no search uses a bounded span.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from latency_tables.opspec import Conv, OpSpec
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.places import Place
from latency_tables.span_masks import MOST_WEIGHT_BYTES, Span
from latency_tables.wording import counted
from profiler.measurement import Measurement

#: Not built either is what does more than so many times the MACs of its layers.
MOST_MACS = 50
#: A span that takes more than so many times its layers' time is not measured again.
TOO_SLOW = 2.0

_BYTES_PER_WEIGHT = 4


def merged_spans(pieces: NetworkPieces) -> Iterator[tuple[Span, Piece]]:
    """The spans of more than one convolution, and their pieces."""
    for piece in pieces.pieces:
        if piece.kind == "span" and piece.span and piece.span[1] > piece.span[0] + 1:
            yield piece.span, piece


def one_by_one(pieces: NetworkPieces, span: Span) -> tuple[Piece, ...]:
    """What a span replaces: its convolutions as they are, and the additions that it swallows."""
    i, j = span
    layers = [pieces.piece("span", (at, at + 1)) for at in range(i, j)]
    skips = pieces.chain.skips if pieces.chain else ()
    return (*layers, *(pieces.piece("addition", (p, q)) for p, q in skips if i <= p and q <= j))


def too_large(pieces: NetworkPieces, max_kernel: int | None = None) -> Mapping[Place, str]:
    """The spans that are not built at all, and the reason.

    ``max_kernel`` is the largest merged kernel that is wanted, None for any.
    """
    found: dict[Place, str] = {}
    for span, piece in merged_spans(pieces):
        layers_macs = sum(one.spec.macs for one in one_by_one(pieces, span))
        if reason := _size_problem(piece.spec, layers_macs, max_kernel):
            found[piece.place] = f"not measured: {reason}"
    return found


def _size_problem(spec: OpSpec, layers_macs: int, max_kernel: int | None) -> str:
    kernel = max((max(op.kernel) for op in spec.ops if isinstance(op, Conv)), default=1)
    if max_kernel is not None and kernel > max_kernel:
        return f"its merged kernel is {kernel} wide, at most {max_kernel} was asked for"
    weight_bytes = _BYTES_PER_WEIGHT * spec.parameters
    if weight_bytes > MOST_WEIGHT_BYTES:
        return (
            f"its merged {kernel}x{kernel} kernel has {weight_bytes / 1024**2:.0f} MiB of weights; "
            f"none above {MOST_WEIGHT_BYTES / 1024**2:.0f} MiB is built"
        )
    if spec.macs > MOST_MACS * layers_macs:
        return (
            f"its merged {kernel}x{kernel} kernel does {spec.macs / layers_macs:.0f} times the "
            f"MACs of its layers; none above {MOST_MACS} times is built"
        )
    return ""


def too_slow(
    pieces: NetworkPieces, measurements: Mapping[str, Measurement], spared: Collection[Place] = ()
) -> Mapping[Place, str]:
    """The spans that need no round more, though fewer rounds were measured than are wanted.

    That takes intervals that do not overlap. ``measurements`` are by job id; jobs without one are
    skipped. ``spared`` are measured in all rounds anyhow.
    """
    found: dict[Place, str] = {}
    for span, piece in merged_spans(pieces):
        own = _known(measurements, piece)
        parts = [_known(measurements, layer) for layer in one_by_one(pieces, span)]
        if own is None or own.rounds >= own.rounds_wanted or piece.place in spared:
            continue
        layers = [part for part in parts if part is not None]
        if len(layers) < len(parts):
            continue
        if own.low_ms > TOO_SLOW * sum(part.high_ms for part in layers):
            layers_ms = sum(part.latency_ms for part in layers)
            found[piece.place] = (
                f"after {own.rounds} of {counted(own.rounds_wanted, 'round')} it takes "
                f"{own.latency_ms:.4g} "
                f"ms, more than {TOO_SLOW:g} times the {layers_ms:.4g} ms of its layers one by one"
            )
    return found


def _known(measurements: Mapping[str, Measurement], piece: Piece) -> Measurement | None:
    found = measurements.get(piece.spec.digest)
    return None if found is None or found.failed else found
