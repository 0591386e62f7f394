"""A problem from a latency table cut into spans: budgets mean the whole network's latency.

T(i, j) is what the span costs in the network and the additions that start at i and end after j: of
each skip that no span swallows, exactly one span pays. What every plan contains (stem, head,
between) is a constant, which is taken off a budget.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dshrink.search.binding import plan_from_table
from dshrink.search.dp.bounds import Bounds, PieceSizes, held_mib, within_peak
from dshrink.search.dp.files import check_keys
from dshrink.search.dp.frontier import ChainPlan
from dshrink.search.dp.problem import Key, SpanProblem
from dshrink.search.errors import InfeasibleBudgetError, SearchError
from dshrink.search.goal import infeasible
from dshrink.search.plan import Plan
from latency_tables.places import Place
from latency_tables.predictor import predict
from latency_tables.span_masks import ACTIVE, Span, SpanChain
from latency_tables.table import LatencyTable


@dataclass(frozen=True, kw_only=True)
class TableProblem:
    """A problem, the upper bounds of its costs, and what every plan takes besides."""

    table: LatencyTable
    problem: SpanProblem
    limits: tuple[float, ...]
    fixed_ms: float
    padding: str

    @property
    def device(self) -> str:
        return self.table.conditions.device

    @property
    def original_ms(self) -> float:
        """What the original network is predicted to take."""
        return self.predicted_ms(self.table.forms.base)

    def predicted_ms(self, mask: str) -> float:
        """The latency that the table predicts for a span mask."""
        return predict(self.table, mask, self.padding).latency_ms

    def plan(self, chosen: ChainPlan) -> Plan:
        """What the solver chose as a plan of the network."""
        return plan_from_table(
            self.table,
            predict(self.table, chosen.mask, self.padding),
            method="dp",
            importance=chosen.importance,
        )

    def infeasible(self, budget_ms: float, fastest: ChainPlan) -> InfeasibleBudgetError:
        """The error of a budget that not even the fastest plan meets."""
        smallest_ms = self.predicted_ms(fastest.mask)
        return infeasible(budget_ms, smallest_ms, fastest.text, f" on {self.device}")


def span_chain_of(table: LatencyTable) -> SpanChain:
    """The chain of a table of spans. Raises SearchError for one of blocks."""
    if table.chain is None:
        raise SearchError(
            f"the table of {table.model} on {table.conditions.device} is cut into blocks, the "
            f"dynamic program needs spans: measure it with --segments spans"
        )
    return table.chain


def table_problem(
    table: LatencyTable,
    importance: Mapping[Key, float],
    *,
    where: str = "the importance table",
    bounds: Bounds | None = None,
    sizes: PieceSizes | None = None,
    padding: str | None = None,
    excused: Collection[Key] = (),
) -> TableProblem:
    """The problem of a table; ``max_kernel`` and ``max_peak_mib`` need the ``sizes`` of its pieces.

    Spans whose rows failed or are bounded are not available, keys that are ``excused`` need no
    importance. Raises SearchError.
    """
    bounds, padding = bounds or Bounds(), padding or table.forms.padding
    chain = span_chain_of(table)
    measured = {
        row.span for row in table.rows if row.kind == "span" and row.span and row.is_measured
    }
    check_keys(
        importance,
        measured,
        where=where,
        possible=_possible(chain),
        block_ends=chain.block_ends,
        excused=excused,
    )
    kept = [_block_span(chain, block) for block in bounds.keep_blocks]
    allowed = [span for span in sorted(measured) if _allowed(span, kept, bounds, sizes)]
    if not allowed:
        raise SearchError(f"{table.model}: no span meets the bounds")
    columns = {"macs": bounds.max_macs, "parameters": bounds.max_parameters}
    most = {name: bound for name, bound in columns.items() if bound is not None}
    fixed = [row.place for row in table.rows if row.kind in ("stem", "between", "head")]
    fixed_ms, *spent = _costs(table, fixed, most)
    problem = SpanProblem(
        length=chain.length,
        costs={span: _costs(table, _places(chain, span), most) for span in allowed},
        importance=importance,
        names=("latency in ms", *most),
        forced={
            at: int(chain.mask[at - 1] == ACTIVE)
            for first, last in kept
            for at in range(first + 1, last + 1)
        },
        fixed=(0.0, *spent),
    )
    if bounds.max_peak_mib is not None:
        mib = held_mib(table, sizes)
        held = {span: max(mib[place] for place in _places(chain, span)) for span in allowed}
        always = {place: mib[place] for place in fixed}
        problem = within_peak(problem, held, always, bounds.max_peak_mib, table)
    return TableProblem(
        table=table,
        problem=problem,
        limits=(math.inf, *(most[name] - s for name, s in zip(most, spent, strict=True))),
        fixed_ms=fixed_ms,
        padding=padding,
    )


def _costs(
    table: LatencyTable, places: Sequence[Place], columns: Iterable[str]
) -> tuple[float, ...]:
    """What these rows cost in the network in ms, and the sums of their ``columns``."""
    rows = [table.row(*place) for place in places]
    return (
        math.fsum(table.cost_ms(*place) for place in places),
        *(float(sum(getattr(row, name) for row in rows)) for name in columns),
    )


def _places(chain: SpanChain, span: Span) -> list[Place]:
    """The rows that a span pays for: its own, and the additions that start with it."""
    i, j = span
    return [
        ("span", span),
        *(("addition", skip) for skip in chain.skips if skip[0] == i and j < skip[1]),
    ]


def _allowed(span: Span, kept: Sequence[Span], bounds: Bounds, sizes: PieceSizes | None) -> bool:
    """Whether a span merges nothing, or no block that must stay and within the largest kernel."""
    i, j = span
    if j == i + 1:
        return True
    if any(i < last and first < j for first, last in kept):
        return False
    if bounds.max_kernel is None:
        return True
    if sizes is None or span not in sizes.kernels:
        raise SearchError(f"the kernel of span {i}-{j} is not known: a largest kernel needs MODEL")
    return sizes.kernels[span] <= bounds.max_kernel


def _possible(chain: SpanChain) -> set[Span]:
    """The spans that may have importances: those whose ends lie on one side of every skip.

    A table may hold fewer of them than the importances were measured for.
    """
    return {
        (i, j)
        for j in range(1, chain.length + 1)
        for i in range(j)
        if not any(i < p < j < q or p < i < q < j for p, q in chain.skips)
    }


def _block_span(chain: SpanChain, block: int) -> Span:
    if not 0 <= block < len(chain.block_ends):
        raise SearchError(
            f"block {block} cannot be kept: the chain has blocks 0 to {len(chain.block_ends) - 1}"
        )
    return (chain.block_ends[block - 1] if block else 0, chain.block_ends[block])
