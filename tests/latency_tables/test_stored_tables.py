"""A table that was measured, and stored by schema version 1, loads in every later version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from latency_tables.errors import LatencyTableError, TableFormatError
from latency_tables.io import load_table, save_table
from latency_tables.predictor import predict
from latency_tables.schema import SCHEMA_VERSION

STORED = Path(__file__).parent / "stored" / "version_1"
#: Of what version 1 measured, as this version counts it.
ROWS_DIGEST = "9eee56a04812aeae"


def test_the_stored_file_is_of_version_1() -> None:
    assert json.loads((STORED / "table.json").read_text())["schema_version"] == 1


def test_a_stored_table_of_version_1_predicts_what_its_networks_said() -> None:
    table = load_table(STORED)
    assert (table.model, len(table.rows), table.mergeable) == ("test_resnet", 10, (0, 1, 2, 3))
    assert (table.rows_digest, table.conditions.digest) == (ROWS_DIGEST, "e2175de5")
    # What was "quiet" then is another statistic now.
    assert table.conditions.statistic == "quiet-1"
    assert [network.role for network in table.networks] == ["fit"] * 7 + ["check"] * 8
    assert table.fit_for_search
    assert table.estimate is not None and table.estimate.prior == "alone"
    check = table.hold_out
    assert check is not None
    # Version 1 predicted with a line through sums, which was off by 0.658 %.
    assert check.line_mape_percent == pytest.approx(0.658093400570152)
    assert check.mape_percent == pytest.approx(0.55, abs=0.05)
    assert table.sum_ms("0000") == pytest.approx(0.1311854875)
    assert predict(table, "0000").latency_ms == pytest.approx(0.1170375, rel=0.005)


def test_the_networks_of_a_line_count_as_known_to_one_per_cent() -> None:
    first, last = load_table(STORED).networks[0], load_table(STORED).networks[-1]
    assert first.low_ms == pytest.approx(0.99 * first.measured_ms)
    assert first.high_ms == pytest.approx(1.01 * first.measured_ms)
    stored = json.loads((STORED / "table.json").read_text())["hold_out"]["networks"][-1]
    assert (last.low_ms, last.high_ms) == (stored["measured_low_ms"], stored["measured_high_ms"])


def test_a_stored_table_is_written_as_one_of_today(tmp_path: Path) -> None:
    table = load_table(STORED)
    save_table(table, tmp_path)
    assert json.loads((tmp_path / "table.json").read_text())["schema_version"] == SCHEMA_VERSION
    assert load_table(tmp_path) == table
    assert table.rows[0].in_network_ms is not None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"context": "isolated"', '"context": "isolated", "colour": 1', "unknown field 'colour'"),
        ('"rows_digest": "f', '"rows_digest": "0', "are not the 10 rows"),
        ('"sum_ms": 0.1311854875', '"sum": 1', r"calibration: networks\[1\]: unknown field 'sum'"),
        ('"measured_low_ms": 0.114789', '"measured_low_ms": 0.2', "lies outside its interval"),
    ],
)
def test_a_file_of_version_1_is_checked_as_well(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(STORED, tmp_path / "table")
    path = folder / "table.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(LatencyTableError, match=message):
        load_table(folder)


def test_warnings_of_rounds_and_pieces_are_one_each() -> None:
    said = [line for line in load_table(STORED).warnings if "%" in line]
    assert said == [
        "the machine's speed drifted by up to 47.5 %; close other programs and profile again",
        "Repeat check: 1 of 3 pieces differed by more than 1 % (worst 1.6 %)",
    ]


def test_a_newer_version_is_refused_with_advice(tmp_path: Path) -> None:
    folder = shutil.copytree(STORED, tmp_path / "table")
    path = folder / "table.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 3'))
    with pytest.raises(TableFormatError, match=r"missing columns in_network_ms"):
        load_table(folder)
    save_table(load_table(STORED), folder)
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 3'))
    with pytest.raises(TableFormatError, match=r"schema_version 3 is newer than 2, .*: update dsh"):
        load_table(folder)
