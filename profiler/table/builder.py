"""Accepted measurements -> a ``LatencyTable`` a context: rows, calibration, the check on others.

All tables of a profile are fitted to the same networks and tried on the same others, so their
errors compare the contexts and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from latency_tables.calibration import Calibration, CalibrationNetwork
from latency_tables.contexts import CONTEXTS, ContextCheck, best_context
from latency_tables.errors import CalibrationError, LatencyTableError
from latency_tables.hold_out import HoldOut, HoldOutNetwork
from latency_tables.predictor import predict
from latency_tables.records import plain
from latency_tables.schema import VERDICTS, Conditions
from latency_tables.table import LatencyTable
from profiler.measurement import Measurement
from profiler.planning.profile_plan import PlannedNetwork, ProfilePlan
from profiler.scheduling.board_comparison import BoardComparison
from profiler.table.audit import audit
from profiler.table.context_rows import ContextRows, context_rows

_T = TypeVar("_T")

#: With fewer networks measured well, the calibration takes the noisy ones too.
LEAST_CALIBRATION = 5
#: Rows that a warning names before it stops.
NAMED = 8
#: A larger share of the time in layers that name nothing of ours is worth a warning.
UNNAMED_LIMIT_PERCENT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextTables:
    """A whole table in each context of a plan; ``best`` is the context that predicts best."""

    tables: Mapping[str, LatencyTable]
    best: str

    @property
    def table(self) -> LatencyTable:
        return self.tables[self.best]


def build_tables(
    plan: ProfilePlan,
    measurements: Mapping[str, Measurement],
    conditions: Conditions,
    provenance: Mapping[str, Any],
    warnings: Sequence[str] = (),
    boards: Sequence[BoardComparison] = (),
) -> ContextTables:
    """Make the table of each context; each also holds the errors of the others.

    ``provenance`` are the fields of a table that say where its numbers come from: ``fingerprint``
    (what the device reports about itself), ``spans``, ``seed``, ``date``, ``dshrink_version``.
    """
    made = {
        context: build_table(
            plan, measurements, conditions, provenance, warnings, boards, context=context
        )
        for context in plan.contexts
    }
    checks = {context: table.contexts[context] for context, table in made.items()}
    tables = {context: replace(table, contexts=checks) for context, table in made.items()}
    return ContextTables(tables=tables, best=best_context(_comparable_errors(made)))


def _comparable_errors(made: Mapping[str, LatencyTable]) -> dict[str, float | None]:
    """The mean error of each context that may be chosen, on the networks that all of them predict.

    A context with a needed row missing may not, unless all have one missing.
    """
    whole = {name: table for name, table in made.items() if not table.missing_row}
    chosen = whole or dict(made)
    checks = {name: table.hold_out for name, table in chosen.items() if table.hold_out}
    places = [{(n.keep_mask, n.padding) for n in check.networks} for check in checks.values()]
    common = set.intersection(*places) if places else set()
    errors: dict[str, float | None] = dict.fromkeys(chosen)
    for name, check in checks.items():
        networks = tuple(n for n in check.networks if (n.keep_mask, n.padding) in common)
        errors[name] = HoldOut(networks).mape_percent if networks else None
    return errors


def build_table(
    plan: ProfilePlan,
    measurements: Mapping[str, Measurement],
    conditions: Conditions,
    provenance: Mapping[str, Any],
    warnings: Sequence[str] = (),
    boards: Sequence[BoardComparison] = (),
    *,
    context: str = CONTEXTS[0],
) -> LatencyTable:
    """Make the table of a plan's measurements (one a job id), its pieces costed in a context.

    What cannot be fitted or checked for want of a measurement is left out with a warning; the table
    is then not fit for search.
    """
    found = audit(plan, measurements, conditions)
    costed = context_rows(context, plan, measurements)
    table = LatencyTable(
        **plan.pieces.cut,
        rows=costed.rows,
        conditions=conditions,
        **provenance,
        twins=tuple(plain(duplicate) for duplicate in found.duplicates),
        boards=tuple(plain(board) for board in boards),
        context=context,
    )
    notes = [*warnings, *_rows_not_ok(table), *_unnamed(costed), *found.warnings]
    try:
        calibration = calibrate(table, plan, measurements)
        table = replace(table, calibration=calibration)
    except LatencyTableError as error:
        notes.append(f"no calibration: {error}")
    else:
        notes += [calibration.warning] if calibration.warning else []
        hold_out, missing = check_hold_out(table, plan, measurements)
        table = replace(table, hold_out=hold_out)
        notes += missing
    check = ContextCheck.of(table.hold_out, costed.unnamed_percent)
    return replace(table, warnings=tuple(dict.fromkeys(notes)), contexts={context: check})


def calibrate(
    table: LatencyTable, plan: ProfilePlan, measurements: Mapping[str, Measurement]
) -> Calibration:
    """Fit the line to the original, the all-merged and the calibration networks that have numbers.

    Raises CalibrationError where the original has none, or none of the others has.
    """
    fitted = [planned for planned in plan.networks if planned.role != "hold_out"]
    networks, problems = _each(
        _settled(fitted, measurements),
        measurements,
        lambda planned, measurement: CalibrationNetwork(
            keep_mask=planned.keep_mask,
            padding=planned.padding,
            measured_ms=measurement.latency_ms,
            sum_ms=table.sum_ms(planned.keep_mask, planned.padding),
        ),
    )
    alone = bool(plan.networks_of("merged")) and len(networks) < 2
    if problems and (alone or not any(network.is_base for network in networks)):
        raise CalibrationError(problems[0])
    return Calibration(networks=networks)


def check_hold_out(
    table: LatencyTable, plan: ProfilePlan, measurements: Mapping[str, Measurement]
) -> tuple[HoldOut | None, list[str]]:
    """Predict the held-out networks; also return what kept one from being compared."""
    networks, problems = _each(
        plan.networks_of("hold_out"),
        measurements,
        lambda planned, measurement: _compare(table, planned, measurement),
    )
    return HoldOut(networks) if networks else None, [f"hold-out {problem}" for problem in problems]


def _each(
    networks: Iterable[PlannedNetwork],
    measurements: Mapping[str, Measurement],
    make: Callable[[PlannedNetwork, Measurement], _T],
) -> tuple[tuple[_T, ...], list[str]]:
    """What is made of the networks that have numbers, and what is missing for the others."""
    made, problems = [], []
    for planned in networks:
        measurement = measurements[planned.job_id]
        if measurement.failed:
            problems.append(f"network {planned.keep_mask} failed: {measurement.reason}")
            continue
        try:
            made.append(make(planned, measurement))
        except LatencyTableError as error:
            problems.append(f"network {planned.keep_mask}: {error}")
    return tuple(made), problems


def _settled(
    planned: Sequence[PlannedNetwork], measurements: Mapping[str, Measurement]
) -> Sequence[PlannedNetwork]:
    """The networks measured well enough to learn from; all of them where those are too few.

    The original network always takes part: the calibration goes through it.
    """
    right = ("ok", "host_bound")
    well = [n for n in planned if n.role == "base" or measurements[n.job_id].verdict in right]
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


def _rows_not_ok(table: LatencyTable) -> list[str]:
    notes = []
    for verdict in VERDICTS[1:]:
        names = [row.piece for row in table.rows if row.verdict == verdict]
        if names:
            shown = names[:NAMED] + (["..."] if len(names) > NAMED else [])
            notes.append(
                f"{len(names)} of {len(table.rows)} rows are {verdict}: {', '.join(shown)}"
            )
    return notes


def _unnamed(costed: ContextRows) -> list[str]:
    percent = costed.unnamed_percent
    if percent is None or percent <= UNNAMED_LIMIT_PERCENT:
        return []
    return [
        f"up to {percent:.1f} % of a network's profile is in layers that name no operator of "
        "ours; that time was spread over the others"
    ]
