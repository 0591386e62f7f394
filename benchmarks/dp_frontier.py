"""The exact frontier of all budgets, compared with the truncated program for one budget.

    python benchmarks/dp_frontier.py [--tables 200] [--name local]

On the three published latency tables (Kim et al., ICML 2023) with seeded made-up importances: how
long our whole frontier takes, and how long the truncated program takes for one budget in plain
Python, in alternation in one run: with the loops of the public code, and as ``compat="kim2023"``
runs, which tries only the steps that have a key. Then, on random importance tables, how many of our
plans exceed their budgets, and how long a chain of 200 convolutions takes. Writes a CSV and a page
into results/, next to this file.
"""

from __future__ import annotations

import argparse
import csv
import math
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np

from dshrink.search.dp.compat import DEFAULT_PREC, EdgesTo, TruncatedProgram
from dshrink.search.dp.frontier import Frontier, solve
from dshrink.search.dp.problem import Key, SpanProblem
from dshrink.search.dp.stages import Edge, State
from dshrink.search.importance import importance_keys
from dshrink.version import __version__
from latency_tables.published import find_published
from latency_tables.span_masks import Span, mask_spans

RESULTS = Path(__file__).parent / "results"
#: Published table and the ends of its blocks: MobileNetV2's after every third convolution.
MOBILENET_ENDS = tuple(range(2, 51, 3))
TABLES: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "MobileNetV2-1.0": ("kim2023_mobilenetv2_100", MOBILENET_ENDS),
    "MobileNetV2-1.4": ("kim2023_mobilenetv2_140", MOBILENET_ENDS),
    "VGG-19": ("kim2023_vgg19", ()),
}
#: How far each budget lies between the frontier's fastest plan (0) and its slowest (1).
BUDGETS = (0.1, 0.35, 0.6, 0.85)
ALPHA = 1.6
REPEATS = 9
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One table: the fastest of the repeats of each."""

    table: str
    keys: int
    points: int
    frontier_s: float
    budget_ms: float
    public_loops_s: float
    compat_s: float
    compat_overrun_percent: float

    @property
    def ratio(self) -> float:
        """How many times faster our frontier is than the public code's loops."""
        return self.public_loops_s / self.frontier_s

    @property
    def compat_ratio(self) -> float:
        return self.compat_s / self.frontier_s


class PublicLoops(TruncatedProgram):
    """The program with the loops of the public code: at every step of time each earlier position
    and flag is tried, its time and its importance looked up by the text of their keys.
    """

    def edges_to(self, prec: float) -> EdgesTo:
        times = {f"{edge.start[0]}_{edge.end[0]}": edge.costs[0] for edge in self.edges}
        known = {f"{e.start[0]}_{e.end[0]}_{e.start[1]}_{e.end[1]}": e for e in self.edges}

        def tried(state: State) -> Iterator[tuple[int, Edge]]:
            end, end_flag = state
            for start, flag in product(range(end), (0, 1)):
                time_ms = times.get(f"{start}_{end}")
                edge = known.get(f"{start}_{end}_{flag}_{end_flag}")
                if time_ms is not None and edge is not None:
                    yield int(time_ms * prec), edge

        return tried


def published_costs(name: str) -> dict[Span, tuple[float, ...]]:
    times = find_published(name).load_times().times
    return {at: (t.latency_ms,) for t in times if isinstance(at := t.place[1], tuple)}


def made_up_importance(spans: Sequence[Span], ends: Sequence[int], seed: int) -> dict[Key, float]:
    """Losses that grow with the activations removed, normalised as measured ones are."""
    draw = random.Random(seed)
    raw = {
        key: -draw.expovariate(1.5) * (key.j - key.i - 0.6) - 0.2 * (2 - key.a - key.b)
        for key in importance_keys(spans, ends)
    }
    mean = float(np.mean([value for key, value in raw.items() if key[1] == key[0] + 1]))
    return {(i, j, a, b): value - ALPHA * mean for (i, j, a, b), value in raw.items()}


def make_problem(name: str, seed: int) -> SpanProblem:
    table, ends = TABLES[name]
    costs = published_costs(table)
    length = max(j for _, j in costs)
    importance = made_up_importance(sorted(costs), ends, seed)
    return SpanProblem(length=length, costs=costs, importance=importance)


