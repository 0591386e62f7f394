from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_tables import CONDITIONS, synthetic_row, synthetic_table

from latency_tables.errors import ConditionsError, LatencyTableError, TableFormatError
from latency_tables.files import write_atomically
from latency_tables.io import load_table, save_table
from latency_tables.networks import Level
from latency_tables.schema import COLUMNS
from latency_tables.table import LatencyTable


def table() -> LatencyTable:
    made = synthetic_table([1.0, 2.0, 4.0], [0.5, None, 3.0], bias_map_ms={2: 3.25})
    failed = synthetic_row("dense", 1, latency_ms=None, reason='timeout, "60 s"')
    return replace(
        made,
        rows=(*made.rows, failed),
        fingerprint={"cpu": "Ünïcode", "cores": [0, 1], "governor": None},
        boards=({"board": "b", "slower_percent": 0.3},),
        warnings=("noisy",),
        seed=7,
        date="2024-05-01",
        dshrink_version="0.1.0",
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_table(table(), tmp_path)
    return tmp_path


def refusal(path: Path) -> str:
    """The error of loading ``path``: one line that names a file."""
    with pytest.raises(LatencyTableError) as caught:
        load_table(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path)), message
    return message


def edit_csv(directory: Path, edit: Callable[[list[list[str]]], object]) -> None:
    """Change the cells in place; cell [0] is the header."""
    path = directory / "table.csv"
    cells = list(csv.reader(io.StringIO(path.read_text())))
    edit(cells)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    path.write_text(text.getvalue())


def edit_json(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "table.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def network(data: dict[str, Any], number: int, **changes: object) -> None:
    """Change a measured network."""
    data["networks"][number].update(changes)


def put(line: int, column: str, value: str) -> Callable[[list[list[str]]], object]:
    def edit(cells: list[list[str]]) -> None:
        cells[line - 1][COLUMNS.index(column)] = value

    return edit


def test_a_table_comes_back_as_it_was(saved: Path) -> None:
    assert load_table(saved) == table()


def test_either_file_names_the_table(saved: Path) -> None:
    assert load_table(saved / "table.csv") == load_table(saved / "table.json") == table()


def test_a_table_may_be_renamed_with_its_sidecar(saved: Path) -> None:
    (saved / "table.csv").rename(saved / "cpu.csv")
    (saved / "table.json").rename(saved / "cpu.json")
    assert load_table(saved / "cpu.csv") == table()


def test_the_directory_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    save_table(table(), tmp_path / "mobilenet.v2")
    assert load_table(tmp_path / "mobilenet.v2") == table()
    assert "no such file" in refusal(tmp_path / "mobilenet.v3")


def test_only_the_two_files_are_left(saved: Path) -> None:
    save_table(table(), saved)
    assert sorted(path.name for path in saved.iterdir()) == ["table.csv", "table.json"]


def test_the_csv_is_what_a_spreadsheet_expects(saved: Path) -> None:
    lines = (saved / "table.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1].startswith("stem,stem,,stem first,stem last,")
    assert lines[1].endswith(f",ok,,,,,,,,{CONDITIONS.digest}")
    assert len(lines) == 1 + len(table().rows)


def test_a_spreadsheets_line_ends_and_byte_order_mark_do_no_harm(saved: Path) -> None:
    path = saved / "table.csv"
    text = path.read_text().replace("\n", "\r\n") + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_table(saved) == table()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latency_ms", "abc", "'latency_ms' must be a number or null, got \"abc\""),
        ("latency_ms", "", "latency_ms is empty"),
        ("latency_ms", "nan", "latency_ms must be a finite number"),
        ("latency_ms", "inf", "latency_ms must be a finite number"),
        ("latency_ms", "-1.0", "latency_ms must be above 0"),
        ("latency_ms", "0", "latency_ms must be above 0"),
        ("latency_ms", "1_0", "'latency_ms' must be a number or null, got \"1_0\""),
        ("latency_ms", "1,5", "'latency_ms' must be a number or null, got \"1,5\""),
        ("iqr_ms", "-0.5", "iqr_ms must be 0 or more"),
        ("low_ms", "1.5", "low_ms <= latency_ms <= high_ms"),
        ("samples", "4.5", "'samples' must be an integer, got \"4.5\""),
        ("samples", "", "'samples' must be an integer, got \"\""),
        ("macs", "-3", "macs must not be negative"),
        ("block", "x", "'block' must be an integer"),
        ("block", "-2", "needs the number of its block"),
        ("kind", "orignal", "unknown kind of piece 'orignal'"),
        ("piece", "block 9 original", "should be named 'block 0 original'"),
        ("digest", "123", "16 hex digits"),
        ("verdict", "fine", "verdict 'fine' is not one of"),
        ("verdict", "failed", "needs a reason"),
    ],
)
def test_a_bad_value_is_refused_with_its_line(
    saved: Path, column: str, value: str, message: str
) -> None:
    edit_csv(saved, put(3, column, value))
    found = refusal(saved)
    assert "table.csv: line 3 (" in found
    assert message in found
    assert "dshrink profile" in found


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c[0].__setitem__(COLUMNS.index("latency_ms"), "latency_us"),
            "line 1: missing column latency_ms",
        ),
        (lambda c: [row.append("x") for row in c], "line 1: unknown column x; remove"),
        (lambda c: [row.append(row[0]) for row in c], "line 1: column piece is given twice"),
        (lambda c: c[4].pop(), f"line 5: {len(COLUMNS) - 1} values for {len(COLUMNS)} columns"),
        (lambda c: c.clear(), "empty file"),
        (lambda c: c.__delitem__(slice(1, None)), "no rows below the header"),
        (lambda c: c.append(c[1]), "line 11 (stem): 'stem' is a duplicate of line 2"),
        (lambda c: c.pop(3), "its 8 rows are not the 9 rows that"),
        (lambda c: put(3, "p99_ms", "9.0")(c), "its 9 rows are not the 9 rows that"),
        (lambda c: put(4, "conditions", "00000000")(c), "line 4 (block 0 merged): rows of mixed"),
    ],
)
def test_a_csv_that_is_no_table_is_refused(
    saved: Path, edit: Callable[[list[list[str]]], object], message: str
) -> None:
    edit_csv(saved, edit)
    assert message in refusal(saved)


