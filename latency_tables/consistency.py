"""Whether the parts of a table that was read belong together.

A table is two files that people copy, merge and edit. Calibration and hold-out networks repeat sums
of the rows, so they show whether they were made from these rows and by the same formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from latency_tables.errors import TableFormatError
from latency_tables.table import LatencyTable

#: Sums are repeated to the last digit; this leaves room for another order of addition only.
TOLERANCE = 1e-6


def check_consistency(table: LatencyTable) -> None:
    """Raise TableFormatError where calibration or hold-out contradict the rows."""
    for what, stored, derived in _repeated(table):
        if not math.isclose(stored, derived, rel_tol=TOLERANCE):
            raise TableFormatError(
                f"{what} is {stored:.6g} ms, but its rows give {derived:.6g} ms: the files do not "
                "belong together; write the table again with `dshrink profile`"
            )


def _repeated(table: LatencyTable) -> Iterator[tuple[str, float, float]]:
    """What is stored, its value there, and what the rows give."""
    calibration, hold_out = table.calibration, table.hold_out
    for known in calibration.networks if calibration else ():
        sum_ms = table.sum_ms(known.keep_mask, known.padding)
        what = f"calibration network {known.keep_mask} ({known.padding}): sum_ms"
        yield what, known.sum_ms, sum_ms
    for tried in hold_out.networks if hold_out else ():
        sum_ms = table.sum_ms(tried.keep_mask, tried.padding)
        what = f"hold-out network {tried.keep_mask} ({tried.padding})"
        yield f"{what}: plain_sum_ms", tried.plain_sum_ms, sum_ms
        if calibration is not None:
            predicted_ms = calibration.predict_ms(sum_ms, tried.padding)
            yield f"{what}: predicted_ms", tried.predicted_ms, predicted_ms
