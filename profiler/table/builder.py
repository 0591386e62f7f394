"""Accepted measurements -> the ``LatencyTable``, and what its users should know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from latency_tables.in_network import with_network_costs
from latency_tables.measured import VERDICTS
from latency_tables.records import plain
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable
from latency_tables.wording import counted, once_each
from profiler.measurement import Measurement
from profiler.planning.profile_plan import ProfilePlan
from profiler.runtimes import processor_of
from profiler.scheduling.board_comparison import BoardComparison
from profiler.table.audit import audit
from profiler.table.evidence import Evidence, weigh
from profiler.table.rows import piece_rows

#: Rows that a warning names before it stops.
NAMED = 8
#: A larger share of a profile's time in layers that name nothing of ours is worth a warning.
UNNAMED_LIMIT_PERCENT = 5.0


def build_table(
    plan: ProfilePlan,
    measurements: Mapping[str, Measurement],
    conditions: Conditions,
    provenance: Mapping[str, Any],
    warnings: Sequence[str] = (),
    boards: Sequence[BoardComparison] = (),
) -> LatencyTable:
    """Make the table of a plan's measurements, one a job id.

    ``provenance`` are the fields of a table that say where its numbers come from: ``fingerprint``
    (what the device reports about itself), ``spans``, ``seed``, ``date``, ``dshrink_version``. What
    cannot be estimated or checked for want of a measurement is left out; the table is then not fit
    for search.
    """
    evidence = weigh(plan, conditions, measurements)
    table = LatencyTable(
        **plan.pieces.cut,
        rows=evidence.rows if evidence else piece_rows(plan, measurements, conditions, {}),
        networks=evidence.networks if evidence else (),
        estimate=evidence.estimate if evidence else None,
        level=evidence.level if evidence else None,
        conditions=conditions,
        **provenance,
        boards=tuple(plain(board) for board in boards),
    )
    table = with_network_costs(table)
    notes = [*warnings, *_rows_not_ok(table), *precision_notes(table)]
    notes += _evidence_notes(evidence)
    notes += audit(plan.jobs, measurements, conditions)
    return replace(table, warnings=once_each(notes))


def _rows_not_ok(table: LatencyTable) -> list[str]:
    notes = []
    for verdict in VERDICTS[1:]:
        names = [row.piece for row in table.rows if row.verdict == verdict]
        # Predictions that were found to be right do not suffer from rough rows.
        is_right = verdict == "noisy" and table.fit_for_search
        if names and verdict != "bounded" and not is_right:
            shown = names[:NAMED] + (["..."] if len(names) > NAMED else [])
            notes.append(
                f"{len(names)} of {len(table.rows)} rows are {verdict}: {', '.join(shown)}; "
                f"{_ADVICE[verdict]}"
            )
    return notes


#: What to do about rows of a verdict.
_ADVICE = {
    "host_bound": "use --launch cuda_graph or a larger batch",
    "noisy": "no measured network contains them; end other work on the machine and profile again",
    "throttled": "cool the device or lower its power mode, and profile again",
    "failed": "`dshrink table show` gives the reasons",
}


def precision_notes(table: LatencyTable) -> list[str]:
    """What the engines of a table really compute in, where that is not what was asked for.

    Rows without products have no scales, and so nothing in int8.
    """
    wanted, notes = table.conditions.precision, []
    others = [
        row.piece
        for row in table.rows
        if row.built_precision and row.macs and wanted not in re.split(r"\W+", row.built_precision)
    ]
    if others:
        shown = ", ".join(others[:NAMED] + (["..."] if len(others) > NAMED else []))
        notes.append(
            f"{len(others)} of {counted(len(table.rows), 'row')} have nothing in {wanted}, because "
            f"the runtime found another precision faster (built_precision says which): {shown}"
        )
    if wanted == "int8" and processor_of(table.conditions) == "gpu":
        notes.append(
            "alone, pieces in int8 read and write fp32, so those that move more than they compute "
            "look dear: go by what they cost in the network (in_network_ms)"
        )
    return notes


def _evidence_notes(evidence: Evidence | None) -> list[str]:
    if evidence is None:
        return ["no piece, or no whole network, has a latency: see the reasons in the journal"]
    notes = []
    if evidence.missing:
        more = f" and {len(evidence.missing) - 1} more" if len(evidence.missing) > 1 else ""
        notes.append(f"{evidence.missing[0]}{more}; their jobs are in the journal")
    if evidence.unnamed_percent > UNNAMED_LIMIT_PERCENT:
        notes.append(
            f"up to {evidence.unnamed_percent:.1f} % of a network's profile is in layers that name "
            "no operator of ours; that time was spread over the others, so compare the prediction "
            "error with what you need"
        )
    return notes
