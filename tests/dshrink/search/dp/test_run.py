"""``dshrink search csv`` and ``dp``: from two CSV files, and from tables of spans."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_tables import synthetic_span_table

from dshrink.cli.render_search import result_data
from dshrink.operations.search import DpRequest, search_csv, search_tables
from dshrink.search.dp.files import save_frontier
from dshrink.search.dp.tables import table_problem
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
    status, out, _ = search(*FILES, "--frontier", file, "--budget-ms", "20", "--json", kind="csv")
    found = json.loads(out)
    assert status == 0 and found["frontier_points"] == 374
    with file.open() as lines, (CASE / "exact_frontier.csv").open() as theirs:
        for line, wanted in zip(csv.DictReader(lines), csv.DictReader(theirs), strict=True):
            assert float(line["time_ms"]) == pytest.approx(float(wanted["time_ms"]), abs=1e-9)
            assert float(line["importance"]) == pytest.approx(float(wanted["imp"]), abs=1e-9)
            if line["mask"] == found["chosen"][0]["mask"]:
                assert float(line["time_ms"]) == found["chosen"][0]["time_ms"] <= 20
    status, out, _ = search(*FILES, "--frontier", file, kind="csv")
    assert out == f"frontier of 374 plans: {file}\n"
    status, out, _ = search(*FILES, "--budget-ms", "20", kind="csv")
    assert f"plan spans:{found['chosen'][0]['mask']}: 31 layers" in out


def test_the_truncated_program_reports_its_overrun(search):
    _, out, _ = search(*FILES, "--budget-ms", "8", "--compat", "kim2023", kind="csv")
    assert "over its budget by 0." in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([*FILES, "--budget-ms", "6"], "the smallest possible latency is 6.467 ms"),
        ([*FILES, "--compat", "other"], "known: kim2023"),
        ([*FILES, "--compat", "kim2023"], "one budget at a time"),
        ([*FILES, "--prec", "20"], "needs compat"),
        ([*FILES, "--compat", "kim2023", "--budget-ms", "9", "--prec", "0"], "must be above 0"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(words, part, search):
    status, out, err = search(*words, kind="csv")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert part in err


TABLE = ["m", "--table", "x"]


@pytest.mark.parametrize(
    ("kind", "words", "part"),
    [
        ("csv", FILES[:2], "Missing option '--importance'"),
        ("csv", [*FILES, "--max-macs", "9"], "No such option: --max-macs"),
        ("csv", [*FILES, "mobilenetv2_100"], "unexpected extra argument"),
        ("dp", FILES[2:], "Missing argument 'MODEL'"),
        ("dp", [*TABLE, *FILES], "No such option: --time-table"),
        ("dp", ["m", *FILES[2:]], "Missing option '--table'"),
        ("greedy", [*TABLE, *FILES[2:]], "No such option: --importance"),
        ("greedy", TABLE[1:], "Missing argument 'MODEL'"),
        ("random", [*TABLE, "--prec", "1"], "No such option: --prec"),
        ("mask", ["m", "--data", "x"], "Missing option '--out'"),
    ],
)
def test_each_kind_of_search_has_its_own_options(kind, words, part, search):
    status, out, err = search(*words, kind=kind)
    assert status == 2 and not out
    assert part in " ".join(err.split())


def test_a_table_gives_a_plan_with_its_prediction_and_importance(importance):
    table = make_table()
    found = search_tables(
        [table], DpRequest(importance=importance, budgets_ms=[100], frontier=True)
    )
    (plan,) = found.plans
    assert (plan.span_mask, plan.method, plan.importance) == ("11", "dp", 2.0)
    assert plan.predicted and plan.predicted.latency_ms == predict(table, "11").latency_ms
    merged = search_tables([table], DpRequest(importance=importance, share=0.7))
    assert merged.plans[0].span_mask == "01"
    assert result_data(merged).plans[0].span_mask == "01"


def test_a_frontier_of_a_table_holds_predictions_of_the_whole_network(importance, tmp_path):
    table = make_table()
    found = search_tables([table], DpRequest(importance=importance, frontier=True))
    assert found.frontier is not None and found.problem is not None
    save_frontier(found.frontier, tmp_path / "new" / "frontier.csv", found.problem.predicted_ms)
    with (tmp_path / "new" / "frontier.csv").open() as lines:
        for line in csv.DictReader(lines):
            assert float(line["time_ms"]) == predict(table, line["mask"]).latency_ms


def test_several_tables_give_a_plan_each_or_one_for_all(importance):
    both = [make_table(), make_table(fixed_ms=3.0)]
    wanted = DpRequest(importance=importance, budgets_ms=[100, 7.2])
    assert [plan.span_mask for plan in search_tables(both, wanted).plans] == ["11", "01"]
    shared = search_tables(both, replace(wanted, one_plan="worst"))
    assert [plan.span_mask for plan in shared.plans] == ["01"]
    assert [one.lost_importance for one in shared.outcomes] == [1.5, 0.0]
    assert result_data(shared).devices[0].lost_importance == 1.5


def test_keys_that_were_not_evaluated_are_counted(importance):
    about = {"schema": "dshrink.importance", "schema_version": 1, "model": "synthetic.tag"}
    about["missing"] = [{"key": [0, 2, 1, 1], "reason": "diverged"}]
    importance.with_suffix(".json").write_text(json.dumps(about))
    importance.write_text(IMPORTANCE.replace("0,2,1,1,0.5\n", ""))
    found = search_tables([make_table()], DpRequest(importance=importance, budgets_ms=[100]))
    assert (found.unevaluated, result_data(found).unevaluated_keys) == (1, 1)
    assert [plan.span_mask for plan in found.plans] == ["11"]


@pytest.mark.parametrize(
    ("options", "part"),
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
def test_invalid_options_are_refused_before_anything_is_read(options, part, tmp_path):
    wanted = DpRequest(importance=tmp_path / "absent.csv", **options)
    with pytest.raises(SearchError, match=part):
        search_tables([make_table(), make_table()], wanted)


def test_a_table_that_is_not_fit_is_searched_only_when_allowed(importance):
    table = make_table(hold_out_errors_percent=[9.0, -9.0])
    with pytest.raises(UnfitTableError, match="not fit for search"):
        search_tables([table], DpRequest(importance=importance, budgets_ms=[100]))
    allowed = DpRequest(importance=importance, budgets_ms=[100], allow_unfit=True)
    assert search_tables([table], allowed).plans


def test_a_plan_that_a_table_makes_is_the_problem_s(importance):
    problem = table_problem(make_table(), {(0, 1, 1, 1): 1.0, (1, 2, 1, 1): 1.0, (0, 2, 1, 1): 0.5})
    assert problem.original_ms == predict(make_table(), "11").latency_ms
    found = search_csv(CASE / "time.csv", CASE / "importance_raw.csv", alpha=1.2)
    assert found.frontier is not None and not found.chosen


def test_a_shipped_table_is_searched_by_its_name(search, tmp_path):
    files = [tmp_path / "named.csv", tmp_path / "read.csv"]
    named = ["--time-table", "published:kim2023_mobilenetv2_100", *FILES[2:]]
    for words, file in zip((named, FILES), files, strict=True):
        assert search(*words, "--frontier", file, kind="csv")[0] == 0
    assert files[0].read_text() == files[1].read_text()
    for name, part in (("kim", "no published table 'kim'"), ("depthshrinker_", "holds blocks")):
        name += "mobilenetv2_100" * name.endswith("_")
        status, out, err = search("--time-table", f"published:{name}", *FILES[2:], kind="csv")
        assert (status, out) == (2, "") and part in " ".join(err.split())


KERNEL_TIMES = "st,end,ker,is_dw,time\n0,3,5,False,2\n0,1,1,False,1\n1,3,3,True,2\n3,4,1,False,1\n"
KERNEL_IMPORTANCE = KERNEL_TIMES.replace("time", "importance").replace("True,2", "True,4")


def test_layer_merge_is_searched_where_both_files_have_a_kernel_column(search, tmp_path):
    times, importance, file = (tmp_path / name for name in ("t.csv", "i.csv", "f.csv"))
    times.write_text(KERNEL_TIMES)
    importance.write_text(KERNEL_IMPORTANCE)
    words = ["--time-table", times, "--importance", importance]
    status, out, _ = search(*words, "--frontier", file, "--budget-ms", "3.5", kind="csv")
    assert status == 0
    assert file.read_text() == (
        "time_ms,importance,plan\n3.0,3.0,0-3:5 3-4:1\n4.0,6.0,0-1:1 1-3:3dw 3-4:1\n"
    )
    assert out == (
        f"frontier of 2 plans: {file}\nplan 0-3:5 3-4:1: 2 layers, importance 3\ntime 3 ms\n"
    )
    data = json.loads(search(*words, "--budget-ms", "9", "--json", kind="csv")[1])
    (chosen,) = data["chosen"]
    assert (chosen["plan"], chosen["layers"]) == ("0-1:1 1-3:3dw 3-4:1", 3)
    for more in (["--compat", "kim2023", "--budget-ms", "9"], ["--alpha", "1.2"]):
        status, out, err = search(*words, *more, kind="csv")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "are for tables without a kernel column" in err
    for mixed, part in (
        ([*words[:2], *FILES[2:]], "importance_raw.csv: line 1: no column kernel or ker: give"),
        ([*FILES[:2], *words[2:]], "i.csv: line 1: missing columns st_act, end_act"),
    ):
        status, out, err = search(*mixed, kind="csv")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert part in err
    status, _, err = search(*words[:3], tmp_path / "absent.csv", kind="csv")
    assert status == 2 and "no such file" in err
