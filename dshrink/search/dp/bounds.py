"""Constraints of a plan other than its latency, and the sizes of pieces that they need.

Rows count a piece by itself. In the network the residuals of open skips are held as well, so what
it holds comes from the pieces of the whole network. That bound is no sum, so it is no cost: the
largest piece of a plan counts, and spans beyond it are no part of any plan.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.stages import least_rest, make_edges
from dshrink.search.errors import NoPlanError, SearchError
from dshrink.search.goal import round_up
from latency_tables.opspec import Conv
from latency_tables.pieces import NetworkPieces, Piece
from latency_tables.places import Place, piece_name
from latency_tables.span_masks import Span
from latency_tables.table import LatencyTable

#: Bytes of one number; a network that runs in int8 still hands over int8.
_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Constraints of a plan other than its latency; None where there is no bound.

    ``max_kernel`` is the longest side of a merged kernel. ``max_peak_mib`` is what is held while
    one piece runs, for the table's batch: inputs, outputs and residuals of open skips.
    ``max_macs`` and ``max_parameters`` are the whole network's, for one image. ``keep_blocks`` are
    numbers of building blocks that stay as they are.
    """

    max_kernel: int | None = None
    max_peak_mib: float | None = None
    max_macs: int | None = None
    max_parameters: int | None = None
    keep_blocks: tuple[int, ...] = ()

    @property
    def need_sizes(self) -> bool:
        """Whether a table's rows do not say enough: ``sizes_of`` the network's pieces do."""
        return self.max_kernel is not None or self.max_peak_mib is not None

    def __post_init__(self) -> None:
        for name in ("max_kernel", "max_peak_mib", "max_macs", "max_parameters"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SearchError(f"{name.replace('_', ' ')} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class PieceSizes:
    """``kernels``: the longest kernel side of each span. ``peaks``: numbers held, for one image.

    A piece holds its own peak and the residuals of open skips. Peaks are those of one
    ``resolution``, (H, W).
    """

    kernels: Mapping[Span, int]
    peaks: Mapping[Place, int]
    resolution: tuple[int, int]


def sizes_of(pieces: NetworkPieces) -> PieceSizes:
    """The sizes of a network cut into spans."""
    kernels = {
        piece.span: max(max(op.kernel) for op in piece.spec.ops if isinstance(op, Conv))
        for piece in pieces.pieces
        if piece.kind == "span" and piece.span is not None
    }
    waiting = {
        piece.span[0]: math.prod(piece.spec.input_shape)
        for piece in pieces.pieces
        if piece.kind == "addition" and piece.span is not None
    }
    skips = pieces.chain.skips if pieces.chain else ()
    peaks = {
        piece.place: _peak(piece) + sum(waiting[p] for p in _open_skips(piece, skips))
        for piece in pieces.pieces
    }
    return PieceSizes(kernels=kernels, peaks=peaks, resolution=pieces.resolution)


def _peak(piece: Piece) -> int:
    if piece.kind != "addition":
        return piece.spec.peak_activations
    # It holds both of its inputs and the sum, all of one size; a projection runs just before it.
    size = math.prod(piece.spec.output_shape)
    return size + max(piece.spec.peak_activations, 2 * size)


def _open_skips(piece: Piece, skips: tuple[Span, ...]) -> set[int]:
    """Where the residuals start that are held while a piece runs and that it does not read."""
    if piece.span is None:
        return set()
    i, j = piece.span
    if piece.kind == "span":
        # A skip from i hands over the span's own input.
        return {p for p, q in skips if p < i and j <= q}
    if piece.kind == "between":
        return {p for p, q in skips if p < i < q}
    # Of skips that end together the shortest is added first.
    return {p for p, q in skips if p < j and p != i and (j < q or (j == q and p < i))}


def held_mib(table: LatencyTable, sizes: PieceSizes | None) -> dict[Place, float]:
    """What the pieces with rows hold in the network, for the table's batch. Raises SearchError."""
    if sizes is None or sizes.resolution != table.resolution:
        raise SearchError(
            f"what the pieces of {table.model} hold at {table.resolution[0]}x{table.resolution[1]} "
            "is not known: a largest peak needs MODEL and tables of one resolution"
        )
    unknown = [row.place for row in table.rows if row.place not in sizes.peaks]
    if unknown:
        raise SearchError(
            f"MODEL has no {piece_name(unknown[0])}, which the table of {table.model} has: both "
            "must be of one network"
        )
    mib = table.conditions.batch * _BYTES[table.conditions.precision] / 2**20
    return {row.place: sizes.peaks[row.place] * mib for row in table.rows}


def within_peak(
    problem: SpanProblem,
    held: Mapping[Span, float],
    always: Mapping[Place, float],
    most: float,
    table: LatencyTable,
) -> SpanProblem:
    """The problem without the spans that hold more than ``most`` MiB.

    ``held`` is what a span and the additions it pays for hold, ``always`` that of what every plan
    contains. Raises NoPlanError, which names the least bound that some plan meets.
    """
    least = max(always.values(), default=0.0)
    if least <= most and _leads_to_the_end(problem, held, most):
        costs = {span: costs for span, costs in problem.costs.items() if held[span] <= most}
        return replace(problem, costs=costs)
    steps = sorted({max(mib, least) for mib in held.values()})
    at = bisect_left(steps, True, key=lambda mib: _leads_to_the_end(problem, held, mib))
    if at == len(steps):
        return problem  # whatever the bound: the solver says why
    bounded = sum(row.verdict == "bounded" for row in table.rows)
    raise NoPlanError(
        f"no plan of {table.model} has only pieces that hold at most {most:g} MiB"
        + (f" ({bounded} spans are bounded, so no plan has them)" if bounded else "")
        + "".join(
            f"; the {piece_name(place)}, which every plan has, holds {mib:.4g}"
            for place, mib in always.items()
            if mib > most
        )
        + f"; the least is {steps[at]:.4g}; ask for at least --max-peak-mib {round_up(steps[at])}"
    )


def _leads_to_the_end(problem: SpanProblem, held: Mapping[Span, float], most: float) -> bool:
    """Whether some plan has no span that holds more."""
    costs = {span: (1.0,) for span in problem.costs if held[span] <= most}
    if not costs:
        return False
    counted = replace(problem, costs=costs, names=("layers",), fixed=())
    return (0, 1) in least_rest(make_edges(counted), counted)
