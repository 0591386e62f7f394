from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_folders import shed_results, shed_table, write_everything

from dshrink.report.folder import read_folder
from dshrink.report.records import ReportError
from dshrink.results import save_results
from latency_tables.io import save_table


def test_every_kind_of_file_is_known_by_what_it_says_it_is(tmp_path: Path) -> None:
    write_everything(tmp_path)
    (tmp_path / "plan.json").rename(tmp_path / "whatever.json")
    (tmp_path / "results.csv").rename(tmp_path / "speeds.csv")
    found = read_folder(tmp_path)
    assert [held.file for held in found.tables] == ["table/table.json"]
    assert [held.file for held in found.plans] == ["whatever.json"]
    assert [held.file for held in found.results] == ["speeds.csv"]
    assert [held.file for held in found.certificates] == ["plan.onnx.certificate.json"]
    assert [held.file for held in found.refits] == ["refit/refit.json"]
    assert [held.file for held in found.frontiers] == ["frontier.csv"]
    assert [held.file for held in found.importances] == ["importance.csv"]
    assert [held.file for held in found.experiments] == ["table2.json"]
    assert found.unreadable == ()


def test_results_know_how_they_were_measured(tmp_path: Path) -> None:
    write_everything(tmp_path)
    (held,) = read_folder(tmp_path).results
    (run,) = held.value.runs
    assert run.processes == (7, 8)
    assert run.measured_s == 3.0
    assert run.conditions.device == "shed"


def test_a_studys_results_are_shown_once_and_measured_by_its_benchmark(tmp_path: Path) -> None:
    write_everything(tmp_path)
    (tmp_path / "results.jsonl").rename(tmp_path / "bench.jsonl")
    save_results(shed_results(), tmp_path / "bench.csv")
    (held,) = read_folder(tmp_path).results
    assert held.file == "results.csv"
    assert len(held.value.runs) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("table/table.json", "{"),
        ("table/table.csv", "piece,kind\nstem,stem\n"),
        ("plan.json", '{"schema": "dshrink.plan", "schema_version": 2}'),
        ("results.csv", "network,device,runtime,precision,batch,threads,throughput_fps,"
         "throughput_low_fps,throughput_high_fps\na,b,c,d,0,1,1,1,1\n"),
        ("plan.onnx.certificate.json", "[]"),
        ("refit/refit.json", "{}"),
        ("table2.json", '{"experiment": "table2", "dshrink": "1", "rows": 3}'),
        ("frontier.csv", "time_ms,importance,mask\n-1,2,11\n"),
        ("importance.csv", "st,end,st_act,end_act,val_acc\n3,1,1,1,0\n"),
        ("results.jsonl", '{"schema": "dshrink.benchmark"}\n'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_the_rest_is_read(tmp_path: Path, file: str, text: str) -> None:
    write_everything(tmp_path)
    (tmp_path / file).write_text(text)
    found = read_folder(tmp_path)
    (damaged,) = found.unreadable
    assert Path(damaged.file).stem == Path(file).stem
    assert damaged.reason and "\n" not in damaged.reason
    kinds = (found.tables, found.plans, found.results, found.certificates, found.refits)
    kinds += (found.experiments, found.frontiers, found.importances)
    assert sum(map(len, kinds)) == 7


def test_half_a_table_is_named(tmp_path: Path) -> None:
    save_table(shed_table(), tmp_path)
    (tmp_path / "table.json").unlink()
    (damaged,) = read_folder(tmp_path).unreadable
    assert "table.json: no such file" in damaged.reason


def test_a_folder_without_anything_of_ours_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ReportError, match="nothing to report"):
        read_folder(tmp_path)
    with pytest.raises(ReportError, match="no such folder"):
        read_folder(tmp_path / "missing")


def test_journals_and_hidden_folders_are_not_read(tmp_path: Path) -> None:
    save_table(shed_table(), tmp_path / "table")
    for name in ("a.journal", ".trash"):
        save_table(shed_table(), tmp_path / name)
    assert len(read_folder(tmp_path).tables) == 1


def test_only_the_files_that_are_asked_for_are_read(tmp_path: Path) -> None:
    write_everything(tmp_path)
    found = read_folder(tmp_path, [tmp_path / "results.csv", tmp_path / "table" / "table.json"])
    assert (len(found.tables), len(found.results), found.plans) == (1, 1, ())
