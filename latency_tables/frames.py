"""A latency table as a pandas DataFrame, for notebooks and for joining tables of many devices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import pandas as pd

from latency_tables.table import LatencyTable


def to_frame(tables: LatencyTable | Iterable[LatencyTable]) -> pd.DataFrame:
    """One line a row, with the model and the conditions of its table in columns before it.

    Latencies are in ms, NaN where a measurement failed.
    """
    found = [tables] if isinstance(tables, LatencyTable) else list(tables)
    return pd.DataFrame(
        {"model": table.model, **table.conditions.to_json(), **asdict(row)}
        for table in found
        for row in table.rows
    )
