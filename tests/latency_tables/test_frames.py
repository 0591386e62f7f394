"""A DataFrame says what the table says."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from synthetic_tables import synthetic_row, synthetic_table


def test_a_frame_has_a_line_for_each_row_of_each_table():
    table = synthetic_table([4.0, 3.0], [1.0, None])
    frame = pd.concat([table.to_frame(), table.to_frame()])
    assert len(frame) == 2 * len(table.rows)
    assert list(frame["piece"])[: len(table.rows)] == [row.piece for row in table.rows]
    assert set(frame["device"]) == {table.conditions.device}


def test_the_latencies_of_a_frame_add_up_to_the_sum_of_the_table():
    table = synthetic_table([4.0, 3.0], [1.0, 2.0])
    frame = table.to_frame()
    kept = frame[frame["kind"].isin(["stem", "head", "original"])]
    assert kept["latency_ms"].sum() == pytest.approx(table.sum_ms("11"))


def test_a_failed_row_has_no_number_in_the_frame():
    table = synthetic_table([4.0, 3.0], [1.0, 2.0])
    failed = synthetic_row("merged", 0, latency_ms=None)
    rows = tuple(failed if row.piece == failed.piece else row for row in table.rows)
    frame = replace(table, rows=rows, networks=()).to_frame()
    known = frame.set_index("piece")["latency_ms"]
    assert math.isnan(known[failed.piece])
    assert known.drop(failed.piece).notna().all()
