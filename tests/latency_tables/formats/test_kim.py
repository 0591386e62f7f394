"""Kim et al.'s CSV, read by pandas as their code reads it, and imported again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from published_readers import kim_optimal_times, kim_value
from synthetic_tables import synthetic_span_table, synthetic_table

from latency_tables.errors import TableFormatError
from latency_tables.formats.exporting import IN_NETWORK
from latency_tables.formats.kim import write_kim
from latency_tables.published_times import load_times
from latency_tables.table import LatencyTable

SPANS = {(0, 1): 1.0, (1, 2): 0.75, (2, 3): 0.5, (0, 2): 3.0, (1, 3): 0.875, (0, 3): None}


def spans() -> LatencyTable:
    return synthetic_span_table(SPANS, mask="111", skips=[(1, 3)], slope=0.8)


def written(table: LatencyTable, folder: Path, which: str = "alone") -> Path:
    path = folder / "time_shed.csv"
    content = write_kim(table, which).content
    assert isinstance(content, str)
    path.write_text(content)
    return path


def test_their_code_finds_every_span_that_has_a_latency(tmp_path: Path) -> None:
    frame = pd.read_csv(written(spans(), tmp_path))
    assert list(frame.columns) == ["id", "st", "end", "time", "stdev"]
    assert list(frame["id"]) == list(range(5))
    keys = list(zip(frame["st"], frame["end"], strict=True))
    assert keys == sorted(keys)
    for (st, end), latency_ms in SPANS.items():
        assert kim_value(frame, st, end, "time") == latency_ms
    # A normal distribution whose quartiles are 0.01 apart.
    assert kim_value(frame, 0, 1, "stdev") == pytest.approx(0.01 / 2 / 0.67448975)


def test_what_is_no_span_or_has_no_latency_is_counted() -> None:
    export = write_kim(spans())
    assert export.rows == 5
    assert export.lines("kim") == [
        "3 of 9 rows have no place in the format kim: they are no spans but stem, head, additions "
        "or operators between",
        "1 of 9 rows have no place in the format kim: their measurement failed or was not finished",
    ]


def test_it_is_imported_again_as_it_is_and_as_their_optimal_times(tmp_path: Path) -> None:
    path = written(spans(), tmp_path)
    measured = {("span", span): ms for span, ms in SPANS.items() if ms is not None}
    found = load_times(path, path.name)
    assert {time.place: time.latency_ms for time in found.times} == measured
    frame = pd.read_csv(path)
    optimal = kim_optimal_times(frame, [span for _, span in sorted(measured)])
    # 1 + 0.75 is faster than 3: as one convolution the span (0, 2] is not known any more.
    assert list(optimal["breaks"]) == ["0,1", "0,1,2", "1,2", "1,3", "2,3"]
    optimal.to_csv(path)
    found = load_times(path, path.name)
    assert {time.place: time.latency_ms for time in found.times} == {
        place: ms for place, ms in measured.items() if place != ("span", (0, 2))
    }
    assert found.split == {(0, 2)}


def test_pandas_and_spreadsheets_may_have_had_it(tmp_path: Path) -> None:
    path = written(spans(), tmp_path)
    before = load_times(path, path.name)
    frame = pd.read_csv(path)
    frame.astype({"st": float, "end": float}).to_csv(path)
    assert path.read_text().splitlines()[1].startswith("0,0,0.0,1.0,")
    assert load_times(path, path.name) == before
    frame.to_csv(path, sep=";", decimal=",", index=False)
    assert load_times(path, path.name) == before


def test_costs_in_the_network_are_written_only_when_asked_for(tmp_path: Path) -> None:
    table = spans()
    frame = pd.read_csv(written(table, tmp_path, IN_NETWORK))
    for row in table.rows:
        if row.kind == "span" and row.is_measured and row.span:
            found = kim_value(frame, *row.span, "time")
            assert found == row.in_network_ms != row.latency_ms
    # The spread of the piece alone is not that of its cost in a network.
    assert all(math.isnan(value) for value in frame["stdev"])
    alone = replace(
        table,
        networks=(),
        estimate=None,
        rows=tuple(
            replace(row, in_network_ms=None, in_network_low_ms=None, in_network_high_ms=None)
            for row in table.rows
        ),
    )
    with pytest.raises(TableFormatError, match="5 rows: the table has no in_network_ms of them"):
        write_kim(alone, IN_NETWORK)


def test_a_table_of_blocks_has_no_spans() -> None:
    with pytest.raises(TableFormatError, match=r"cut into blocks: profile it with --segments span"):
        write_kim(synthetic_table([1.0, 2.0], [0.5, None]))
