"""The exact frontier, against enumeration and against the published case."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from plan_enumeration import all_plans, random_problem, staircase

from dshrink.search.dp.compat import TruncatedProgram
from dshrink.search.dp.files import load_problem
from dshrink.search.dp.frontier import solve
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.stages import best_importances, best_mergings
from dshrink.search.dp.within import best_within, costs_of
from dshrink.search.errors import InfeasibleBudgetError, NoPlanError, SearchError
from dshrink.search.goal import round_up
from latency_tables.span_masks import mask_of, mask_spans

CASE = Path(__file__).parent / "data" / "mobilenetv2_100"


def table(name):
    with (CASE / name).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def published():
    return load_problem(CASE / "time.csv", CASE / "importance_raw.csv")


@pytest.fixture(scope="module")
def frontier(published):
    return solve(published)


def test_the_best_mergings_are_the_public_code_s(published):
    found = best_mergings(published)
    for line in table("opt_time_ref.csv"):
        (merging,) = found[int(line["st"]), int(line["end"])]
        assert merging.costs[0] == pytest.approx(float(line["time"]), abs=1e-9)
        assert ",".join(map(str, merging.cuts)) == line["breaks"]
    assert len(found) == 171


def test_the_best_importances_are_the_public_code_s(published):
    found = best_importances(published.importance)
    for line in table("ext_importance_s_val_acc_n_single_a_1.6.csv"):
        key = tuple(int(line[name]) for name in ("st", "end", "st_act", "end_act"))
        assert found[key] == float(line["imp"])
    assert len(found) == 315


def test_the_frontier_is_the_reference(frontier):
    points = [(float(one["time_ms"]), float(one["imp"])) for one in table("exact_frontier.csv")]
    assert len(points) == len(frontier) == 374
    found = list(zip(frontier.times_ms, frontier.importances, strict=True))
    for ours, theirs in zip(found, points, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_every_point_has_a_plan_of_its_time(frontier, published):
    for number in range(0, len(frontier), 7):
        plan = frontier.plan(number)
        time = math.fsum(published.costs[span][0] for span in mask_spans(plan.mask))
        assert time == pytest.approx(plan.time_ms, abs=1e-9)
        assert plan.layers == len(mask_spans(plan.mask))


def test_a_budget_gets_the_last_point_that_is_within_it(frontier):
    for number in (1, 100, 373):
        time = float(frontier.times_ms[number])
        assert frontier.best(time) == frontier.plan(number)
        assert frontier.best(math.nextafter(time, 0)) == frontier.plan(number - 1)


def test_a_budget_out_of_reach_names_the_smallest_that_is_not(frontier):
    with pytest.raises(InfeasibleBudgetError, match=r"6\.467 ms.*ask for at least 6\.467") as error:
        frontier.best(6.0)
    assert error.value.smallest_ms == float(frontier.times_ms[0])
    assert frontier.best(6.467).text == error.value.plan
    for budget in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(SearchError, match="must be above 0"):
            frontier.best(budget)


def test_advice_is_never_below_what_is_needed():
    for value in (0.123456, 6.466603170007468, 9.9999, 1234.5678, 5.0):
        assert value <= float(round_up(value)) <= value * 1.001


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_random_networks_have_the_frontier_of_enumeration(first):
    for seed in range(first, first + 50):
        problem = random_problem(seed)
        frontier = solve(problem)
        plans = {(c[0], v, mask_of(problem.length, s, a)) for c, v, s, a in all_plans(problem)}
        expected = staircase(list(all_plans(problem)))
        found = [frontier.plan(number) for number in range(len(frontier))]
        assert [(p.time_ms, p.importance, p.layers) for p in found] == expected, seed
        for plan in found:
            assert (plan.time_ms, plan.importance, plan.mask) in plans, seed


@pytest.mark.parametrize("seed", range(40))
def test_bounds_on_a_second_cost_leave_the_frontier_of_enumeration(seed):
    problem = random_problem(seed, width=2, longest=5)
    everything = list(all_plans(problem))
    totals = sorted({costs[1] for costs, *_ in everything})
    for bound in (totals[0], totals[len(totals) // 2], totals[-1]):
        within = [plan for plan in everything if plan[0][1] <= bound]
        frontier = solve(problem, (math.inf, bound)).of_latency()
        found = [(p.time_ms, p.importance) for p in map(frontier.plan, range(len(frontier)))]
        assert found == [point[:2] for point in staircase(within)]
        assert (frontier.costs[:, 1] <= bound).all()
    with pytest.raises(NoPlanError, match=f"macs: the least is {totals[0]:g}"):
        solve(problem, (math.inf, totals[0] - 0.01))


@pytest.mark.parametrize("seed", range(40))
def test_the_best_plan_within_several_limits_is_that_of_enumeration(seed):
    problem = random_problem(seed, width=3, longest=5)
    everything = list(all_plans(problem))
    middle = sorted(everything)[len(everything) // 2][0]
    limits = [cost * 1.1 for cost in middle]
    within = [
        plan for plan in everything if all(c <= m for c, m in zip(plan[0], limits, strict=True))
    ]
    plan = best_within(problem, limits)
    assert plan.importance == max(value for _, value, *_ in within)
    assert all(cost <= limit for cost, limit in zip(plan.costs, limits, strict=True))
    assert costs_of(problem, plan) == plan.costs


def test_limits_that_contradict_each_other_are_refused():
    problem = SpanProblem(
        length=2,
        costs={(0, 1): (1.0, 1.0), (1, 2): (1.0, 1.0), (0, 2): (5.0, 1.0)},
        importance={(0, 1, 1, 1): 0.0, (1, 2, 1, 1): 0.0, (0, 2, 1, 1): 0.0},
        names=("latency in ms", "macs"),
    )
    with pytest.raises(NoPlanError, match="latency in ms, macs together"):
        best_within(problem, (3.0, 1.5))


def test_forced_flags_are_kept():
    for seed in range(60):
        problem = random_problem(seed, longest=5)
        forced = SpanProblem(
            length=problem.length,
            costs=problem.costs,
            importance=problem.importance,
            forced={1: 1},
        )
        kept = [plan for plan in all_plans(problem) if 1 in plan[3]]
        frontier = solve(forced)
        points = zip(frontier.times_ms, frontier.importances, strict=True)
        assert list(points) == [point[:2] for point in staircase(kept)]


def test_ties_go_to_the_faster_then_to_fewer_layers():
    importance = {(0, 1, 1, 1): 0.5, (1, 2, 1, 1): 0.5, (0, 2, 1, 1): 1.0}
    slower = {(0, 1): (1.0,), (1, 2): (1.0,), (0, 2): (1.5,)}
    equal = {**slower, (0, 2): (2.0,)}
    assert solve(SpanProblem(length=2, costs=slower, importance=importance)).best(9).mask == "01"
    assert solve(SpanProblem(length=2, costs=equal, importance=importance)).best(9).mask == "01"


def test_a_chain_that_no_plan_crosses_is_refused():
    with pytest.raises(NoPlanError, match="do not cover the chain"):
        solve(SpanProblem(length=2, costs={(0, 1): (1.0,)}, importance={(0, 1, 1, 1): 1.0}))


@pytest.mark.parametrize("budget", [18.0, 20.0, 22.1, 25.0])
def test_the_truncated_program_is_the_public_code_s_bit_for_bit(budget, published, frontier):
    solutions = json.loads((CASE / "reference_solutions.json").read_text())["reference_solutions"]
    (wanted,) = (one for one in solutions if one["T0"] == budget)
    found = TruncatedProgram.of(published).solve(wanted["T0"], wanted["prec"])
    assert found.plan.mask == mask_of(published.length, wanted["merge_pos"], set(wanted["act_pos"]))
    assert found.plan.importance == wanted["imp_sum"]
    assert found.plan.time_ms == wanted["flt_time_sum"]
    assert found.steps == wanted["int_time_sum"]
    assert found.overrun_ms == wanted["budget_violation_ms"] > 0
    assert frontier.best(budget).time_ms <= budget


def test_the_truncated_program_refuses_what_it_cannot_reach(published):
    with pytest.raises(InfeasibleBudgetError, match="no plan for 3 ms"):
        TruncatedProgram.of(published).solve(3.0)
    with pytest.raises(SearchError, match="must be above 0"):
        TruncatedProgram.of(published).solve(20.0, prec=0)
