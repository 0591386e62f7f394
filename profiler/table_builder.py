"""Accepted measurements -> ``LatencyTable``: rows, calibration, the check on unseen networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latency_tables.calibration import Calibration, CalibrationNetwork
from latency_tables.errors import CalibrationError, LatencyTableError, MissingPieceError
from latency_tables.hold_out import HoldOut, HoldOutNetwork
from latency_tables.pieces import Piece
from latency_tables.predictor import predict
from latency_tables.schema import Conditions, Row
from latency_tables.table import LatencyTable
from profiler.boards import BoardComparison
from profiler.jobs import PlannedNetwork, ProfilePlan
from profiler.measurement import Measurement
from profiler.quality import audit

#: With fewer networks measured well, the calibration takes the noisy ones too.
LEAST_CALIBRATION = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a table's numbers come from; ``fingerprint`` is what the device says about itself."""

    fingerprint: Mapping[str, Any]
    seed: int
    date: str
    dshrink_version: str


def build_table(
    plan: ProfilePlan,
    measurements: Mapping[str, Measurement],
    conditions: Conditions,
    provenance: Provenance,
    warnings: Sequence[str] = (),
    boards: Sequence[BoardComparison] = (),
) -> LatencyTable:
    """Make the table of a plan's measurements (one a job id).

    What cannot be fitted or checked for want of a measurement is left out with a warning; the table
    then says itself that it is not fit for search.
    """
    found = audit(plan, measurements, conditions)
    pieces = plan.pieces
    table = LatencyTable(
        model=pieces.model,
        resolution=pieces.resolution,
        in_channels=pieces.in_channels,
        block_names=pieces.block_names,
        unmergeable=pieces.unmergeable,
        rows=tuple(make_row(p, measurements[p.spec.digest]) for p in pieces.pieces),
        conditions=conditions,
        fingerprint=provenance.fingerprint,
        seed=provenance.seed,
        date=provenance.date,
        dshrink_version=provenance.dshrink_version,
        twins=tuple(twin.to_json() for twin in found.twins),
        boards=tuple(board.to_json() for board in boards),
    )
    notes = [*warnings, *_unsettled_rows(table), *found.warnings]
    try:
        table = replace(table, calibration=calibrate(table, plan, measurements))
    except LatencyTableError as error:
        notes.append(f"no calibration: {error}")
    else:
        assert table.calibration is not None
        notes += [table.calibration.warning] if table.calibration.warning else []
        hold_out, missing = check_hold_out(table, plan, measurements)
        table = replace(table, hold_out=hold_out)
        notes += missing
    return replace(table, warnings=tuple(dict.fromkeys(notes)))


def make_row(piece: Piece, measurement: Measurement) -> Row:
    """The row of a piece at its place; a failed measurement leaves its latencies empty."""
    failed = measurement.failed
    m = None if failed else measurement
    return Row(
        piece=piece.name,
        kind=piece.kind,
        block=piece.block,
        first_layer=piece.first_layer,
        last_layer=piece.last_layer,
        digest=piece.spec.digest,
        latency_ms=m.latency_ms if m else None,
        low_ms=m.low_ms if m else None,
        high_ms=m.high_ms if m else None,
        median_ms=m.median_ms if m else None,
        iqr_ms=m.iqr_ms if m else None,
        min_ms=m.min_ms if m else None,
        p90_ms=m.p90_ms if m else None,
        p99_ms=m.p99_ms if m else None,
        wall_latency_ms=m.wall_latency_ms if m else None,
        cpu_latency_ms=m.cpu_latency_ms if m else None,
        samples=measurement.samples,
        rounds=measurement.rounds,
        round_spread_percent=m.round_spread_percent if m else None,
        macs=piece.spec.macs,
        parameters=piece.spec.parameters,
        peak_activations=piece.spec.peak_activations,
        verdict=measurement.verdict,
        reason=measurement.reason,
        board=measurement.board,
    )


def calibrate(
    table: LatencyTable, plan: ProfilePlan, measurements: Mapping[str, Measurement]
) -> Calibration:
    """Fit the line to the original, the all-merged and the calibration networks that have numbers.

    Raises CalibrationError where the original has none, or none of the others has.
    """
    networks: list[CalibrationNetwork] = []
    problems = []
    fitted = [planned for planned in plan.networks if planned.role != "hold_out"]
    for planned in _settled(fitted, measurements):
        measurement = measurements[planned.job_id]
        if measurement.failed:
            problems.append(f"network {planned.keep_mask} was not measured: {measurement.reason}")
            continue
        try:
            sum_ms = table.sum_ms(planned.keep_mask, planned.padding)
        except MissingPieceError as error:
            problems.append(str(error))
            continue
        networks.append(
            CalibrationNetwork(
                keep_mask=planned.keep_mask,
                padding=planned.padding,
                measured_ms=measurement.latency_ms,
                sum_ms=sum_ms,
            )
        )
    alone = bool(plan.networks_of("merged")) and len(networks) < 2
    if problems and (alone or not any(network.is_base for network in networks)):
        raise CalibrationError(problems[0])
    return Calibration(networks=tuple(networks))


def check_hold_out(
    table: LatencyTable, plan: ProfilePlan, measurements: Mapping[str, Measurement]
) -> tuple[HoldOut | None, list[str]]:
    """Predict the held-out networks; also return what kept one from being compared."""
    networks: list[HoldOutNetwork] = []
    missing: list[str] = []
    for planned in plan.networks_of("hold_out"):
        measurement = measurements[planned.job_id]
        if measurement.failed:
            missing.append(f"hold-out network {planned.keep_mask} failed: {measurement.reason}")
            continue
        try:
            networks.append(_compare(table, planned, measurement))
        except LatencyTableError as error:
            missing.append(f"hold-out network {planned.keep_mask}: {error}")
    if not networks:
        return None, missing
    return HoldOut(tuple(networks)), missing


def _settled(
    planned: Sequence[PlannedNetwork], measurements: Mapping[str, Measurement]
) -> Sequence[PlannedNetwork]:
    """The networks measured well enough to learn from; all of them where those are too few.

    The original network always takes part: the calibration goes through it.
    """
    well = [n for n in planned if n.role == "base" or measurements[n.job_id].verdict == "ok"]
    return well if len(well) >= LEAST_CALIBRATION else planned


def _compare(
    table: LatencyTable, planned: PlannedNetwork, measurement: Measurement
) -> HoldOutNetwork:
    prediction = predict(table, planned.keep_mask, planned.padding)
    return HoldOutNetwork(
        keep_mask=planned.keep_mask,
        padding=planned.padding,
        measured_ms=measurement.latency_ms,
        measured_low_ms=measurement.low_ms,
        measured_high_ms=measurement.high_ms,
        predicted_ms=prediction.latency_ms,
        plain_sum_ms=prediction.plain_sum_ms,
        scaled_macs_ms=prediction.scaled_macs_ms,
    )


def _unsettled_rows(table: LatencyTable) -> list[str]:
    notes = []
    for verdict in ("noisy", "throttled", "failed"):
        names = [row.piece for row in table.rows if row.verdict == verdict]
        if names:
            notes.append(
                f"{len(names)} of {len(table.rows)} rows are {verdict}: {', '.join(names)}"
            )
    return notes
