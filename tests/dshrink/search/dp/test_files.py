"""Reading tables by key: what is wrong is named by key, file and line; and LayerMerge's tables."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pytest

from dshrink.search.dp.compat import TruncatedProgram
from dshrink.search.dp.files import load_importance, load_problem, load_unevaluated
from dshrink.search.dp.frontier import solve
from dshrink.search.dp.layer_merge import (
    KernelKey,
    load_kernel_importance,
    load_kernel_times,
    solve_kernels,
)
from dshrink.search.errors import (
    ImportanceError,
    InfeasibleBudgetError,
    NoPlanError,
    SearchError,
)
from latency_tables.errors import TableFormatError
from latency_tables.span_masks import mask_spans

TIMES = "id,st,end,time,stdev\n0,0,1,1.0,0\n1,0,2,1.5,0\n2,1,2,1.0,0\n"
RAW = "id,st,end,st_act,end_act,val_acc\n0,0,1,1,1,-1.0\n1,0,2,1,1,-2.0\n2,1,2,1,1,-3.0\n"


@pytest.fixture
def files(tmp_path):
    def write(times=TIMES, importance=RAW):
        (tmp_path / "times.csv").write_text(times)
        (tmp_path / "importance.csv").write_text(importance)
        return tmp_path / "times.csv", tmp_path / "importance.csv"

    return write


def test_rows_are_joined_by_key_in_any_order(files):
    in_order = load_problem(*files())
    head, *lines = RAW.splitlines()
    mixed = "\n".join([head, *reversed(lines)]) + "\n"
    assert load_problem(*files(importance=mixed)) == in_order


def test_raw_importances_are_normalised_by_the_mean_of_single_layers(files):
    _, path = files()
    assert load_importance(path) == {
        (0, 1, 1, 1): pytest.approx(-1 + 3.2),
        (0, 2, 1, 1): pytest.approx(-2 + 3.2),
        (1, 2, 1, 1): pytest.approx(-3 + 3.2),
    }
    assert load_importance(path, alpha=0.0)[0, 2, 1, 1] == -2.0
    _, path = files(importance=RAW.replace("val_acc", "imp"))
    assert load_importance(path)[0, 2, 1, 1] == -2.0
    with pytest.raises(ImportanceError, match="normalised already"):
        load_importance(path, alpha=1.6)


@pytest.mark.parametrize(
    ("times", "part"),
    [
        (TIMES.replace("1.5", "nan"), "line 3"),
        (TIMES.replace("1.5", "0"), "line 3"),
        (TIMES.replace("1.5", "-2"), "line 3"),
        (TIMES.replace("1.5", "x"), "line 3"),
        (TIMES + "3,1,2,1.0,0\n", "line 5.*1-2"),
        (TIMES + "3,2,2,1.0,0\n", "line 5"),
    ],
)
def test_times_that_cannot_be_are_refused_by_line(times, part, files):
    with pytest.raises(TableFormatError, match=rf"times\.csv.*{part}"):
        load_problem(*files(times=times))


@pytest.mark.parametrize(
    ("importance", "part"),
    [
        (RAW.replace("-2.0", "nan"), r"line 3: val_acc must be a finite number, got nan"),
        (RAW.replace("-2.0", "1_0"), r"line 3: val_acc must be a finite"),
        (RAW.replace("1,0,2,1,1", "1,0,2,1,2"), r"line 3: st_act and end_act must be 0 or 1"),
        (RAW.replace("1,0,2,1,1", "1,2,2,1,1"), r"line 3: st 2 must be smaller"),
        (RAW.replace("1,0,2,1,1", "1,a,2,1,1"), r"line 3: st must be a whole number"),
        (RAW + "3,1,2,1,1,-1\n", r"line 5: key \(1, 2, 1, 1\) is on line 4 already"),
        (RAW.replace("2,1,2,1,1,-3.0\n", ""), r"missing: \(1, 2, 1, 1\)"),
        (RAW + "3,1,3,1,1,-1\n", r"belong to no span of the latency table: \(1, 3, 1, 1\)"),
        (RAW + "3,1,2,0,0,-1\n", r"missing: \(1, 2, 0, 1\)"),
        (RAW + "3,1,2\n", r"line 5: 3 values for 6 columns"),
        (RAW.replace("st_act", "start"), r"line 1: missing column st_act"),
        (RAW.replace("val_acc", "accuracy"), r"line 1: no column importance or imp or val_acc"),
        (RAW.replace("val_acc", "end"), r"column end is given twice"),
        ("", "empty file"),
        (RAW.splitlines()[0], "no rows"),
        ('st,end,st_act,end_act,imp\n"0', "not CSV"),
    ],
)
def test_importances_that_cannot_be_are_refused_by_key_or_line(importance, part, files):
    with pytest.raises(ImportanceError, match=rf"importance\.csv: .*{part}"):
        load_problem(*files(importance=importance))


def random_times(seed):
    """T of every span of a short chain, and raw importances for every flag of its ends."""
    draw = random.Random(seed)
    length = draw.randint(2, 6)
    spans = [(i, j) for i in range(length) for j in range(i + 1, length + 1)]
    times = {span: draw.randint(1, 40) / 8 for span in spans}
    lines = [
        f"{i},{j},{a},{b},{draw.randint(-9, 9)}" for i, j in spans for a in (0, 1) for b in (0, 1)
    ]
    return times, "\n".join(["st,end,st_act,end_act,val_acc", *lines])


def fastest(times):
    """T_opt and its cuts by enumeration, as the column ``breaks`` of the public code has them."""
    found = {}
    for i, j in times:
        inner = range(i + 1, j)
        ways = [
            [i, *cuts, j] for count in range(j - i) for cuts in itertools.combinations(inner, count)
        ]
        found[i, j] = min(
            ((sum(times[part] for part in itertools.pairwise(way)), way) for way in ways),
            key=lambda one: (one[0], len(one[1])),
        )
    return found


@pytest.mark.parametrize("seed", range(40))
def test_times_of_the_fastest_ways_have_the_frontier_of_those_of_spans(seed, files):
    times, importance = random_times(seed)
    plain = "\n".join(["st,end,time", *(f"{i},{j},{t}" for (i, j), t in times.items())])
    opt = "\n".join(
        [
            "id,st,end,time,stdev,breaks",
            *(
                f'{n},{i},{j},{time},0,"{",".join(map(str, cuts))}"'
                for n, ((i, j), (time, cuts)) in enumerate(fastest(times).items())
            ),
        ]
    )
    one, other = (solve(load_problem(*files(text, importance))) for text in (plain, opt))
    assert list(one.times_ms) == list(other.times_ms)
    assert list(one.importances) == list(other.importances)
    # The layers of each mask have these times.
    for number, time in enumerate(other.times_ms):
        assert sum(times[span] for span in mask_spans(other.plan(number).mask)) == time


def test_published_times_of_the_fastest_ways_give_the_published_frontier():
    folder = Path(__file__).parent / "data" / "mobilenetv2_100"
    raw = folder / "importance_raw.csv"
    one, other = (
        solve(load_problem(folder / name, raw)) for name in ("time.csv", "opt_time_ref.csv")
    )
    assert [one.plan(at) for at in range(len(one))] == [other.plan(at) for at in range(len(other))]


def test_missing_files_are_named(tmp_path, files):
    times, _ = files()
    with pytest.raises(ImportanceError, match=r"absent\.csv: no such file"):
        load_problem(times, tmp_path / "absent.csv")
    with pytest.raises(ImportanceError, match="finite"):
        load_importance(files()[1], alpha=math.inf)
    _, path = files(importance=RAW.replace("0,1,1,1", "0,2,1,1", 1).split("1,0,2")[0])
    with pytest.raises(ImportanceError, match="no single layers"):
        load_importance(path)


def random_kernels(seed):
    draw = random.Random(seed)
    length = draw.randint(2, 5)
    keys = [
        KernelKey(i, j, kernel, depthwise)
        for i in range(length)
        for j in range(i + 1, length + 1)
        for kernel, depthwise in ((1, 0), (3, 0), (3, 1))
        if j == i + 1 or draw.random() < 0.6
    ]
    times = {key: draw.randint(1, 40) / 8 for key in keys}
    return length, times, {key: draw.randint(0, 40) / 8 for key in keys}


@pytest.mark.parametrize("seed", range(60))
def test_kernel_sizes_have_the_frontier_of_enumeration(seed):
    length, times, importance = random_kernels(seed)

    def plans(at):
        if at == length:
            yield 0.0, 0.0
        for key in times:
            if key.i == at:
                for time, value in plans(key.j):
                    yield time + times[key], value + importance[key]

    kept = []
    for time, value in sorted(plans(0), key=lambda point: (point[0], -point[1])):
        if not kept or value > kept[-1][1]:
            kept.append((time, value))
    frontier = solve_kernels(times, importance)
    assert list(zip(frontier.times_ms, frontier.importances, strict=True)) == kept
    for number, (time, value) in enumerate(kept):
        plan = frontier.best(time)
        assert plan == frontier.plan(number)
        keys = [key for text in plan.mask.split() for key in times if key.text == text]
        assert sum(times[key] for key in keys) == time
        assert sum(importance[key] for key in keys) == value
        assert [0, *(key.j for key in keys)] == [*(key.i for key in keys), length]
    with pytest.raises(InfeasibleBudgetError, match="ask for at least"):
        frontier.best(kept[0][0] * 0.99)


def test_kernel_tables_are_read_by_key(tmp_path):
    times, importance = tmp_path / "t.csv", tmp_path / "i.csv"
    times.write_text(
        "id,st,end,ker,str,is_dw,time,stdev\n0,0,1,3,1,False,2.0,0\n1,0,1,0,1,True,0,0\n"
    )
    importance.write_text("st,end,ker,is_dw,val_acc\n0,1,0,True,-5\n0,1,3,False,0\n")
    found = load_kernel_times(times), load_kernel_importance(importance)
    assert found[0] == {KernelKey(0, 1, 3): 2.0, KernelKey(0, 1, 0, 1): 0.0}
    assert found[1] == {KernelKey(0, 1, 3): 1.0, KernelKey(0, 1, 0, 1): math.exp(-0.05)}
    assert solve_kernels(*found).best(1.0).text == "0-1:0dw"
    assert [solve_kernels(*found).best(time).layers for time in (1.0, 2.0)] == [0, 1]
    importance.write_text("st,end,kernel,importance\n0,1,3,0.5\n")
    with pytest.raises(ImportanceError, match=r"importance table lacks 1 key.*\(0, 1, 0, 1, 0\)"):
        solve_kernels(found[0], load_kernel_importance(importance))
    with pytest.raises(NoPlanError, match="do not cover 0 to 3"):
        solve_kernels({KernelKey(1, 3, 1): 1.0}, {KernelKey(1, 3, 1): 1.0})


def test_strides_are_a_key_only_where_they_tell_lines_apart(tmp_path):
    times, importance = tmp_path / "t.csv", tmp_path / "i.csv"
    times.write_text("st,end,ker,str,is_dw,time\n0,1,3,2,False,2\n1,2,3,1,False,4\n")
    assert load_kernel_times(times) == {KernelKey(0, 1, 3): 2.0, KernelKey(1, 2, 3): 4.0}
    times.write_text("st,end,ker,str,is_dw,time\n0,1,3,1,False,4\n0,1,3,2,False,2\n")
    importance.write_text("st,end,ker,str,is_dw,importance\n0,1,3,2,0.0,0.5\n0,1,3,1,0.0,1\n")
    found = load_kernel_times(times), load_kernel_importance(importance)
    assert found[0] == {KernelKey(0, 1, 3, 0, 1): 4.0, KernelKey(0, 1, 3, 0, 2): 2.0}
    assert [solve_kernels(*found).best(time).text for time in (2, 4)] == ["0-1:3s2", "0-1:3s1"]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("0,1,3,False,0", "line 2: time must be above 0"),
        ("0,1,3,maybe,1", "line 2: is_dw must be True or False"),
        ("1,1,3,False,1", "line 2: st 1 must be smaller"),
        ("0,1,3,False,1\n0,1,3,0,1", r"line 3: key \(0, 1, 3, 0, 0\) is on line 2"),
    ],
)
def test_kernel_times_that_cannot_be_are_refused(line, part, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"st,end,ker,is_dw,time\n{line}\n")
    with pytest.raises(SearchError, match=part):
        load_kernel_times(path)


def test_kernel_tables_need_their_columns(tmp_path):
    path = tmp_path / "t.csv"
    for header, missing in (("st,end,time", "kernel or ker"), ("st,end,ker", "time")):
        path.write_text(f"{header}\n" + ",".join("1" * len(header.split(","))) + "\n")
        with pytest.raises(SearchError, match=f"line 1: no column {missing}: give"):
            load_kernel_times(path)


def test_the_json_beside_a_table_says_what_could_not_be_evaluated_and_of_which_network(files):
    _, path = files()
    assert load_unevaluated(path, "mobilenetv2_100") == frozenset()
    about = {
        "schema": "dshrink.importance",
        "schema_version": 1,
        "model": "mobilenetv2_100.ra_in1k",
        "missing": [{"key": [0, 2, 1, 1], "reason": "diverged"}],
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    assert load_unevaluated(path, "mobilenetv2_100") == {(0, 2, 1, 1)}
    with pytest.raises(ImportanceError, match=r"importances of mobilenetv2_100.*mobilenetv2_140"):
        load_unevaluated(path, "mobilenetv2_140")
    path.with_suffix(".json").write_text(json.dumps({"schema": "dshrink.plan"}))
    assert load_unevaluated(path, "resnet18") == frozenset()


@pytest.mark.parametrize("budget_ms", [math.inf, math.nan, 0.0])
def test_the_truncated_program_refuses_budgets_that_are_none(files, budget_ms):
    with pytest.raises(SearchError, match="must be above 0"):
        TruncatedProgram.of(load_problem(*files())).solve(budget_ms)