def budget_at(frontier: Frontier, share: float) -> float:
    fastest, slowest = float(frontier.times_ms[0]), float(frontier.times_ms[-1])
    return fastest + share * (slowest - fastest)


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def side_by_side(name: str) -> Line:
    """All in alternation: many runs of ours for each of the programs, which take longer."""
    problem = make_problem(name, seed=0)
    budget_ms = budget_at(solve(problem), BUDGETS[2])
    # Stage 1 is not counted for the program: the public code solves it beforehand.
    lean, public = TruncatedProgram.of(problem), PublicLoops.of(problem)
    ours, leans, publics = [], [], []
    for _ in range(3):
        ours += [timed(lambda: solve(problem)) for _ in range(REPEATS)]
        leans.append(timed(lambda: lean.solve(budget_ms)))
        publics.append(timed(lambda: public.solve(budget_ms)))
    frontier_s, frontier = min(ours, key=lambda pair: pair[0])
    compat_s, plan = min(leans, key=lambda pair: pair[0])
    public_s, same = min(publics, key=lambda pair: pair[0])
    if plan != same:
        raise AssertionError(f"{name}: both forms of the program must find the same plan")
    return Line(
        table=name,
        keys=len(problem.importance),
        points=len(frontier),
        frontier_s=frontier_s,
        budget_ms=budget_ms,
        public_loops_s=public_s,
        compat_s=compat_s,
        compat_overrun_percent=100 * plan.overrun_ms / budget_ms,
    )


def overruns(count: int) -> tuple[int, int]:
    """How many budgets were tried on random importance tables, and how many plans overran them."""
    tried = over = 0
    for seed in range(count):
        problem = make_problem(list(TABLES)[seed % len(TABLES)], seed)
        frontier = solve(problem)
        for share in BUDGETS:
            budget_ms = budget_at(frontier, share)
            plan = frontier.best(budget_ms)
            total = math.fsum(problem.costs[span][0] for span in mask_spans(plan.mask))
            tried += 1
            over += plan.time_ms > budget_ms or total > budget_ms
    return tried, over


def long_chain(seed: int = 0, length: int = 200) -> tuple[float, int, int]:
    """Seconds, keys and points of a chain where every span is valid."""
    draw = random.Random(seed)
    layer = [draw.uniform(0.2, 2) for _ in range(length)]
    costs = {
        (i, j): (sum(layer[i:j]) * draw.uniform(0.4, 1.6) * max(1, (j - i) / 3),)
        for i in range(length)
        for j in range(i + 1, length + 1)
    }
    problem = SpanProblem(
        length=length, costs=costs, importance=made_up_importance(sorted(costs), (), seed)
    )
    seconds, frontier = min((timed(lambda: solve(problem)) for _ in range(3)), key=lambda p: p[0])
    return seconds, len(problem.importance), len(frontier)


def page(
    lines: Sequence[Line], tried: int, over: int, chain: tuple[float, int, int], command: str
) -> str:
    text = [
        "# The exact frontier of all budgets, compared with the truncated program for one budget",
        "",
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}, dshrink {__version__}, {date.today().isoformat()}. `{command}`.",
        "",
        "The truncated program is our own plain-Python version of the public one at "
        f"{DEFAULT_PREC:g} steps per ms, with bit-identical plans. *Public loops*: as published, "
        "every earlier position is tried at every time step, and tables are looked up by text. "
        "*compat*: as `--compat kim2023` runs, only steps that have a key are tried; the plan is "
        "the same. Their times exclude stage 1, ours include it. Fastest of several repeats, in "
        "alternation in one run. The authors publish 5 to 8 s for one budget, on their machine.",
        "",
        "| table | keys | points | our whole frontier, ms | budget, ms | public loops, one budget, "
        "s | frontier is faster | compat, one budget, s | frontier is faster | program exceeds "
        "its budget by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    text += [
        f"| {one.table} | {one.keys} | {one.points} | {1000 * one.frontier_s:.2f} "
        f"| {one.budget_ms:.2f} | {one.public_loops_s:.2f} | {one.ratio:.0f} times "
        f"| {one.compat_s:.3f} | {one.compat_ratio:.0f} times "
        f"| {one.compat_overrun_percent:.2f} % |"
        for one in lines
    ]
    seconds, keys, points = chain
    text += [
        "",
        f"Random importance tables: {tried} budgets, {over} exceeded by our plans.",
        "",
        f"A chain of 200 convolutions, all {keys} spans valid: {seconds:.2f} s, {points} points.",
    ]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tables", type=int, default=200, help="random importance tables")
    parser.add_argument("--name", default="local")
    given = parser.parse_args()
    lines = [side_by_side(name) for name in TABLES]
    tried, over = overruns(given.tables)
    command = "python benchmarks/dp_frontier.py"
    text = page(lines, tried, over, long_chain(), command)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"dp_frontier_{given.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Line.__dataclass_fields__, "ratio", "compat_ratio"])
        writer.writerows([*vars(one).values(), one.ratio, one.compat_ratio] for one in lines)
    (RESULTS / f"dp_frontier_{given.name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
