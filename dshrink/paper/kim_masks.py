"""DepthShrinker's masks in the search space of Kim et al.: which of the two dominates.

A keep mask of blocks is a plan of spans as well: a block that merges is the span of its
convolutions with an activation behind it. So the dynamic program prices it by the same latencies
and importances as its own plans, and what it finds at a mask's latency is worth no less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

from dshrink.search.dp.frontier import ChainPlan, Frontier, solve
from dshrink.search.dp.labels import ROUNDING
from dshrink.search.dp.many_devices import own_plan
from dshrink.search.dp.problem import key_names
from dshrink.search.dp.tables import TableProblem, span_chain_of
from dshrink.search.errors import InfeasibleBudgetError, NoPlanError, PlanError
from dshrink.search.importance import importance_keys
from dshrink.search.published import published_masks
from latency_tables.errors import LatencyTableError
from latency_tables.places import piece_name
from latency_tables.span_masks import ACTIVE, MERGED, Span, SpanChain, mask_spans
from latency_tables.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPlan:
    """A plan that the dynamic program chose, by the same table and importances as the mask."""

    span_mask: str
    predicted_ms: float
    importance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskComparison:
    """A keep mask of blocks as a plan of spans, and the dynamic program's plans against it.

    ``at_latency`` is the plan of largest importance that is not slower than the mask,
    ``at_importance`` the fastest one that is worth no less. ``reason`` says, where it is not empty,
    why the mask is no plan of the dynamic program; then ``importance`` and ``at_importance`` are
    None, and so are ``predicted_ms`` and ``at_latency`` where the table cannot price the mask.
    """

    name: str
    keep_mask: str
    span_mask: str
    predicted_ms: float | None = None
    importance: float | None = None
    reason: str = ""
    at_latency: ComparedPlan | None = None
    at_importance: ComparedPlan | None = None

    @property
    def importance_gain(self) -> float | None:
        """At the mask's latency or less; 0 or more but for rounding."""
        if self.at_latency is None or self.importance is None:
            return None
        return self.at_latency.importance - self.importance

    @property
    def faster_percent(self) -> float | None:
        """At the mask's importance or more: how much less latency, of the mask's."""
        if self.at_importance is None or self.predicted_ms is None:
            return None
        return 100.0 * (1.0 - self.at_importance.predicted_ms / self.predicted_ms)


def paper_masks(chain: SpanChain, model: str) -> dict[str, str]:
    """DepthShrinker's keep masks of ``model`` by name.

    Where it published none of this network, those of every network with as many blocks.
    """
    found = published_masks().values()
    own = [mask for mask in found if mask.base_model == model.partition(".")[0]]
    alike = [mask for mask in found if len(mask.keep_mask) == len(chain.block_ends)]
    return {mask.name: mask.keep_mask for mask in own or alike}


def span_mask_of(chain: SpanChain, keep_mask: str) -> str:
    """The span mask that makes the same network as a keep mask, padded as ``repad`` does.

    A block that merges is one span, with an activation behind it if it lost one; a block that stays
    is as the chain's mask has it. A chain knows the ends of blocks alone, so its convolutions must
    belong to them, and branches beside a single convolution (RepVGG) are none of its spans. Raises
    PlanError.
    """
    if len(keep_mask) != len(chain.block_ends) or set(keep_mask) - {"0", "1"}:
        raise PlanError(
            f"keep mask {keep_mask!r} is not one of the chain's {len(chain.block_ends)} blocks: "
            "give one 1 (keep) or 0 (merge) for each"
        )
    mask = ""
    for (i, j), keep in zip(pairwise([0, *chain.block_ends]), keep_mask, strict=True):
        block = chain.mask[i:j]
        if keep == "0":
            block = MERGED * (j - i - 1) + (ACTIVE if ACTIVE in block[:-1] else block[-1])
        mask += block
    return mask + chain.mask[len(mask) :]