def test_a_row_of_a_block_that_does_not_exist_is_refused(saved: Path) -> None:
    def edit(cells: list[list[str]]) -> None:
        put(10, "block", "3")(cells)
        put(10, "piece", "block 3 dense")(cells)

    edit_csv(saved, edit)
    found = refusal(saved)
    assert "table.csv: line 10 (block 3 dense): block 3 does not exist" in found
    assert "synthetic has 3 blocks numbered from 0: delete the line" in found


def test_a_table_that_went_through_pandas_is_the_same(saved: Path) -> None:
    path = saved / "table.csv"
    # With blocks that are numbers with gaps, pandas makes 0.0 of 0; to_csv adds its index.
    frame = pd.read_csv(path, dtype={"digest": str, "conditions": str})
    frame.to_csv(path)
    assert ",0.0," in path.read_text()
    assert load_table(saved) == table()
    frame.to_csv(path, sep=";", decimal=",", encoding="utf-16")
    assert load_table(saved) == table()


@pytest.mark.parametrize(
    ("text", "message"),
    [('"stem', "not CSV"), ('a,"b"c\n', "not CSV"), ("\x00", "holds a null character")],
)
def test_broken_csv_is_refused(saved: Path, text: str, message: str) -> None:
    path = saved / "table.csv"
    path.write_text(path.read_text() + text)
    assert f"table.csv: line 11: {message}" in refusal(saved)


def test_a_file_that_is_no_text_is_refused(saved: Path) -> None:
    (saved / "table.csv").write_bytes(b"\xff\xfe\x00")
    assert "table.csv: cannot be read as text" in refusal(saved)


