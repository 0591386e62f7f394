"""Tables of layers on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from layer_tables import measured_row, table_of

from latency_tables.errors import ConditionsError, LatencyTableError, TableFormatError
from latency_tables.io import load_table
from latency_tables.layers.io import is_layer_table, load_layer_table, save_layer_table
from latency_tables.layers.texts import parse_layer
from latency_tables.networks import Level
from latency_tables.origin import Origin

GRID = "cin=8,16 cout=8 k=1,3 hw=14"


def small(**fields: object):
    return table_of(GRID, lambda layer: 1e-6 * layer.spec.macs, **fields)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    level = Level(
        level_percent_low=99.0,
        level_percent_high=101.0,
        spread_percent=1.0,
        moved_percent=2.0,
        processes=4,
    )
    table = small(level=level, warnings=("a warning",), fingerprint={"cores": 2}, seed=3)
    first, *others = table.rows
    first = replace(
        first, names=("stem", "layer 2"), beside_ms=-0.1, beside_low_ms=-0.2, beside_high_ms=0.0
    )
    failed = replace(
        measured_row(parse_layer("cin=4 cout=4 hw=4"), 1.0),
        **dict.fromkeys(
            (
                *("latency_ms", "low_ms", "high_ms", "median_ms", "min_ms", "p90_ms", "p99_ms"),
                *("wall_latency_ms", "iqr_ms", "round_spread_percent"),
            ),
        ),
        verdict="failed",
        reason="crashed",
    )
    table = replace(table, rows=(first, *others, failed), context="pair")
    save_layer_table(table, tmp_path)
    assert load_layer_table(tmp_path) == table
    assert load_layer_table(tmp_path / "layers.json") == table
    assert is_layer_table(tmp_path)
    assert table.within_target == len(table.rows) - 1


def test_the_csv_is_one_that_pandas_reads(tmp_path: Path) -> None:
    table = small()
    frame = pd.read_csv(save_layer_table(table, tmp_path))
    assert frame["latency_ms"].tolist() == [row.latency_ms for row in table.rows]
    assert frame["in_channels"].tolist() == [row.layer.in_channels for row in table.rows]


def test_an_edited_or_mixed_table_is_refused(tmp_path: Path) -> None:
    path = save_layer_table(small(), tmp_path)
    text = path.read_text()
    path.write_text(text.replace(",ok,", ",published,", 1))
    with pytest.raises(TableFormatError, match=r"line 2.* a published row has no low_ms"):
        load_layer_table(tmp_path)
    path.write_text(text.replace(",0.1,", ",0.2,", 1))
    with pytest.raises(TableFormatError, match="are not the 4 rows"):
        load_layer_table(tmp_path)
    path.write_text(text.replace("conv,8,8,3", "conv,8,8,5", 1))
    with pytest.raises(LatencyTableError, match="the layer was edited"):
        load_layer_table(tmp_path)
    digest = small().conditions.digest
    path.write_text(text.replace(digest, "00000000", 1))
    with pytest.raises(ConditionsError, match="line 2 was measured under other conditions"):
        load_layer_table(tmp_path)
    path.write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(TableFormatError, match="3 rows are not the 4 rows"):
        load_layer_table(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(TableFormatError, match="no such file"):
        load_layer_table(tmp_path)


def test_where_a_networks_table_is_needed_the_kind_is_named(tmp_path: Path) -> None:
    save_layer_table(small(), tmp_path)
    with pytest.raises(TableFormatError, match="holds a table of layers, and a network's"):
        load_table(tmp_path)


def test_published_rows_need_their_origin_and_no_others_have_one() -> None:
    row = measured_row(parse_layer("cin=4 cout=4 hw=4"), 1.0)
    with pytest.raises(TableFormatError, match="need an origin"):
        replace(small(), rows=(row,), origin=Origin(source="us", licence="none"))
    with pytest.raises(TableFormatError, match="is there twice"):
        replace(small(), rows=(row, row))
    with pytest.raises(TableFormatError, match="expected low_ms <= latency_ms"):
        replace(row, latency_ms=2.0)
    with pytest.raises(TableFormatError, match="all be numbers"):
        replace(row, beside_ms=2.0)


def test_a_frame_has_a_line_for_each_layer_with_what_it_is_and_takes() -> None:
    table = small()
    frame = table.to_frame()
    assert list(frame["latency_ms"]) == [row.latency_ms for row in table.rows]
    assert list(frame["in_channels"]) == [row.layer.in_channels for row in table.rows]
    assert list(frame["kernel"]) == [(1, 1), (3, 3), (1, 1), (3, 3)]
    assert set(frame["device"]) == {"here"}
