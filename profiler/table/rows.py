"""From measurements to a row of the table, in each context.

``isolated``: a row is its measurement. ``pair``: it is the difference of two, the piece after its
neighbour and that neighbour alone. ``layers``: it is the piece's share of a network, times the
latency of that network, which is measured without the profiler, for a profiler slows what it
watches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from latency_tables.pieces import Piece, piece_row
from latency_tables.schema import STATISTICS, VERDICTS, Row
from profiler.measurement import Measurement
from profiler.statistics import median, quantile, spread_percent
from profiler.table.layer_profile import PieceTimes

#: What a piece costs at least, in a table whose latencies are above 0.
FLOOR_MS = 1e-6

#: Columns that are properties of a measurement, and empty where it failed.
_STATISTICS = (
    *("latency_ms", "low_ms", "high_ms", "median_ms", "iqr_ms", "min_ms", "p90_ms", "p99_ms"),
    *("wall_latency_ms", "cpu_latency_ms", "enqueue_ms", "round_spread_percent"),
)
#: Columns that are properties of any measurement.
_FACTS = ("samples", "rounds", "reason", "board", "built_precision")


def make_row(piece: Piece, measurement: Measurement) -> Row:
    """The row of a piece at its place; a failed measurement leaves its latencies empty."""
    names = () if measurement.failed else _STATISTICS
    return piece_row(
        piece,
        verdict=measurement.verdict,
        **{name: getattr(measurement, name) for name in (*names, *_FACTS)},
    )


def failed_row(piece: Piece, reason: str, board: str = "") -> Row:
    """The row of a piece that a context knows nothing about."""
    return piece_row(piece, verdict="failed", reason=reason, board=board)


def bounded_row(piece: Piece, reason: str) -> Row:
    """The row of a piece that is not measured at all."""
    return piece_row(piece, verdict="bounded", reason=reason)


def pair_row(piece: Piece, before: Piece, pair: Measurement, alone: Measurement) -> Row:
    """What ``piece`` adds to ``before``, which was measured ``alone`` and with it (``pair``).

    The interval joins both intervals in quadrature. The spread columns are those of the pair less
    the latency of the piece before. The verdict is the worse one; a difference that
    could be nothing is noisy.
    """
    verdict, reason = _worse((pair, f"after {before.name}"), (alone, f"{before.name} alone"))
    board = _boards(pair, alone)
    if verdict == "failed":
        return failed_row(piece, reason, board)
    latency_ms = pair.latency_ms - alone.latency_ms
    below_ms = math.hypot(pair.latency_ms - pair.low_ms, alone.high_ms - alone.latency_ms)
    above_ms = math.hypot(pair.high_ms - pair.latency_ms, alone.latency_ms - alone.low_ms)
    low_ms, high_ms = latency_ms - below_ms, latency_ms + above_ms
    if low_ms <= 0:
        unseen = (
            f"after {before.name} its cost is within the noise: {latency_ms:.3g} ms "
            f"(95 % interval {low_ms:.3g} to {high_ms:.3g})"
        )
        verdict, reason = ("noisy", unseen) if verdict == "ok" else (verdict, f"{reason}; {unseen}")
    shown_ms = max(latency_ms, FLOOR_MS)
    medians = pair.round_medians_ms
    return replace(
        make_row(piece, pair),
        latency_ms=shown_ms,
        low_ms=max(low_ms, FLOOR_MS),
        high_ms=max(high_ms, FLOOR_MS),
        **{
            name: max(getattr(pair, name) - alone.latency_ms, FLOOR_MS)
            for name in ("median_ms", "min_ms", "p90_ms", "p99_ms")
        },
        wall_latency_ms=max(pair.wall_latency_ms - alone.wall_latency_ms, FLOOR_MS),
        cpu_latency_ms=_difference(pair.cpu_latency_ms, alone.cpu_latency_ms, FLOOR_MS),
        enqueue_ms=_difference(pair.enqueue_ms, alone.enqueue_ms, 0.0),
        round_spread_percent=100.0 * (max(medians) - min(medians)) / shown_ms,
        verdict=verdict,
        reason=reason,
        board=board,
    )


def layers_rows(
    order: Sequence[Piece],
    profiles: Sequence[PieceTimes],
    network: Measurement,
    layers: Measurement,
) -> dict[Piece, Row]:
    """The row of each piece of a network, whose layers were profiled once a round.

    Within a round the pieces' times, by the quantile of the table's statistic, are scaled to the
    network's latency; the row is the median of these over the rounds. Its interval reaches over all
    rounds, with that of the network in quadrature. The spread columns are those of all passes.
    """
    verdict, reason = _worse((network, "the whole network"), (layers, "its profile by layers"))
    board = _boards(network, layers)
    rounds: list[list[_PieceInRound]] = []
    if verdict != "failed":
        rounds = [one for profile in profiles if (one := _scaled(profile, network))]
        reason = reason if rounds else "no layer of the profile took time and names one of ours"
    typical = [median([one[number][0] for one in rounds]) for number in range(len(order)) if rounds]
    if not any(typical):
        return {piece: failed_row(piece, reason, board) for piece in order}
    # Medians over rounds need not add up to the whole as each round does.
    factor = network.latency_ms / math.fsum(typical)
    rows: dict[Piece, Row] = {}
    for number, piece in enumerate(order):
        if not typical[number]:
            # It was fused into others: nothing is known of it, and it is not free.
            rows[piece] = failed_row(piece, "no layer of the profile names it", board)
            continue
        row = _layers_row(piece, [one[number] for one in rounds], factor, network)
        if verdict != "ok":
            row = replace(row, verdict=verdict, reason=reason)
        rows[piece] = replace(row, board=board)
    return rows


#: Milliseconds of a piece in a round, and in each pass of it.
_PieceInRound = tuple[float, tuple[float, ...]]


def _layers_row(
    piece: Piece, rounds: Sequence[_PieceInRound], factor: float, network: Measurement
) -> Row:
    values = [factor * value for value, _ in rounds]
    passes = [max(factor * value, FLOOR_MS) for _, times in rounds for value in times]
    latency_ms = max(median(values), FLOOR_MS)
    share = latency_ms / network.latency_ms
    below_ms = math.hypot(latency_ms - min(values), share * (network.latency_ms - network.low_ms))
    above_ms = math.hypot(
        max(*values, latency_ms) - latency_ms, share * (network.high_ms - network.latency_ms)
    )
    cpu_ms = network.cpu_latency_ms
    return replace(
        make_row(piece, network),
        latency_ms=latency_ms,
        low_ms=max(latency_ms - below_ms, FLOOR_MS),
        high_ms=latency_ms + above_ms,
        median_ms=median(passes),
        iqr_ms=quantile(passes, 0.75) - quantile(passes, 0.25),
        min_ms=min(passes),
        p90_ms=quantile(passes, 0.9),
        p99_ms=quantile(passes, 0.99),
        wall_latency_ms=max(share * network.wall_latency_ms, FLOOR_MS),
        cpu_latency_ms=None if cpu_ms is None else max(share * cpu_ms, FLOOR_MS),
        enqueue_ms=None,
        samples=len(passes),
        rounds=len(rounds),
        round_spread_percent=spread_percent(values) if median(values) else 0.0,
    )


def _scaled(profile: PieceTimes, network: Measurement) -> list[_PieceInRound]:
    """Each piece's time in a round, scaled to the network's latency; none where none took any."""
    within = STATISTICS[network.statistic][0]
    times_ns = [quantile(passes, within) for passes in profile.pieces_ns]
    if not any(times_ns):
        return []
    factor = network.latency_ms / math.fsum(times_ns)
    return [
        (time_ns * factor, tuple(value * factor for value in passes))
        for time_ns, passes in zip(times_ns, profile.pieces_ns, strict=True)
    ]


def _worse(*measured: tuple[Measurement, str]) -> tuple[str, str]:
    """The worst verdict, and whose reasons speak for it."""
    verdict = max((one.verdict for one, _ in measured), key=VERDICTS.index)
    reasons = (f"{name}: {one.reason}" for one, name in measured if one.verdict == verdict)
    return verdict, "; ".join(reasons) if verdict != "ok" else ""


def _boards(*measured: Measurement) -> str:
    names = {name for one in measured for name in one.board.split("+") if name}
    return "+".join(sorted(names))


def _difference(larger: float | None, smaller: float | None, floor: float) -> float | None:
    return None if larger is None or smaller is None else max(larger - smaller, floor)
