"""``kim2023``: the public code's integer program, to compare with and to reproduce its plans.

Written anew after snu-mllab/Efficient-CNN-Depth-Compression (MIT), ``optimal_patterns``. It
truncates every T_opt to whole steps of 1/prec ms, so a plan may overrun its budget by up to a step
a span; it solves one budget at a time; it compares importances rounded to seven digits, and of
equal ones takes the smaller truncated time. Only steps that have a key are tried here; the public
code tries every pair of positions (``benchmarks/dp_frontier.py`` measures what that costs).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from dshrink.search.dp.frontier import SpanPlan
from dshrink.search.dp.problem import Key, SpanProblem
from dshrink.search.dp.stages import best_importances, best_mergings
from dshrink.search.errors import InfeasibleBudgetError, SearchError

#: Steps of time, a position, and whether an activation follows it.
Node = tuple[int, int, int]

#: Steps a millisecond: the public code's README solves MobileNetV2 with it.
DEFAULT_PREC = 20.0
_DIGITS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedPlan:
    """What the program finds: its plan, the time it believes in, and the budget."""

    plan: SpanPlan
    budget_ms: float
    steps: int

    @property
    def overrun_ms(self) -> float:
        """How far the plan's latency is above the budget; negative below it."""
        return self.plan.time_ms - self.budget_ms


class Way(NamedTuple):
    """One span to a position: where it starts, with which flag, its steps of time, its worth."""

    start: int
    flag: int
    steps: int
    importance: float


#: The ways to a position with a flag, in order of their starts and flags.
WaysTo = Callable[[int, int], Iterable[Way]]


class _Cell(NamedTuple):
    importance: float
    steps: int
    before: Node


@dataclass(frozen=True)
class TruncatedProgram:
    """The program on the tables of one chain; stage 1 is done once, as in the public code."""

    length: int
    times: Mapping[tuple[int, int], float]
    cuts: Mapping[tuple[int, int], tuple[int, ...]]
    importance: Mapping[Key, float]

    @classmethod
    def of(cls, problem: SpanProblem) -> Self:
        mergings = {span: ways[0] for span, ways in best_mergings(problem).items()}
        extended = best_importances(problem.importance)
        return cls(
            length=problem.length,
            times={span: merging.costs[0] for span, merging in mergings.items()},
            cuts={span: merging.cuts for span, merging in mergings.items()},
            importance={
                key: found.importance for key, found in extended.items() if key[:2] in mergings
            },
        )

    def ways_to(self, prec: float) -> WaysTo:
        """The ways to each position, at this many steps a ms."""
        found: dict[tuple[int, int], list[Way]] = defaultdict(list)
        for (i, j, a, b), importance in sorted(self.importance.items()):
            found[j, b].append(Way(i, a, int(self.times[i, j] * prec), importance))
        return lambda end, flag: found[end, flag]

    def solve(self, budget_ms: float, prec: float = DEFAULT_PREC) -> TruncatedPlan:
        """The program's plan for one budget. Raises InfeasibleBudgetError where it finds none."""
        if not (0 < prec < math.inf and 0 < budget_ms < math.inf):
            raise SearchError(f"the budget {budget_ms} ms and prec {prec} must be above 0")
        limit = int(budget_ms * prec)
        ways_to = self.ways_to(prec)
        # The public code starts at every step below the limit, not at the limit itself.
        cells = {(t, 0, 1): _Cell(0, 0, (0, 0, 0)) for t in range(limit)}
        for end in range(1, self.length + 1):
            least = min((int(t * prec) for (_, j), t in self.times.items() if j == end), default=0)
            for t in range(least, limit + 1):
                for flag in (0, 1):
                    cell = _best_cell(cells, t, ways_to(end, flag))
                    if cell:
                        cells[t, end, flag] = cell
        ends = [cells.get((limit, self.length, flag)) for flag in (0, 1)]
        if ends == [None, None]:
            raise InfeasibleBudgetError(
                f"the truncated program finds no plan for {budget_ms:g} ms at {prec:g} steps a ms: "
                "raise the budget"
            )
        # Of equal importances the end without an activation, as numpy's argmax has it.
        flag = int(
            ends[0] is None or (ends[1] is not None and ends[1].importance > ends[0].importance)
        )
        return self._plan(cells, (limit, self.length, flag), budget_ms, prec)

    def _plan(
        self,
        cells: Mapping[Node, _Cell],
        last: Node,
        budget_ms: float,
        prec: float,
    ) -> TruncatedPlan:
        path = [state[1:] for state in _backwards(cells, last)][::-1]
        boundaries: set[int] = set()
        time_ms = importance = 0.0
        steps = 0
        for (i, a), (j, b) in zip([(0, 1), *path[:-1]], path, strict=True):
            boundaries.update(self.cuts[i, j][1:])
            importance += self.importance[i, j, a, b]
            time_ms += self.times[i, j]
            steps += int(self.times[i, j] * prec)
        plan = SpanPlan(
            length=self.length,
            boundaries=tuple(sorted(boundaries)),
            active=tuple(position for position, flag in path if flag),
            costs=(time_ms,),
            importance=importance,
        )
        return TruncatedPlan(plan=plan, budget_ms=budget_ms, steps=steps)


def _best_cell(cells: Mapping[Node, _Cell], t: int, ways: Iterable[Way]) -> _Cell | None:
    """The best way to arrive at time ``t``, as the public code compares them."""
    best: _Cell | None = None
    best_rounded = float("-inf")
    for start, flag, steps, importance in ways:
        before = (t - steps, start, flag)
        cell = cells.get(before)
        if cell is None:
            continue
        value, total = cell.importance + importance, cell.steps + steps
        rounded = round(value, _DIGITS)
        if rounded > best_rounded or (best and rounded == best_rounded and total < best.steps):
            best, best_rounded = _Cell(value, total, before), rounded
    return best


def _backwards(cells: Mapping[Node, _Cell], last: Node) -> Iterator[Node]:
    while last[1]:
        yield last
        last = cells[last].before