def compare_masks(problem: TableProblem, masks: Mapping[str, str]) -> tuple[MaskComparison, ...]:
    """Each keep mask, by its name, against the dynamic program's plans on the same tables.

    A mask is no plan of the dynamic program where

    - a block that it merges is no span of the table (the first one may not merge), or its row
      failed or is bounded, or the search's own bounds exclude it;
    - a key that it needs was not evaluated, that of its free activation at a block's end included;
    - a span of it has no activation at both ends: no published key does.

    Then a reason stands in place of its importance. Raises PlanError for a mask of other blocks.
    """
    chain = span_chain_of(problem.table)
    frontier = solve(problem.problem, problem.limits).of_latency()
    found = []
    for name, keep_mask in masks.items():
        mask = span_mask_of(chain, keep_mask)
        compared = MaskComparison(name=name, keep_mask=keep_mask, span_mask=mask)
        found.append(_compared(problem, frontier, chain, compared))
    return tuple(found)


def _compared(
    problem: TableProblem, frontier: Frontier, chain: SpanChain, mask: MaskComparison
) -> MaskComparison:
    try:
        predicted_ms = problem.predicted_ms(mask.span_mask)
    except LatencyTableError as error:
        return replace(mask, reason=str(error))
    mask = replace(mask, predicted_ms=predicted_ms)
    # A mask that is no plan of the dynamic program may be faster than all of its plans.
    with suppress(InfeasibleBudgetError):
        mask = replace(mask, at_latency=_plan(problem, own_plan(problem, predicted_ms)))
    try:
        importance = _importance(problem, chain, mask.span_mask)
    except NoPlanError as error:
        return replace(mask, reason=str(error))
    # The mask is a plan itself, so some point is worth no less; sums differ by their order.
    least = importance - ROUNDING * max(1.0, abs(importance))
    number = int((frontier.importances >= least).argmax())
    return replace(mask, importance=importance, at_importance=_plan(problem, frontier.plan(number)))


def _plan(problem: TableProblem, chosen: ChainPlan) -> ComparedPlan:
    return ComparedPlan(
        span_mask=chosen.mask,
        predicted_ms=problem.predicted_ms(chosen.mask),
        importance=chosen.importance,
    )


def _importance(problem: TableProblem, chain: SpanChain, mask: str) -> float:
    """What the dynamic program takes the mask to be worth: the best sum of I_ext that makes it.

    It solves the problem that is left with the mask's layers and flags. Raises NoPlanError where
    the mask is no plan of it.
    """
    spans, whole = mask_spans(mask), problem.problem
    active = [1, *(int(sign == ACTIVE) for sign in mask)]
    lacking = [span for span in spans if span not in whole.costs]
    if lacking:
        raise NoPlanError(f"the bounds of the search exclude {_named(lacking)}")
    # What the search keeps, the mask has as it is: a block that it merges is no span then.
    only = replace(
        whole,
        costs={span: whole.costs[span] for span in spans},
        forced=dict(enumerate(active[1:], start=1)),
    )
    try:
        made = solve(only)
    except NoPlanError:
        lost = {(i, j, active[i], active[j]) for i, j in spans} - set(whole.importance)
        known = lost & set(importance_keys(spans, chain.block_ends))
        why = (
            "were not evaluated" if known else "are not among the published ones: no plan has them"
        )
        raise NoPlanError(
            f"{counted(len(known or lost), 'key')} (st, end, st_act, end_act) {why}: "
            f"{key_names(known or lost)}"
        ) from None
    over = [
        name
        for name, cost, most in zip(whole.names, made.costs[0], problem.limits, strict=True)
        if cost > most
    ]
    if over:
        raise NoPlanError(f"the bounds of the search exclude it: it has more {' and '.join(over)}")
    return float(made.importances.max())


def _named(spans: Sequence[Span]) -> str:
    return ", ".join(piece_name(("span", span)) for span in spans)
