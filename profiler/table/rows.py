"""From measurements of pieces alone to the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from latency_tables.pieces import Piece, piece_row
from latency_tables.places import Place
from latency_tables.schema import Conditions, Row
from profiler.levels import JobLatency, judge, levelled
from profiler.measurement import Measurement
from profiler.planning.bounds import too_slow
from profiler.planning.profile_plan import ProfilePlan

#: A piece that no network holds is noisy where half its interval is more than this share of its
#: latency. For the others it is what a cost in the network is first expected to be, and no more.
PIECE_HALF_WIDTH = 0.1

#: Columns that are properties of a measurement, and empty where it failed.
STATISTICS_COLUMNS = (
    *("median_ms", "iqr_ms", "min_ms", "p90_ms", "p99_ms"),
    *("wall_latency_ms", "cpu_latency_ms", "enqueue_ms", "round_spread_percent"),
)
#: Columns that are properties of any measurement.
FACTS = ("samples", "rounds", "reason", "board", "built_precision")


def piece_rows(
    plan: ProfilePlan,
    measurements: Mapping[str, Measurement],
    conditions: Conditions,
    profiled: Mapping[Place, float],
    held: Collection[Place] = (),
) -> tuple[Row, ...]:
    """A row a piece; ``profiled`` is what the runtime's own profiles say, in ms.

    ``held`` are the places that the measured networks hold.
    """
    known = levelled((measurements[name] for name in plan.piece_ids), conditions)
    slow = too_slow(plan.pieces, measurements, plan.in_networks)
    rows = []
    for piece in plan.pieces.pieces:
        if reason := plan.too_large.get(piece.place):
            rows.append(piece_row(piece, verdict="bounded", reason=reason))
            continue
        digest = piece.spec.digest
        row = _row(piece, measurements[digest], known.get(digest), piece.place in held)
        if row.is_measured and piece.place in slow:
            row = replace(row, verdict="bounded", reason=slow[piece.place])
        elif row.is_measured:
            row = replace(row, profiled_ms=profiled.get(piece.place))
        rows.append(row)
    return tuple(rows)


def _row(piece: Piece, measurement: Measurement, known: JobLatency | None, is_held: bool) -> Row:
    """The row of a piece at its place; a failed measurement leaves its latencies empty."""
    if measurement.failed or known is None:
        facts = {name: getattr(measurement, name) for name in FACTS}
        return piece_row(piece, verdict="failed", **facts)
    verdict, reason = judge(measurement, known, math.inf if is_held else PIECE_HALF_WIDTH)
    values = {name: getattr(measurement, name) for name in (*STATISTICS_COLUMNS, *FACTS)}
    return piece_row(
        piece,
        verdict=verdict,
        latency_ms=known.latency_ms,
        low_ms=known.low_ms,
        high_ms=known.high_ms,
        **{**values, "reason": reason},
    )
