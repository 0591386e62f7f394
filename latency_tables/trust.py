"""How far a table may be trusted, in lines for people: one verdict, and each warning once.

Rows and predictions are told apart: a network's latency is a sum whose errors cancel, so that
predictions may be exact where hardly a row is. Hence rough rows are no warning about a table whose
predictions were found to be right.
"""

from __future__ import annotations

import re

from latency_tables.schema import Row
from latency_tables.table import FIT_MAPE_PERCENT, LatencyTable
from latency_tables.wording import once_each

#: A row is rough where half of its interval is a larger share of what it costs.
ROUGH_PERCENT = 10.0
#: So far the machine's level may move before it is worth a warning.
DRIFT_PERCENT = 5.0
AGAIN = "close other programs and profile again into another folder"
_ON_NOISY_ROWS = re.compile(r"\d+ of \d+ rows are noisy")


def is_rough(row: Row) -> bool:
    """Whether what the row says of a piece is not known well; failed rows say nothing."""
    if row.latency_ms is None or row.verdict in ("published", "bounded"):
        return False
    low_ms, high_ms = row.cost_interval_ms
    cost_ms = row.cost_ms
    if row.verdict != "ok" or low_ms is None or high_ms is None or cost_ms is None:
        return row.verdict != "ok"
    return (high_ms - low_ms) / 2 > ROUGH_PERCENT / 100 * max(cost_ms, 0.0)


def verdict_line(table: LatencyTable) -> str:
    """Whether a search may use the table and why, in one line."""
    check = table.hold_out
    if not table.fit_for_search or check is None:
        advice = "" if table.origin is not None else f"; {AGAIN}"
        return f"NOT fit for search: {table.fit_reason}{advice}, or search with --allow-unfit"
    rough = sum(map(is_rough, table.rows))
    single = (
        f"; single rows are rough: {rough} of {len(table.rows)} known to worse than "
        f"±{ROUGH_PERCENT:g} %"
        if rough
        else ""
    )
    return (
        f"Usable: predictions within {check.mape_percent:.2g} % on average (limit "
        f"{FIT_MAPE_PERCENT:g} %){single}"
    )


def warning_lines(table: LatencyTable) -> tuple[str, ...]:
    """What to know or mend, each kind once with its worst figure."""
    found = list(table.warnings)
    if table.fit_for_search:
        # Tables of earlier versions hold this whether predictions were right or not.
        found = [line for line in found if not _ON_NOISY_ROWS.match(line)]
    elif table.level and table.level.moved_percent > DRIFT_PERCENT:
        found.append(
            f"the machine's speed drifted by up to {table.level.moved_percent:.1f} %; {AGAIN}"
        )
    return once_each(found)
