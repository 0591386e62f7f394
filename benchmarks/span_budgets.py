"""Three budgets on a measured table of spans: predicted latency compared with the measured one.

    python benchmarks/span_budgets.py --out DIR [--model mobilenetv2_100] [--share 0.9 0.75 0.6]

Profiles the network cut into spans (unless DIR has the table already), searches a plan for each
budget, a share of the original network's latency, with synthetic importances (seeded: what is
tested here is the latency), measures the plans' whole networks and the original, and writes
the frontier, a CSV and a page into results/, next to this file. Allow three minutes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dp_frontier import made_up_importance

from dshrink.network.references import ModelChoice
from dshrink.operations.bench import bench_networks
from dshrink.operations.profile import profile_network
from dshrink.operations.search import DpRequest, DpResult, search_tables
from dshrink.results import BenchmarkResult, save_results
from dshrink.search.dp.files import save_frontier
from dshrink.search.plan import save_plan
from latency_tables.io import load_table, save_table
from latency_tables.table import LatencyTable
from profiler.target import Target

RESULTS = Path(__file__).parent / "results"
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A budget in ms, the file of its plan, and the plan's importance."""

    budget_ms: float
    plan: Path
    importance: float


def measured_table(model: str, folder: Path, target: Target) -> LatencyTable:
    if not (folder / "table.json").exists():
        profile_network(ModelChoice(model=model), folder, target, segments="spans", notice=print)
    return load_table(folder)


def write_importance(table: LatencyTable, file: Path) -> None:
    """Made-up importances of every span of the table, as a normalised file."""
    assert table.chain is not None
    spans = [row.span for row in table.rows if row.kind == "span" and row.span]
    values = made_up_importance(spans, table.chain.block_ends, SEED)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("st", "end", "st_act", "end_act", "importance"))
        writer.writerows((*key, value) for key, value in values.items())


def search(table: LatencyTable, importance: Path, share: float) -> DpResult:
    wanted = DpRequest(importance=importance, share=share, frontier=True, allow_unfit=True)
    return search_tables([table], wanted)


def page(
    table: LatencyTable, budgets: Sequence[Budget], results: Sequence[BenchmarkResult], points: int
) -> str:
    machine, conditions, check = table.fingerprint, table.conditions, table.hold_out
    assert check is not None
    lines = [
        "# Three budgets, searched on a table of spans and measured",
        "",
        f"Machine: {machine.get('cpu_model')}, {machine.get('cores')} cores, {machine.get('os')}. "
        f"{conditions.device}, {conditions.runtime} {conditions.runtime_version}, "
        f"{conditions.precision}, batch {conditions.batch}, statistic {conditions.statistic}. "
        f"dshrink {table.dshrink_version}. {table.date}.",
        "",
        f"{table.model}: {len(table.rows)} rows "
        f"of {len({row.digest for row in table.rows})} pieces, "
        f"{sum(row.verdict == 'bounded' for row in table.rows)} of them bounded. On "
        f"{len(check.networks)} hold-out networks the mean error of predictions is "
        f"{check.mape_percent:.2f} %, the largest {check.max_error_percent:.2f} % (plain sum "
        f"{check.plain_sum_mape_percent:.2f} %); 95 % interval +-{check.interval_percent:.2f} %. "
        f"{f'Not fit for search: {table.fit_reason}' if table.fit_reason else 'Fit for search'}.",
        "",
        f"The frontier has {points} plans. Importances are synthetic (seed {SEED}). Latencies are "
        "measured, all networks below in alternation in one run, after the table.",
        "",
        "| network | budget ms | predicted ms (95 %) | measured ms (95 %) | error | exceeds its "
        "budget by | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for result, budget in zip(results, [None, *budgets], strict=True):
        lines.append(_line(result, budget))
    return "\n".join(lines) + "\n"


def _line(r: BenchmarkResult, budget: Budget | None) -> str:
    assert r.latency_ms is not None and r.predicted_ms is not None
    limit = over = ""
    if budget:
        limit = f"{budget.budget_ms:.3f}"
        over = f"{100 * (r.latency_ms / budget.budget_ms - 1):+.1f} %"
    return (
        f"| {_in_a_table(r.network)} | {limit} | {r.predicted_ms:.3f} ({r.predicted_low_ms:.3f} to "
        f"{r.predicted_high_ms:.3f}) | {r.latency_ms:.3f} ({r.low_ms:.3f} to {r.high_ms:.3f}) | "
        f"{r.error_percent:+.1f} % | {over} | {r.verdict} |"
    )


def _in_a_table(text: str) -> str:
    """A span mask's linear boundaries are a Markdown table's column separators."""
    return text.replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--share", type=float, nargs="+", default=(0.9, 0.75, 0.65))
    parser.add_argument("--name", default="span_budgets_local")
    given = parser.parse_args()
    table = measured_table(given.model, given.out / "table", Target(device="local"))
    importance = given.out / "importance.csv"
    write_importance(table, importance)
    found = [search(table, importance, share) for share in given.share]
    budgets = []
    for share, one in zip(given.share, found, strict=True):
        assert one.problem is not None and one.plans[0].importance is not None
        file = given.out / f"plan-{share:g}.json"
        save_plan(one.plans[0], file)
        budgets.append(
            Budget(
                budget_ms=share * one.problem.original_ms,
                plan=file,
                importance=one.plans[0].importance,
            )
        )
    frontier = found[0].frontier
    assert frontier is not None
    results = bench_networks(
        [given.model],
        given.out / "results.csv",
        plans=[budget.plan for budget in budgets],
        tables=[given.out / "table"],
        notice=print,
    )
    save_results(results, RESULTS / f"{given.name}.csv")
    save_frontier(frontier, RESULTS / f"{given.name}_frontier.csv", found[0].problem.predicted_ms)
    save_table(table, RESULTS / f"{given.name}_table")
    text = page(table, budgets, results, len(frontier))
    (RESULTS / f"{given.name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
