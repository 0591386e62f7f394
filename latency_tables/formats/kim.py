"""Kim et al.'s table of spans: CSV, ``id,st,end,time,stdev``, a line for each T(st, end) in ms.

Their code joins it by ``st`` and ``end``: ``generate_optimal_time_table`` makes ``opt_time_*.csv``
of it, and ``optimal_patterns`` solves that (snu-mllab/Efficient-CNN-Depth-Compression, exps/ and
utils/dp.py). T is what a span's convolution takes with its activation, measured alone; what a table
of ours says a span costs in a network is another number, written only when asked for.
"""

from __future__ import annotations

from collections import Counter

from latency_tables.csv_lines import format_csv
from latency_tables.errors import TableFormatError
from latency_tables.formats.exporting import (
    ALONE,
    Export,
    check_any,
    latency_or_reason,
    stdev_or_none,
)
from latency_tables.table import LatencyTable

NAME = "kim"
COLUMNS = ("id", "st", "end", "time", "stdev")
NOT_A_SPAN = "they are no spans but stem, head, additions or operators between"


def write_kim(table: LatencyTable, which: str = ALONE) -> Export:
    """The CSV of a table of spans, in the order of their code.

    Raises TableFormatError for a table of blocks, and where no span has a latency.
    """
    if table.chain is None:
        raise TableFormatError(
            f"the format {NAME} holds spans, and the table of {table.model} is cut into blocks: "
            "profile it with --segments spans"
        )
    found: list[tuple[int, int, float, float | None]] = []
    left_out: Counter[str] = Counter()
    for row in table.rows:
        if row.kind != "span" or row.span is None:
            left_out[NOT_A_SPAN] += 1
            continue
        latency = latency_or_reason(row, which)
        if isinstance(latency, str):
            left_out[latency] += 1
        else:
            found.append((*row.span, latency, stdev_or_none(row, which)))
    check_any(found, left_out, NAME)
    lines = [(number, *line) for number, line in enumerate(sorted(found))]
    return Export(content=format_csv(COLUMNS, lines), rows=len(lines), left_out=left_out)
