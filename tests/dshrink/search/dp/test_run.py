"""``dshrink search --method dp``: from two CSV files, and from tables of spans."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_tables import synthetic_span_table

from dshrink.search.dp.found import save_frontier
from dshrink.search.dp.from_table import table_problem
from dshrink.search.dp.published import search_published
from dshrink.search.dp.run import TableSearch
from dshrink.search.errors import SearchError, UnfitTableError
from latency_tables.predictor import predict

CASE = Path(__file__).parent / "data" / "mobilenetv2_100"
FILES = ["--time-table", CASE / "time.csv", "--importance", CASE / "importance_raw.csv"]
COSTS = {(0, 1): 2.0, (1, 2): 2.0, (0, 2): 1.0}
IMPORTANCE = "st,end,st_act,end_act,imp\n0,1,1,1,1\n1,2,1,1,1\n0,2,1,1,0.5\n"


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
            if line["mask"] == found["chosen"][0]["mask"]:
                assert float(line["time_ms"]) == found["chosen"][0]["time_ms"] <= 20
    status, out, _ = search(*FILES, "--frontier", file)
    assert out == f"frontier of 374 plans: {file}\n"
    status, out, _ = search(*FILES, "--budget-ms", "20")
    assert f"plan spans:{found['chosen'][0]['mask']}: 31 layers" in out


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
        ([*FILES, "--compat", "kim2023", "--budget-ms", "9", "--prec", "0"], "must be above 0"),
        ([*FILES, "--max-macs", "9", "mobilenetv2_100"], "takes no MODEL, --max-macs; it takes"),
        ([*FILES, "--keep", "9"], "--method dp with --time-table takes no --keep"),
        ([*FILES, "--seed", "0"], "takes no --seed"),
        ([*FILES, "--padding", "repad"], "takes no --padding"),
        ([*FILES, "--weight", "1", "--allow-unfit"], "takes no --weight, --allow-unfit"),
        (FILES[:2], "--method dp with --time-table needs --importance"),
        (FILES[2:], "--method dp (without --time-table) needs MODEL and --table"),
        (["--method", "greedy", *FILES[2:]], "--method greedy needs MODEL and --table"),
        (["--method", "random", "m", "--table", "x", "--prec", "1"], "random takes no --prec"),
        (["--method", "best"], "known are greedy, random, dp"),
        (["--method", "greedy", "--table", "x"], "--method greedy needs MODEL"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(words, part, search):
    status, out, err = search(*words)
    assert status == 2 and not out
    assert part in " ".join(err.split())


def test_a_table_gives_a_plan_with_its_prediction_and_importance(importance):
    table = make_table()
    found = TableSearch(importance=importance, budgets_ms=[100], frontier=True).run([table])
    (plan,) = found.plans
    assert (plan.span_mask, plan.method, plan.importance) == ("11", "dp", 2.0)
    assert plan.predicted and plan.predicted.latency_ms == predict(table, "11").latency_ms
    merged = TableSearch(importance=importance, share=0.7).run([table])
    assert merged.plans[0].span_mask == "01"
    assert merged.to_json()["plans"][0]["span_mask"] == "01"


def test_a_frontier_of_a_table_holds_predictions_of_the_whole_network(importance, tmp_path):
    table = make_table()
    found = TableSearch(importance=importance, frontier=True).run([table])
    assert found.frontier is not None and found.problem is not None
    save_frontier(found.frontier, tmp_path / "new" / "frontier.csv", found.problem)
    with (tmp_path / "new" / "frontier.csv").open() as lines:
        for line in csv.DictReader(lines):
            assert float(line["time_ms"]) == predict(table, line["mask"]).latency_ms


def test_several_tables_give_a_plan_each_or_one_for_all(importance):
    both = [make_table(), make_table(fixed_ms=3.0)]
    wanted = TableSearch(importance=importance, budgets_ms=[100, 7.2])
    assert [plan.span_mask for plan in wanted.run(both).plans] == ["11", "01"]
    shared = replace(wanted, one_plan="worst").run(both)
    assert [plan.span_mask for plan in shared.plans] == ["01"]
    assert [one.lost_importance for one in shared.outcomes] == [1.5, 0.0]
    assert shared.to_json()["devices"][0]["lost_importance"] == 1.5


def test_keys_that_were_not_judged_are_counted(importance):
    about = {"schema": "dshrink.importance", "model": "synthetic.tag"}
    about["missing"] = [{"key": [0, 2, 1, 1], "reason": "diverged"}]
    importance.with_suffix(".json").write_text(json.dumps(about))
    importance.write_text(IMPORTANCE.replace("0,2,1,1,0.5\n", ""))
    found = TableSearch(importance=importance, budgets_ms=[100]).run([make_table()])
    assert (found.unjudged, found.to_json()["unjudged_keys"]) == (1, 1)
    assert [plan.span_mask for plan in found.plans] == ["11"]


@pytest.mark.parametrize(
    ("wishes", "part"),
    [
        ({"budgets_ms": [100]}, "2 latency table.* and 1 budget"),
        ({}, "2 latency table.* and 0 budget"),
        ({"frontier": True}, "a frontier is of one latency table"),
        ({"budgets_ms": [1, 1], "share": 0.5}, "either budgets in ms or a share"),
        ({"share": -0.5}, "a share above 0"),
        ({"share": float("inf")}, "a share above 0"),
        ({"budgets_ms": [1, float("inf")]}, "above 0 ms and finite, got 1, inf"),
        ({"share": 0.5, "one_plan": "worst", "weights": [1, 2]}, "weights are those"),
    ],
)
def test_odd_wishes_are_refused_before_anything_is_read(wishes, part, tmp_path):
    wanted = TableSearch(importance=tmp_path / "absent.csv", **wishes)
    with pytest.raises(SearchError, match=part):
        wanted.run([make_table(), make_table()])


def test_a_table_that_is_not_fit_is_searched_only_when_allowed(importance):
    table = make_table(hold_out_errors_percent=[9.0, -9.0])
    with pytest.raises(UnfitTableError, match="not fit for search"):
        TableSearch(importance=importance, budgets_ms=[100]).run([table])
    allowed = TableSearch(importance=importance, budgets_ms=[100], allow_unfit=True)
    assert allowed.run([table]).plans


def test_a_plan_that_a_table_makes_is_the_problem_s(importance):
    problem = table_problem(make_table(), {(0, 1, 1, 1): 1.0, (1, 2, 1, 1): 1.0, (0, 2, 1, 1): 0.5})
    assert problem.original_ms == predict(make_table(), "11").latency_ms
    found = search_published(CASE / "time.csv", CASE / "importance_raw.csv", alpha=1.2)
    assert found.frontier is not None and not found.chosen


def test_a_shipped_table_is_searched_by_its_name(search, tmp_path):
    files = [tmp_path / "named.csv", tmp_path / "read.csv"]
    named = ["--time-table", "published:kim2023_mobilenetv2_100", *FILES[2:]]
    for words, file in zip((named, FILES), files, strict=True):
        assert search(*words, "--frontier", file)[0] == 0
    assert files[0].read_text() == files[1].read_text()
    for name, part in (("kim", "no published table 'kim'"), ("depthshrinker_", "holds blocks")):
        name += "mobilenetv2_100" * name.endswith("_")
        status, out, err = search("--time-table", f"published:{name}", *FILES[2:])
        assert (status, out) == (2, "") and part in " ".join(err.split())


KERNEL_TIMES = "st,end,ker,is_dw,time\n0,3,5,False,2\n0,1,1,False,1\n1,3,3,True,2\n3,4,1,False,1\n"
KERNEL_IMPORTANCE = KERNEL_TIMES.replace("time", "importance").replace("True,2", "True,4")


def test_layer_merge_is_searched_where_both_files_have_a_kernel_column(search, tmp_path):
    times, importance, file = (tmp_path / name for name in ("t.csv", "i.csv", "f.csv"))
    times.write_text(KERNEL_TIMES)
    importance.write_text(KERNEL_IMPORTANCE)
    words = ["--time-table", times, "--importance", importance]
    status, out, _ = search(*words, "--frontier", file, "--budget-ms", "3.5")
    assert status == 0
    assert file.read_text() == (
        "time_ms,importance,plan\n3.0,3.0,0-3:5 3-4:1\n4.0,6.0,0-1:1 1-3:3dw 3-4:1\n"
    )
    assert out == (
        f"frontier of 2 plans: {file}\nplan 0-3:5 3-4:1: 2 layers, importance 3\ntime 3 ms\n"
    )
    data = json.loads(search(*words, "--budget-ms", "9", "--json")[1])
    (chosen,) = data["chosen"]
    assert (chosen["plan"], chosen["layers"]) == ("0-1:1 1-3:3dw 3-4:1", 3)
    for more in (["--compat", "kim2023", "--budget-ms", "9"], ["--alpha", "1.2"]):
        status, out, err = search(*words, *more)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "are for tables without a kernel column" in err
    for mixed in ([*words[:2], *FILES[2:]], [*FILES[:2], *words[2:]]):
        status, out, err = search(*mixed)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "has a kernel column and" in err
    status, _, err = search(*words[:3], tmp_path / "absent.csv")
    assert status == 2 and "no such file" in err
