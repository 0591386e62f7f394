"""The contexts that a profile costs its pieces in: which there are, and the rows of each.

Whatever a context lacks is a failed row of that context; no context can spoil another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from latency_tables.pieces import Piece
from latency_tables.schema import Row
from profiler.measurement import Measurement
from profiler.planning.bounds import too_slow
from profiler.planning.places import network_order, pair_spec, piece_before
from profiler.planning.profile_plan import ProfilePlan, layers_job_id, pair_job_id
from profiler.table.layer_profile import PieceTimes, share_out
from profiler.table.rows import bounded_row, failed_row, layers_rows, make_row, pair_row

Measurements = Mapping[str, Measurement]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRows:
    """A row a piece; ``unnamed_percent`` is for "layers" (``ContextCheck``)."""

    rows: tuple[Row, ...]
    unnamed_percent: float | None = None


def context_rows(context: str, plan: ProfilePlan, measurements: Measurements) -> ContextRows:
    """The rows of a context that the plan has the jobs of.

    Spans that were not measured to the end are bounded in every context.
    """
    match context:
        case "layers":
            return _layers_rows(plan, measurements)
        case "pair":
            rows = [_pair_row(piece, plan, measurements) for piece in plan.pieces.pieces]
        case _:
            rows = [_alone(piece, plan, measurements) for piece in plan.pieces.pieces]
    slow = too_slow(plan.pieces, measurements, plan.in_networks)
    return ContextRows(
        rows=tuple(
            replace(row, verdict="bounded", reason=slow[row.place])
            if row.place in slow and row.is_measured
            else row
            for row in rows
        )
    )


def _alone(piece: Piece, plan: ProfilePlan, measurements: Measurements) -> Row:
    if piece.place in plan.too_large:
        return bounded_row(piece, plan.too_large[piece.place])
    return make_row(piece, measurements[piece.spec.digest])


def _pair_row(piece: Piece, plan: ProfilePlan, measurements: Measurements) -> Row:
    before, spec = piece_before(plan.pieces, piece), pair_spec(plan.pieces, piece)
    if before is None or spec is None or piece.place in plan.too_large:
        return _alone(piece, plan, measurements)
    pair, alone = measurements[pair_job_id(spec)], measurements[before.spec.digest]
    return pair_row(piece, before, pair, alone)


def _layers_rows(plan: ProfilePlan, measurements: Measurements) -> ContextRows:
    """Fixed and kept pieces from the original network, merged ones from the all-merged."""
    found: dict[Piece, Row] = {}
    profiles: list[PieceTimes] = []
    for planned in (*plan.networks_of("base"), *plan.networks_of("merged")):
        order = network_order(plan.pieces, planned.keep_mask, planned.padding)
        layers = measurements[layers_job_id(planned)]
        specs = [piece.spec for piece in order]
        parts = [share_out(r.layers, specs) for r in layers.replies if r.layers is not None]
        rows = layers_rows(order, parts, measurements[planned.job_id], layers)
        for piece, row in rows.items():
            if piece not in found or not found[piece].is_measured:
                found[piece] = row
        profiles += parts
    missing = "no profiled network holds it"
    rows_of_all = tuple(
        _alone(piece, plan, measurements)
        if piece.kind == "dense"
        else found.get(piece) or failed_row(piece, missing)
        for piece in plan.pieces.pieces
    )
    percent = max((profile.unnamed_percent for profile in profiles), default=None)
    return ContextRows(rows=rows_of_all, unnamed_percent=percent)
