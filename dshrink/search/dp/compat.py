"""``kim2023``: the public code's integer program, to compare with and to reproduce its plans.

Re-implemented after snu-mllab/Efficient-CNN-Depth-Compression (MIT), ``optimal_patterns``. It
truncates every T_opt to whole steps of 1/prec ms, so a plan may overrun its budget by up to a step
a span; it solves one budget at a time; it compares importances rounded to seven digits, and of
equal ones takes the smaller truncated time. Only steps that have a key are tried here; the public
code tries every pair of positions (``benchmarks/dp_frontier.py`` measures what that costs).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from dshrink.search.dp.frontier import ChainPlan, plan_of_edges
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.stages import Edge, State, make_edges
from dshrink.search.errors import InfeasibleBudgetError, SearchError

#: Steps of time, and a state.
Node = tuple[int, State]
#: The edges to a state and how many steps of time each takes, in order of their starts and flags.
EdgesTo = Callable[[State], Iterable[tuple[int, Edge]]]

#: Steps a millisecond: the public code's README solves MobileNetV2 with it.
DEFAULT_PREC = 20.0
_DIGITS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedPlan:
    """What the program finds: its plan, the time it believes in, and the budget."""

    plan: ChainPlan
    budget_ms: float
    steps: int

    @property
    def overrun_ms(self) -> float:
        """How far the plan's latency is above the budget; negative below it."""
        return self.plan.time_ms - self.budget_ms


class _Cell(NamedTuple):
    importance: float
    steps: int
    before: _Cell | None = None
    edge: Edge | None = None


@dataclass(frozen=True)
class TruncatedProgram:
    """The program on the tables of one chain; stage 1 is done once, as in the public code."""

    length: int
    edges: Sequence[Edge]

    @classmethod
    def of(cls, problem: SpanProblem) -> Self:
        return cls(problem.length, make_edges(problem))

    def edges_to(self, prec: float) -> EdgesTo:
        """The edges to each state, at this many steps a ms."""
        found: dict[State, list[tuple[int, Edge]]] = defaultdict(list)
        for edge in self.edges:
            found[edge.end].append((int(edge.costs[0] * prec), edge))
        return lambda state: found[state]

    def solve(self, budget_ms: float, prec: float = DEFAULT_PREC) -> TruncatedPlan:
        """The program's plan for one budget. Raises InfeasibleBudgetError where it finds none."""
        if not (0 < prec < math.inf and 0 < budget_ms < math.inf):
            raise SearchError(f"the budget {budget_ms} ms and prec {prec} must be above 0")
        limit = int(budget_ms * prec)
        edges_to = self.edges_to(prec)
        least: dict[int, int] = {}
        for edge in self.edges:
            steps = int(edge.costs[0] * prec)
            least[edge.end[0]] = min(least.get(edge.end[0], steps), steps)
        # The public code starts at every step below the limit, not at the limit itself.
        cells = {(t, (0, 1)): _Cell(0, 0) for t in range(limit)}
        for end in range(1, self.length + 1):
            for t in range(least.get(end, 0), limit + 1):
                for flag in (0, 1):
                    if best := _best_cell(cells, t, edges_to((end, flag))):
                        cells[t, (end, flag)] = best
        ends = [cells.get((limit, (self.length, flag))) for flag in (0, 1)]
        # Of equal importances the end without an activation, as numpy's argmax has it.
        last = max((cell for cell in ends if cell), key=lambda cell: cell.importance, default=None)
        if last is None:
            raise InfeasibleBudgetError(
                f"the truncated program finds no plan for {budget_ms:g} ms at {prec:g} steps a ms: "
                "raise --budget-ms"
            )
        path: list[Edge] = []
        cell: _Cell | None = last
        while cell and cell.edge:
            path.insert(0, cell.edge)
            cell = cell.before
        time_ms = 0.0
        for edge in path:
            time_ms += edge.costs[0]
        plan = plan_of_edges(self.length, path, (time_ms,), last.importance)
        return TruncatedPlan(plan=plan, budget_ms=budget_ms, steps=last.steps)


def _best_cell(
    cells: Mapping[Node, _Cell], t: int, edges: Iterable[tuple[int, Edge]]
) -> _Cell | None:
    """The best way to arrive at time ``t``, as the public code compares them."""
    best: _Cell | None = None
    best_rounded = float("-inf")
    for steps, edge in edges:
        cell = cells.get((t - steps, edge.start))
        if cell is None:
            continue
        value, total = cell.importance + edge.importance, cell.steps + steps
        rounded = round(value, _DIGITS)
        if rounded > best_rounded or (best and rounded == best_rounded and total < best.steps):
            best, best_rounded = _Cell(value, total, cell, edge), rounded
    return best
