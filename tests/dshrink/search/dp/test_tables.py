"""Latency tables cut into spans: one device, several, and bounds, against enumeration of masks."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest
from plan_enumeration import all_plans, keys_of, valid_spans
from synthetic_tables import synthetic_span_table

from dshrink.search.dp.bounds import Bounds, PieceSizes
from dshrink.search.dp.frontier import solve
from dshrink.search.dp.many_devices import own_plan, shared_plan
from dshrink.search.dp.tables import table_problem
from dshrink.search.errors import (
    ImportanceError,
    InfeasibleBudgetError,
    NoPlanError,
    SearchError,
)
from dshrink.search.greedy import greedy, random_plan
from latency_tables.errors import LatencyTableError
from latency_tables.predictor import predict
from latency_tables.schema import Conditions
from latency_tables.span_masks import mask_spans

MASK = "1|11|1"
SKIPS = ((2, 5),)
ENDS = (2, 5)
SPANS = valid_spans(6, (), SKIPS)


def make_table(seed=0, device="nowhere", failed=()):
    draw = random.Random(seed)
    times = {s: round(draw.uniform(0.5, 1 + 0.7 * (s[1] - s[0])), 3) for s in SPANS}
    return synthetic_span_table(
        {s: None if s in failed else t for s, t in times.items()},
        mask=MASK,
        skips=SKIPS,
        block_ends=ENDS,
        slope=1.04,
        offset_ms=0.2,
        conditions=Conditions(device=device, runtime="synthetic", runtime_version="1"),
    )


def make_importance(seed=1):
    draw = random.Random(seed)
    return {key: draw.uniform(-1, 2) for key in keys_of(SPANS, ENDS)}


def masks(table):
    """Every mask that the table's rows make, and the latency it predicts."""
    found = {}
    for signs in product("1|0", repeat=6):
        mask = "".join(signs)
        try:
            found[mask] = predict(table, mask)
        except LatencyTableError:
            continue
    return found


