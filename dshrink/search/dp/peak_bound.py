"""The bound on what one piece holds: spans beyond it are no part of any plan.

It is no sum, so it is no cost: the largest piece of a plan counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace

from dshrink.search.dp.piece_sizes import PieceSizes
from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.reach import least_rest, make_edges
from dshrink.search.errors import NoPlanError, SearchError
from dshrink.search.goal import round_up
from latency_tables.places import Place, piece_name
from latency_tables.span_masks import Span
from latency_tables.table import LatencyTable

#: Bytes of one number; a network that runs in int8 still hands over int8.
_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def held_mib(table: LatencyTable, sizes: PieceSizes | None) -> dict[Place, float]:
    """What the pieces with rows hold in the network, for the table's batch. Raises SearchError."""
    if sizes is None or sizes.resolution != table.resolution:
        raise SearchError(
            f"what the pieces of {table.model} hold at {table.resolution[0]}x{table.resolution[1]} "
            "is not known: a largest peak needs MODEL and tables of one resolution"
        )
    unknown = [row.place for row in table.rows if row.place not in sizes.peaks]
    if unknown:
        raise SearchError(
            f"MODEL has no {piece_name(unknown[0])}, which the table of {table.model} has: both "
            "must be of one network"
        )
    mib = table.conditions.batch * _BYTES[table.conditions.precision] / 2**20
    return {row.place: sizes.peaks[row.place] * mib for row in table.rows}


def within_peak(
    problem: SpanProblem,
    held: Mapping[Span, float],
    always: Mapping[Place, float],
    most: float,
    table: LatencyTable,
) -> SpanProblem:
    """The problem without the spans that hold more than ``most`` MiB.

    ``held`` is what a span and the additions it pays for hold, ``always`` that of what every plan
    contains. Raises NoPlanError, which names the least bound that some plan meets.
    """
    least = max(always.values(), default=0.0)
    if least <= most and _leads_to_the_end(problem, held, most):
        return _limited(problem, held, most)
    steps = sorted({max(mib, least) for mib in held.values()})
    at = bisect_left(steps, True, key=lambda mib: _leads_to_the_end(problem, held, mib))
    if at == len(steps):
        return problem  # whatever the bound: the solver says why
    bounded = sum(row.verdict == "bounded" for row in table.rows)
    raise NoPlanError(
        f"no plan of {table.model} has only pieces that hold at most {most:g} MiB"
        + (f" ({bounded} spans are bounded, so no plan has them)" if bounded else "")
        + "".join(
            f"; the {piece_name(place)}, which every plan has, holds {mib:.4g}"
            for place, mib in always.items()
            if mib > most
        )
        + f"; the least is {steps[at]:.4g}; ask for at least {round_up(steps[at])}"
    )


def _limited(problem: SpanProblem, held: Mapping[Span, float], most: float) -> SpanProblem:
    costs = {span: costs for span, costs in problem.costs.items() if held[span] <= most}
    return replace(problem, costs=costs)


def _leads_to_the_end(problem: SpanProblem, held: Mapping[Span, float], most: float) -> bool:
    """Whether some plan has no span that holds more."""
    costs = {span: (1.0,) for span in problem.costs if held[span] <= most}
    if not costs:
        return False
    counted = replace(problem, costs=costs, names=("layers",), fixed=())
    return (0, 1) in least_rest(make_edges(counted), counted)
