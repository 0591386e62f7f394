"""Whether the parts of a table that was read belong together.

A table is two files that people copy, merge and edit. Calibration and hold-out networks repeat sums
of the rows, so they show whether they were made from these rows and by the same formula.
"""

from __future__ import annotations

import math

from latency_tables.errors import TableFormatError
from latency_tables.table import LatencyTable

#: Sums are repeated to the last digit; this leaves room for another order of addition only.
TOLERANCE = 1e-6


def check_consistency(table: LatencyTable) -> None:
    """Raise TableFormatError where calibration or hold-out contradict the rows."""
    if table.calibration is not None:
        _check_calibration(table)
    if table.hold_out is not None:
        _check_hold_out(table)


def _agree(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE)


def _refuse(what: str, stored: float, derived: float) -> None:
    raise TableFormatError(
        f"{what} is {stored:.6g} ms, but its rows give {derived:.6g} ms: the files do not belong "
        "together; write the table again with `dshrink profile`"
    )


def _check_calibration(table: LatencyTable) -> None:
    assert table.calibration is not None
    for network in table.calibration.networks:
        sum_ms = table.sum_ms(network.keep_mask, network.padding)
        if not _agree(network.sum_ms, sum_ms):
            what = f"calibration network {network.keep_mask} ({network.padding})"
            _refuse(f"{what}: sum_ms", network.sum_ms, sum_ms)


def _check_hold_out(table: LatencyTable) -> None:
    assert table.hold_out is not None
    for network in table.hold_out.networks:
        what = f"hold-out network {network.keep_mask} ({network.padding})"
        sum_ms = table.sum_ms(network.keep_mask, network.padding)
        if not _agree(network.plain_sum_ms, sum_ms):
            _refuse(f"{what}: plain_sum_ms", network.plain_sum_ms, sum_ms)
        if table.calibration is None:
            continue
        predicted_ms = table.calibration.predict_ms(sum_ms, network.padding)
        if not _agree(network.predicted_ms, predicted_ms):
            _refuse(f"{what}: predicted_ms", network.predicted_ms, predicted_ms)