def best_by_enumeration(table, importance, allowed=lambda mask: True):
    """Mask to the largest importance that the definition gives it."""
    problem = table_problem(table, importance).problem
    found = {}
    for _, value, cuts, active in all_plans(problem):
        mask = "".join("1" if m in active else "|" if m in cuts else "0" for m in range(1, 7))
        if allowed(mask):
            found[mask] = max(value, found.get(mask, -100))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_budget_means_the_latency_that_the_table_predicts(seed):
    table, importance = make_table(seed), make_importance(seed)
    problem = table_problem(table, importance)
    predicted = masks(table)
    values = best_by_enumeration(table, importance)
    latencies = sorted(predicted[mask].latency_ms for mask in values)
    for budget in (latencies[0], latencies[len(latencies) // 3], latencies[-1]):
        plan = own_plan(problem, budget)
        within = [m for m in values if predicted[m].latency_ms <= budget]
        assert predicted[plan.mask].latency_ms <= budget
        assert plan.importance == pytest.approx(max(values[m] for m in within))
    with pytest.raises(InfeasibleBudgetError, match="on nowhere: the smallest") as error:
        own_plan(problem, latencies[0] * 0.999)
    assert error.value.smallest_ms == latencies[0]


def test_spans_without_a_latency_are_left_out():
    table = make_table(3, failed={(0, 6), (2, 5)})
    bounded = synthetic_span_table(
        dict.fromkeys(SPANS, 1.0), mask=MASK, skips=SKIPS, block_ends=ENDS, bounded={(0, 6): "slow"}
    )
    for one, gone in ((table, {(0, 6), (2, 5)}), (bounded, {(0, 6)})):
        costs = table_problem(one, make_importance()).problem.costs
        assert set(costs) == set(SPANS) - gone


def test_an_unswallowed_skip_is_paid_once():
    table = make_table()
    costs = table_problem(table, make_importance()).problem.costs
    for i, j in SPANS:
        paid = costs[i, j][0] - table.cost_ms("span", (i, j))
        addition_ms = table.cost_ms("addition", (2, 5))
        assert paid == pytest.approx(addition_ms if i == 2 and j < 5 else 0.0)


@pytest.mark.parametrize("bound", ["max_macs", "max_parameters"])
def test_costs_of_the_whole_network_are_bounded(bound):
    table, importance = make_table(2), make_importance(2)
    rows = tuple(replace(row, parameters=row.macs + 7 * (row.start or 0)) for row in table.rows)
    table = replace(table, rows=rows)
    name = bound.removeprefix("max_")

    def total(mask):
        return sum(getattr(table.row(*at), name) for at in table.forms.places(mask, "repad"))

    values = best_by_enumeration(table, importance)
    totals = sorted({total(mask) for mask in values})
    for most in (totals[0], totals[len(totals) // 2]):
        problem = table_problem(table, importance, bounds=Bounds(**{bound: most}))
        plan = own_plan(problem, 1000.0)
        assert total(plan.mask) <= most
        assert plan.importance == pytest.approx(
            max(value for mask, value in values.items() if total(mask) <= most)
        )
    with pytest.raises(NoPlanError, match=name) as refused:
        own_plan(table_problem(table, importance, bounds=Bounds(**{bound: 2001})), 1000.0)
    assert f"at most 2001 of {name}" in str(refused.value)
    advised = float(str(refused.value).rpartition(" ")[2])
    assert advised == pytest.approx(totals[0], rel=1e-3)
    own_plan(table_problem(table, importance, bounds=Bounds(**{bound: advised})), 1000.0)


def test_advice_on_large_counts_is_a_whole_number():
    rows = tuple(replace(row, macs=row.macs * 10**8 + 1) for row in make_table().rows)
    table, importance = replace(make_table(), rows=rows), make_importance()
    with pytest.raises(NoPlanError, match="macs") as refused:
        own_plan(table_problem(table, importance, bounds=Bounds(max_macs=10**10)), 1000.0)
    advised = int(str(refused.value).rpartition(" ")[2])
    own_plan(table_problem(table, importance, bounds=Bounds(max_macs=advised)), 1000.0)
    with pytest.raises(NoPlanError, match="macs"):
        own_plan(table_problem(table, importance, bounds=Bounds(max_macs=advised - 1)), 1000.0)


def test_two_bounds_and_a_budget_give_the_best_plan_and_the_fastest_one():
    table, importance = make_table(2), make_importance(2)
    rows = tuple(replace(row, parameters=row.macs % 700 + 9 * (row.end or 0)) for row in table.rows)
    table = replace(table, rows=rows)

    def totals(mask):
        rows = [table.row(*at) for at in table.forms.places(mask, "repad")]
        return sum(row.macs for row in rows), sum(row.parameters for row in rows)

    values = best_by_enumeration(table, importance)
    macs, parameters = (
        sorted(totals(mask)[n] for mask in values)[len(values) // 2] for n in (0, 1)
    )
    bounds = Bounds(max_macs=macs, max_parameters=parameters)
    problem = table_problem(table, importance, bounds=bounds)
    times = {
        mask: predict(table, mask).latency_ms
        for mask in values
        if totals(mask)[0] <= macs and totals(mask)[1] <= parameters
    }
    assert 3 < len(times) < len(values)
    for budget in sorted(times.values())[:: len(times) // 3]:
        plan = own_plan(problem, budget)
        assert times[plan.mask] <= budget
        best = max(values[mask] for mask, time in times.items() if time <= budget)
        assert plan.importance == pytest.approx(best)
    for budget in (min(times.values()) * 0.999, 0.1):
        with pytest.raises(InfeasibleBudgetError) as error:
            own_plan(problem, budget)
        assert error.value.smallest_ms == min(times.values())


def test_kernels_and_peaks_are_bounded_span_by_span():
    table, importance = make_table(), make_importance()
    # The network's own convolutions are 7 wide: only what merging makes is bounded.
    kernels = {(i, j): 2 * (j - i) + 1 if j > i + 1 else 7 for i, j in SPANS}
    sizes = PieceSizes(kernels=kernels, peaks={}, resolution=table.resolution)
    bounds = Bounds(max_kernel=5)
    costs = table_problem(table, importance, bounds=bounds, sizes=sizes).problem.costs
    assert set(costs) == {(i, j) for i, j in SPANS if j - i <= 2}
    with pytest.raises(SearchError, match="needs MODEL"):
        table_problem(table, importance, bounds=bounds)


def peaks_problem(table, peaks, most):
    """The problem under a bound of MiB; pieces hold 1 MiB unless ``peaks`` says otherwise."""
    numbers = {row.place: int(2**18 * peaks.get(row.place, 1.0)) for row in table.rows}
    sizes = PieceSizes(kernels={}, peaks=numbers, resolution=table.resolution)
    return table_problem(
        table, make_importance(), bounds=Bounds(max_peak_mib=most), sizes=sizes
    ).problem


def test_what_a_piece_holds_is_bounded():
    table = make_table()
    long = {("span", (i, j)): float(j - i) for i, j in SPANS}
    assert set(peaks_problem(table, long, 2.0).costs) == {(i, j) for i, j in SPANS if j - i <= 2}
    # A skip whose addition holds too much must be swallowed.
    spans = set(peaks_problem(table, {("addition", (2, 5)): 3.0}, 2.0).costs)
    assert spans == {(i, j) for i, j in SPANS if i != 2 or j >= 5}
    bounded = synthetic_span_table(
        dict.fromkeys(SPANS, 1.0), mask=MASK, skips=SKIPS, block_ends=ENDS, bounded={(0, 6): "slow"}
    )
    # The third convolution can merge with the second, whose span holds 5 MiB, or with more.
    heavy = {("span", (i, j)): 5.5 if (i, j) == (2, 5) else 8.0 for i, j in SPANS if i < 3 <= j}
    for one, peaks, least, part in (
        (bounded, heavy, 5.5, r"\(1 spans are bounded, so no plan has them\); the least is 5\.5"),
        (table, heavy | {("head", None): 7.0003}, 7.0003, r"the head, .* holds 7; the least is 7;"),
    ):
        with pytest.raises(NoPlanError, match=rf"at most 2 MiB.*{part}") as refused:
            peaks_problem(one, peaks, 2.0)
        advised = float(str(refused.value).rpartition(" ")[2])
        assert least <= advised <= 1.001 * least
        assert len(solve(peaks_problem(one, peaks, advised)))
        with pytest.raises(NoPlanError):
            peaks_problem(one, peaks, least * 0.9999)
    with pytest.raises(SearchError, match="tables of one resolution"):
        table_problem(table, make_importance(), bounds=Bounds(max_peak_mib=2.0))
    with pytest.raises(SearchError, match="max peak mib must be above 0"):
        Bounds(max_peak_mib=0.0)


@pytest.mark.parametrize("block", [0, 1])
def test_a_kept_block_stays_as_it_was(block):
    first, last = (0, 2) if block == 0 else (2, 5)
    for seed in range(4):
        table, importance = make_table(seed), make_importance(seed)
        problem = table_problem(table, importance, bounds=Bounds(keep_blocks=(block,)))
        values = best_by_enumeration(
            table, importance, lambda mask: mask[first:last] == MASK[first:last]
        )
        values = {m: v for m, v in values.items() if first == 0 or m[first - 1] != "0"}
        plan = own_plan(problem, 1000.0)
        assert plan.mask[first:last] == MASK[first:last]
        assert plan.importance == pytest.approx(max(values.values()))
    with pytest.raises(SearchError, match="blocks 0 to 1"):
        table_problem(table, importance, bounds=Bounds(keep_blocks=(2,)))


@pytest.mark.parametrize("seed", range(4))
def test_one_plan_for_several_devices_meets_every_budget_and_says_what_it_loses(seed):
    tables = [make_table(seed + 10 * n, device=f"board{n}") for n in range(3)]
    importance = make_importance(seed)
    problems = [table_problem(table, importance) for table in tables]
    budgets = [0.9 * problem.original_ms for problem in problems]
    predicted = [masks(table) for table in tables]
    values = best_by_enumeration(tables[0], importance)
    fits = [
        {m for m in values if predictions[m].latency_ms <= budget}
        for predictions, budget in zip(predicted, budgets, strict=True)
    ]
    shared, outcomes = shared_plan(problems, budgets)
    assert shared.mask in set.intersection(*fits)
    assert shared.importance == pytest.approx(max(values[m] for m in set.intersection(*fits)))
    for outcome, own, predictions in zip(outcomes, fits, predicted, strict=True):
        best = max(values[m] for m in own)
        assert outcome.own_importance == pytest.approx(best)
        assert outcome.lost_importance == pytest.approx(best - shared.importance)
        assert outcome.predicted_ms == predictions[shared.mask].latency_ms
    mix, _ = shared_plan(problems, budgets, mode="mix", weights=[1, 2, 1])

    def share(mask):
        return sum(
            w * p[mask].latency_ms / budget
            for w, p, budget in zip((1, 2, 1), predicted, budgets, strict=True)
        )

    assert share(mix.mask) <= 4 * (1 + 1e-12)
    assert mix.importance == pytest.approx(max(values[m] for m in values if share(m) <= 4))


def test_devices_that_no_one_plan_serves_are_refused():
    tables = [
        synthetic_span_table(
            {(i, j): 3.0 if (j - i == 1) == cheap else 1.0 for i, j in ((0, 1), (1, 2), (0, 2))},
            mask="11",
            conditions=Conditions(device=f"board{cheap}", runtime="none", runtime_version="1"),
        )
        for cheap in (0, 1)
    ]
    importance = {(0, 1, 1, 1): 1.0, (1, 2, 1, 1): 1.0, (0, 2, 1, 1): 1.0}
    problems = [table_problem(table, importance) for table in tables]
    # One is fastest merged, the other unmerged.
    budgets = [p.predicted_ms(solve(p.problem).plan(0).mask) * (1 + 1e-9) for p in problems]
    with pytest.raises(InfeasibleBudgetError, match=r"on board0, .* on board1 together"):
        shared_plan(problems, budgets)
    with pytest.raises(InfeasibleBudgetError, match=r"the least is 1\.\d+ .* on board1; spans:"):
        shared_plan(problems, budgets, mode="mix")
    with pytest.raises(SearchError, match="worst or mix"):
        shared_plan(problems, [100, 100], mode="best")
    with pytest.raises(SearchError, match="as many weights"):
        shared_plan(problems, [100, 100], mode="mix", weights=[1])


def test_importances_that_do_not_fit_the_table_are_refused_by_key():
    table, importance = make_table(), make_importance()
    lacking = {key: v for key, v in importance.items() if key not in ((0, 1, 1, 1), (2, 3, 0, 1))}
    with pytest.raises(ImportanceError, match=r"2 key.*missing: \(0, 1, 1, 1\), \(2, 3, 0, 1\)"):
        table_problem(table, lacking, where="importance.csv")
    with pytest.raises(ImportanceError, match=r"belong to no span .*\(1, 3, 1, 1\)|\(0, 7"):
        table_problem(table, {**importance, (0, 3, 1, 1): 1.0, (0, 4, 1, 1): 1.0, (1, 3, 1, 1): 1})
    with pytest.raises(ImportanceError, match=r"flags that no plan needs: \(0, 1, 1, 0\)"):
        table_problem(table, {**importance, (0, 1, 1, 0): 1.0})
    with pytest.raises(SearchError, match="--segments spans"):
        table_problem(
            replace(table, chain=None, rows=table.rows[:1], networks=()),
            importance,
        )


def test_one_plan_is_for_tables_of_the_same_convolutions():
    table, importance = make_table(), make_importance()
    chain = table.chain
    rows = tuple(row for row in table.rows if row.kind != "addition")
    # As tables that were published are imported: nothing is known of the additions.
    bare = replace(table, chain=replace(chain, skips=()), rows=rows, networks=())
    other = replace(chain, convolutions=tuple(f"other.{n}" for n in range(6)))
    problems = [
        table_problem(one, importance) for one in (table, bare, replace(table, chain=other))
    ]
    assert shared_plan(problems[:2], [100.0, 100.0])[0].importance > 0
    with pytest.raises(SearchError, match="of different networks"):
        shared_plan(problems[::2], [100.0, 100.0])


def test_importances_of_more_spans_than_the_table_holds_are_accepted():
    importance = make_importance()
    some = [span for span in SPANS if span[1] - span[0] <= 2]
    table = make_table()
    rows = tuple(row for row in table.rows if row.kind != "span" or row.span in some)
    smaller = replace(table, rows=rows, networks=())
    plan = own_plan(table_problem(smaller, importance), 1000.0)
    assert all(j - i <= 2 for i, j in mask_spans(plan.mask))
    crossing = {**importance, (1, 4, 1, 1): 9.0}  # a skip begins within it and ends behind it
    with pytest.raises(ImportanceError, match=r"\(1, 4, 1, 1\)"):
        table_problem(smaller, crossing)


def test_keys_that_could_not_be_evaluated_are_left_out_of_plans():
    importance = make_importance()
    lost = {key for key in importance if key[:2] == (0, 2)}
    known = {key: value for key, value in importance.items() if key not in lost}
    with pytest.raises(ImportanceError, match="missing"):
        table_problem(make_table(), known)
    problem = table_problem(make_table(), known, excused=lost)
    frontier = solve(problem.problem, problem.limits)
    for number in range(len(frontier)):
        # The activation behind the first convolution goes with longer spans alone.
        mask = frontier.plan(number).mask
        assert mask[0] == "1" or mask[1] != "1"


@pytest.mark.parametrize("search", [greedy, random_plan])
def test_blocks_are_not_chosen_from_a_table_of_spans(search):
    with pytest.raises(SearchError, match=r"is cut into spans, `dshrink search .* needs blocks"):
        search(make_table(), keep=1)
