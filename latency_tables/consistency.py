"""Whether the parts of a table that was read belong together.

A table is two files that people copy, merge and edit. Its rows repeat what follows from its
networks, so they show whether they were made from these networks and by the same formula.
"""

from __future__ import annotations

from latency_tables.errors import TableFormatError
from latency_tables.in_network import derived_rows
from latency_tables.schema import IN_NETWORK
from latency_tables.table import LatencyTable

#: Costs are repeated to the last digits; this share of the largest leaves room for another order of
#: addition only.
TOLERANCE = 1e-6


def check_consistency(table: LatencyTable) -> None:
    """Raise TableFormatError where the rows contradict the networks."""
    rows = derived_rows(table)
    room_ms = TOLERANCE * max((abs(row.in_network_ms or 0.0) for row in rows), default=0.0)
    for stored, derived in zip(table.rows, rows, strict=True):
        for name in IN_NETWORK:
            found, expected = getattr(stored, name), getattr(derived, name)
            if found is None and expected is None:
                continue
            if found is None or expected is None or abs(found - expected) > room_ms:
                raise TableFormatError(
                    f"row {stored.piece!r}: {name} is {_ms(found)}, but the table's networks give "
                    f"{_ms(expected)}: the files do not belong together; write the table again "
                    "with `dshrink profile`"
                )


def _ms(value: float | None) -> str:
    return "empty" if value is None else f"{value:.6g} ms"
