"""A table that was measured, and stored by schema version 1, loads in every later version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from latency_tables.errors import TableFormatError
from latency_tables.io import load_table, save_table
from latency_tables.predictor import predict

STORED = Path(__file__).parent / "stored" / "version_1"


def test_the_stored_file_is_of_version_1() -> None:
    assert json.loads((STORED / "table.json").read_text())["schema_version"] == 1


def test_a_stored_table_of_version_1_says_what_it_said() -> None:
    table = load_table(STORED)
    assert (table.model, len(table.rows), table.mergeable) == ("test_resnet", 10, (0, 1, 2, 3))
    assert (table.digest, table.conditions.digest) == ("f264726361b01117", "5f9f9242")
    assert table.fit_for_search
    assert table.hold_out is not None
    assert table.hold_out.mape_percent == pytest.approx(0.658093400570152)
    assert table.sum_ms("0000") == pytest.approx(0.1311854875)
    assert predict(table, "0000").latency_ms == pytest.approx(0.11706703691632529)


def test_a_stored_table_is_written_again_without_a_change(tmp_path: Path) -> None:
    save_table(load_table(STORED), tmp_path)
    assert (tmp_path / "table.csv").read_bytes() == (STORED / "table.csv").read_bytes()
    stored, written = (
        json.loads((folder / "table.json").read_text()) for folder in (STORED, tmp_path)
    )
    assert written.keys() == stored.keys()
    assert written["rows_digest"] == stored["rows_digest"]
    assert written["hold_out"]["networks"] == stored["hold_out"]["networks"]


def test_a_newer_version_is_refused_with_advice(tmp_path: Path) -> None:
    folder = shutil.copytree(STORED, tmp_path / "table")
    path = folder / "table.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(TableFormatError, match=r"schema_version 2 is newer than 1, .*: update dsh"):
        load_table(folder)