@pytest.mark.parametrize("name", ["table.csv", "table.json"])
def test_a_missing_half_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert f"{name}: no such file" in refusal(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", "other", "field 'schema' must be 'dshrink.latency_table', got \"other\""),
        ("schema_version", 3, "schema_version 3 is newer than 2"),
        ("schema_version", 3, "update dshrink"),
        ("schema_version", 0, "field 'schema_version' must be an integer from 1"),
        ("schema_version", "1", "field 'schema_version' must be an integer from 1"),
        ("schema_version", True, "field 'schema_version' must be an integer from 1"),
        ("unit", "us", 'field \'unit\' must be "ms", got "us"'),
        ("model", 3, "field 'model' must be a text, got 3"),
        ("resolution", [224], "field 'resolution' must be a list of length 2, got [224]"),
        ("resolution", "224", "field 'resolution' must be a list"),
        ("resolution", [224, 0.5], "field 'resolution[1]' must be an integer, got 0.5"),
        ("in_channels", 0, "must be positive"),
        ("in_channels", True, "field 'in_channels' must be an integer"),
        ("block_names", ["a", 1, "c"], "field 'block_names[1]' must be a text, got 1"),
        ("block_names", ["a", "a", "c"], "two blocks share a name"),
        ("unmergeable", {"one": "x"}, "'one' is not the number of a block"),
        ("unmergeable", {"01": "x"}, "'01' is not the number of a block"),
        ("unmergeable", {"5": "x"}, "block 5 does not exist"),
        ("unmergeable", {"1": None}, "must be a text"),
        ("unmergeable", {"0": "swish"}, "its block cannot merge (swish)"),
        ("conditions", None, "field 'conditions' must be an object, got null"),
        ("conditions", {"device": "a"}, "'runtime' is missing"),
        ("fingerprint", [], "field 'fingerprint' must be an object, got []"),
        ("warnings", "one", "field 'warnings' must be a list"),
        ("boards", ["x"], "field 'boards[0]' must be an object, got \"x\""),
        ("row_count", 3, "are not the 3 rows"),
        ("rows_digest", "0" * 16, "are not the 9 rows"),
        ("colour", "red", "unknown field 'colour'"),
        ("calibration", None, "unknown field 'calibration'"),
        ("networks", {}, "field 'networks' must be a list, got {}"),
        ("networks", [], "but the table's networks give empty"),
        ("estimate", None, "but the table's networks give empty"),
        ("estimate", {"prior": "alone"}, "estimate: field 'spread' is missing"),
        ("level", {"processes": 8}, "level: field 'level_percent_low' is missing"),
    ],
)
def test_a_sidecar_that_makes_no_sense_is_refused(
    saved: Path, key: str, value: object, message: str
) -> None:
    edit_json(saved, lambda data: data.__setitem__(key, value))
    assert message in refusal(saved)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("model"), "field 'model' is missing"),
        (lambda d: d["conditions"].update(batch=0), "batch must be 1 or more"),
        (lambda d: d["conditions"].update(colour=1), "unknown field 'colour'"),
        (lambda d: network(d, 1, measured_ms="11"), "'measured_ms' must be a number"),
        (lambda d: network(d, 1, measured_ms=-1), "measured_ms must be above 0"),
        (lambda d: network(d, 1, measured_ms=10**400), "'measured_ms' must be a number of up to"),
        (lambda d: network(d, 1, measured_ms=5.0), "lies outside its interval"),
        (lambda d: network(d, 1, low_ms=99.0), "lies outside its interval"),
        (lambda d: network(d, 1, measured_ms=8.0, low_ms=7.9), "original': in_network_low_ms"),
        (lambda d: [network(d, n, role="check") for n in range(4)], "do not belong together"),
        (lambda d: network(d, 1, role="calibration"), '\'role\' must be "fit" or "check"'),
        (lambda d: network(d, 1, padding="zero"), "unknown padding"),
        (lambda d: network(d, 1, keep_mask="1"), "1 characters"),
        (lambda d: network(d, 1, keep_mask="000"), "cannot merge"),
        (lambda d: network(d, 1, processes=-1), "processes must be 0 or more"),
        (lambda d: network(d, 1, colour=1), "unknown field 'colour'"),
        (lambda d: d["networks"][1].pop("keep_mask"), "networks[1]: field 'keep_mask' is missing"),
        (lambda d: d["networks"].__delitem__(slice(4)), "row 'stem': in_network"),
        (lambda d: d["estimate"].update(prior="pairs"), 'must be "alone" or "profile"'),
        (lambda d: d["estimate"].update(spread=0.0), "spread must be between 0 and 1, got 0"),
        (lambda d: d["estimate"].update(spread=0.2), "row 'stem': in_network"),
    ],
)
def test_a_sidecar_whose_parts_do_not_fit_is_refused(
    saved: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_json(saved, edit)
    assert message in refusal(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: not valid JSON"),
        ('{\n"a": ', "line 2: not valid JSON"),
        ("[]", "expected an object"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1, "a": 2}', "field 'a' is given twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json_is_refused(saved: Path, text: str, message: str) -> None:
    (saved / "table.json").write_text(text)
    assert message in refusal(saved)


def test_the_sidecar_of_other_conditions_is_refused(saved: Path) -> None:
    edit_json(saved, lambda data: data["conditions"].update(batch=8))
    with pytest.raises(ConditionsError, match="copy both files of one table"):
        load_table(saved)


def test_a_pair_of_which_one_half_is_older_is_refused(saved: Path) -> None:
    newer = replace(table(), rows=table().rows[:-1])
    old_sidecar = (saved / "table.json").read_text()
    save_table(newer, saved)
    (saved / "table.json").write_text(old_sidecar)
    assert "only one of the two files written" in refusal(saved)


def test_derived_values_are_never_trusted(saved: Path) -> None:
    def flatter(data: dict[str, Any]) -> None:
        data["hold_out"].update(mape_percent=0.0, interval_percent=0.0)
        data.update(fit_for_search=False, fit_reason="because", data_note="none")

    edit_json(saved, flatter)
    assert load_table(saved) == table()


def test_the_sidecar_shows_derived_values_to_readers(saved: Path) -> None:
    data = json.loads((saved / "table.json").read_text())
    hold_out = table().hold_out
    assert hold_out is not None
    assert data["hold_out"]["mape_percent"] == pytest.approx(hold_out.mape_percent)
    assert data["hold_out"]["kendall_tau"] == pytest.approx(hold_out.kendall_tau)
    assert data["fit_for_search"] is True
    assert (data["unit"], data["schema_version"]) == ("ms", 2)


def test_costs_that_its_networks_do_not_give_are_refused(saved: Path) -> None:
    edit_csv(saved, put(3, "in_network_high_ms", "9.5"))
    found = refusal(saved)
    assert "row 'block 0 original': in_network_high_ms is 9.5 ms, but the table's networks" in found
    assert "write the table again with `dshrink profile`" in found


def test_the_level_survives_a_file(tmp_path: Path) -> None:
    level = Level(
        level_percent_low=99.2,
        level_percent_high=100.6,
        spread_percent=2.4,
        moved_percent=7.0,
        processes=8,
    )
    save_table(replace(table(), level=level), tmp_path)
    assert load_table(tmp_path).level == level
    assert level.known_percent == pytest.approx(0.7)


def test_a_failed_row_keeps_its_reason(saved: Path) -> None:
    row = load_table(saved).row("dense", 1)
    assert (row.latency_ms, row.verdict, row.reason) == (None, "failed", 'timeout, "60 s"')


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_tables_and_search_need_neither_torch_nor_a_device() -> None:
    modules = (
        "latency_tables.io, latency_tables.predictor, latency_tables.compare, "
        "latency_tables.pieces, "
        "dshrink.search.greedy"
    )
    heavy = "{'torch', 'timm', 'onnx', 'pandas', 'matplotlib', 'onnxruntime'}"
    heavy += " | {'devices', 'profiler'}"
    code = f"import sys, {modules}; print(sorted(({heavy}) & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


def test_a_broken_sidecar_is_a_format_error(saved: Path) -> None:
    (saved / "table.json").write_text("{}")
    with pytest.raises(TableFormatError, match="field 'schema' is missing"):
        load_table(saved)


def test_which_board_measured_a_row_survives_and_counts(tmp_path: Path) -> None:
    first = table()
    rows = (replace(first.rows[0], board="pi-1+pi-2"), *first.rows[1:])
    boards = ({"board": "pi-2", "reference": "pi-1", "slower_percent": 0.4},)
    pooled = replace(first, rows=rows, boards=boards)
    save_table(pooled, tmp_path)
    assert load_table(tmp_path) == pooled
    assert pooled.digest != first.digest


@pytest.mark.parametrize("odd", ["\0", "\ud800", 2**64])
def test_what_could_not_be_read_back_is_not_written(odd: object, tmp_path: Path) -> None:
    table = replace(synthetic_table([1.0], [0.5]), fingerprint={"odd": odd})
    with pytest.raises(LatencyTableError, match="to write: fingerprint: field 'odd' must be"):
        save_table(table, tmp_path)
