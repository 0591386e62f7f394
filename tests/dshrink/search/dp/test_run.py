"""``dshrink search --method dp``: from two CSV files, and from tables of spans."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from dshrink.cli import main as entry
from dshrink.search.dp.from_table import table_problem
from dshrink.search.dp.run import TableSearch, save_frontier, search_published
from dshrink.search.errors import SearchError, UnfitTableError
from latency_tables.predictor import predict
from latency_tables.synthetic import synthetic_span_table

CASE = Path(__file__).parent / "data" / "mobilenetv2_100"
FILES = ["--time-table", CASE / "time.csv", "--importance", CASE / "importance_raw.csv"]
COSTS = {(0, 1): 2.0, (1, 2): 2.0, (0, 2): 1.0}
IMPORTANCE = "st,end,st_act,end_act,imp\n0,1,1,1,1\n1,2,1,1,1\n0,2,1,1,0.5\n"


@pytest.fixture
def search(monkeypatch, capsys):
    """Runs ``dshrink search --method dp``; gives status, standard output and error."""

    def run(*words):
        argv = ["dshrink", "search", "--method", "dp", *map(str, words)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            entry.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def importance(tmp_path):
    path = tmp_path / "importance.csv"
    path.write_text(IMPORTANCE)
    return path


def make_table(**changes):
    return synthetic_span_table(COSTS, mask="11", slope=1.05, **changes)


def test_two_files_give_the_frontier_and_a_plan_without_a_network(search, tmp_path):
    file = tmp_path / "frontier.csv"
    status, out, _ = search(*FILES, "--frontier", file, "--budget-ms", "20", "--json")
    found = json.loads(out)
    assert status == 0 and found["frontier_points"] == 374
    with file.open() as lines, (CASE / "exact_frontier.csv").open() as theirs:
        for line, wanted in zip(csv.DictReader(lines), csv.DictReader(theirs), strict=True):
            assert float(line["time_ms"]) == pytest.approx(float(wanted["time_ms"]), abs=1e-9)
            assert float(line["importance"]) == pytest.approx(float(wanted["imp"]), abs=1e-9)
            if line["mask"] == found["masks"][0]["mask"]:
                assert float(line["time_ms"]) == found["masks"][0]["time_ms"] <= 20
    status, out, _ = search(*FILES, "--frontier", file)
    assert out == f"frontier of 374 plans: {file}\n"
    status, out, _ = search(*FILES, "--budget-ms", "20")
    assert f"plan spans:{found['masks'][0]['mask']}: 31 layers" in out


def test_the_truncated_program_reports_its_overrun(search):
    _, out, _ = search(*FILES, "--budget-ms", "8", "--compat", "kim2023")
    assert "over its budget by 0." in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([*FILES, "--budget-ms", "6"], "the smallest possible latency is 6.467 ms"),
        ([*FILES, "--budget-ms", "9", "--budget-ms", "8"], "--budget-ms is given 2 times"),
        ([*FILES, "--compat", "other"], "known: kim2023"),
        ([*FILES, "--compat", "kim2023"], "one budget at a time"),
        ([*FILES, "--prec", "20"], "needs compat"),
        ([*FILES, "--max-macs", "9"], "knows spans alone"),
        ([*FILES, "--keep", "9"], "needs a budget"),
        (FILES[:2], "needs --importance"),
        (FILES[2:], "needs MODEL and --table"),
        ([*FILES[2:], "--compat", "kim2023"], "--compat needs --time-table"),
        (["--method", "greedy", *FILES], "takes no option of --method dp"),
        (["--method", "greedy", "--table", "x"], "needs MODEL and --table"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(words, part, search):
    status, out, err = search(*words)
    assert status == 2 and not out
    assert part in " ".join(err.split())


def test_a_table_gives_a_plan_with_its_prediction_and_importance(importance):
    table = make_table()
    found = TableSearch(tables=[table], importance=importance).run(budgets_ms=[100], frontier=True)
    (plan,) = found.plans
    assert (plan.span_mask, plan.method, plan.importance) == ("11", "dp", 2.0)
    assert plan.predicted and plan.predicted.latency_ms == predict(table, "11").latency_ms
    merged = TableSearch(tables=[table], importance=importance).run(share=0.7)
    assert merged.plans[0].span_mask == "01"
    assert merged.to_json()["plans"][0]["span_mask"] == "01"


def test_a_frontier_of_a_table_holds_predictions_of_the_whole_network(importance, tmp_path):
    table = make_table()
    found = TableSearch(tables=[table], importance=importance).run(frontier=True)
    assert found.frontier is not None and found.problem is not None
    save_frontier(found.frontier, tmp_path / "new" / "frontier.csv", found.problem)
    with (tmp_path / "new" / "frontier.csv").open() as lines:
        for line in csv.DictReader(lines):
            assert float(line["time_ms"]) == predict(table, line["mask"]).latency_ms


def test_several_tables_give_a_plan_each_or_one_for_all(importance):
    both = TableSearch(tables=[make_table(), make_table(fixed_ms=3.0)], importance=importance)
    assert [plan.span_mask for plan in both.run(budgets_ms=[100, 7.2]).plans] == ["11", "01"]
    shared = both.run(budgets_ms=[100, 7.2], one_plan="worst")
    assert [plan.span_mask for plan in shared.plans] == ["01"]
    assert [one.lost_importance for one in shared.outcomes] == [1.5, 0.0]
    assert shared.to_json()["devices"][0]["lost_importance"] == 1.5
    with pytest.raises(SearchError, match=r"2 latency table.* and 1 budget"):
        both.run(budgets_ms=[100])
    with pytest.raises(SearchError, match="a frontier is of one latency table"):
        both.run(frontier=True)
    with pytest.raises(SearchError, match="either budgets in ms or a share"):
        both.run(budgets_ms=[1, 1], share=0.5)


def test_a_table_that_is_not_fit_is_searched_only_when_allowed(importance):
    table = make_table(hold_out_errors_percent=[9.0, -9.0])
    with pytest.raises(UnfitTableError, match="not fit for search"):
        TableSearch(tables=[table], importance=importance).run(budgets_ms=[100])
    allowed = TableSearch(tables=[table], importance=importance, allow_unfit=True)
    assert allowed.run(budgets_ms=[100]).plans


def test_a_plan_that_a_table_makes_is_the_problem_s(importance):
    problem = table_problem(make_table(), {(0, 1, 1, 1): 1.0, (1, 2, 1, 1): 1.0, (0, 2, 1, 1): 0.5})
    assert problem.original_ms == predict(make_table(), "11").latency_ms
    found = search_published(CASE / "time.csv", CASE / "importance_raw.csv", alpha=1.2)
    assert found.frontier is not None and not found.spans
