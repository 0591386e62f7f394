"""What every search on a table starts from: the goal, the savings, and trust in the table."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context

from dshrink.search.errors import InfeasibleBudgetError, SearchError, UnfitTableError
from latency_tables.errors import MissingPieceError
from latency_tables.predictor import Prediction, predict
from latency_tables.table import LatencyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Either a latency budget or the number of blocks to keep."""

    budget_ms: float | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        if (self.budget_ms is None) == (self.keep is None):
            raise SearchError(
                "give either --budget-ms T or --keep K, the number of blocks that stay "
                f"(got budget {self.budget_ms} ms, keep {self.keep})"
            )
        if self.budget_ms is not None and not 0 < self.budget_ms < math.inf:
            raise SearchError(f"the latency budget must be above 0 ms, got {self.budget_ms}")

    def shrink(self, model: str, blocks: int, order: Sequence[int]) -> str:
        """The keep mask where as many of ``order`` as the count asks for merge, its first ones.

        Raises InfeasibleBudgetError where they are too few, or the network has fewer blocks.
        """
        assert self.keep is not None
        least = blocks - len(order)
        if not least <= self.keep <= blocks:
            why = f" ({least} of them cannot merge)" if least else ""
            raise InfeasibleBudgetError(
                f"{model} cannot keep {self.keep} of its {blocks} blocks{why}: "
                f"ask for {least} to {blocks}"
            )
        return keep_mask(blocks, order[: blocks - self.keep])


def keep_mask(blocks: int, merged: Collection[int]) -> str:
    """One character a block: 0 where it merges."""
    return "".join("0" if block in merged else "1" for block in range(blocks))


def check_blocks(table: LatencyTable, method: str) -> None:
    """Raise SearchError for a table of spans, from which ``method`` cannot choose blocks."""
    if table.chain is not None:
        raise SearchError(
            f"the table of {table.model} on {table.conditions.device} is cut into spans, `dshrink "
            f"search {method}` needs blocks: use `dshrink search dp`, or measure it with "
            "--segments blocks"
        )


def check_fit(table: LatencyTable, *, allow_unfit: bool) -> None:
    """Raise UnfitTableError for a table whose predictions cannot be trusted."""
    if table.fit_reason and not allow_unfit:
        raise UnfitTableError(
            f"the table of {table.model} on {table.conditions.device} is not fit for search: "
            f"{table.fit_reason}; measure it again on an idle machine, or use it all the same: "
            "--allow-unfit (in Python allow_unfit=True)"
        )


def savings_ms(table: LatencyTable, padding: str) -> Mapping[int, float]:
    """What merging each block saves, for the blocks that can merge and were measured both ways."""
    found = {}
    for block in table.mergeable:
        # In a table that is fit none is missing; an unfit one still plans with what it has.
        with contextlib.suppress(MissingPieceError):
            found[block] = table.saving_ms(block, padding)
    return found


def smallest_latency(table: LatencyTable, padding: str = "bias_map") -> Prediction:
    """The prediction of the fastest mask.

    A block is better merged or not by what it costs and by whether the one before it is merged: the
    best mask of the first blocks, for each of the two forms of the last one, is found block by
    block.
    """
    savings = savings_ms(table, padding)
    # Milliseconds more than the original network, and the mask, by whether the last block merged.
    best: dict[bool, tuple[float, str]] = {False: (0.0, "")}
    for block in range(table.block_count):
        known = best
        best = {False: min((ms, f"{mask}1") for ms, mask in known.values())}
        if block in savings:
            best[True] = min(
                (ms - savings[block] + (table.pair_ms(block) if merged else 0.0), f"{mask}0")
                for merged, (ms, mask) in known.items()
            )
    return predict(table, min(best.values())[1], padding)


def round_up(value: float) -> str:
    """Four digits, never below: rounding to nearest could advise a budget that cannot be met."""
    return f"{Context(prec=4, rounding=ROUND_CEILING).create_decimal_from_float(value):f}"


def infeasible(
    budget_ms: float, smallest_ms: float, plan: str, where: str = ""
) -> InfeasibleBudgetError:
    """The error of a budget that no plan meets, not even the fastest, whose text is ``plan``."""
    return InfeasibleBudgetError(
        f"no plan meets {budget_ms:g} ms{where}: the smallest possible latency is "
        f"{smallest_ms:.4g} ms ({plan}); ask for at least {round_up(smallest_ms)} ms",
        smallest_ms=smallest_ms,
        plan=plan,
    )
