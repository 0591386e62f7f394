"""What every search on a table starts from: the goal, the savings, and trust in the table."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import Protocol

from dshrink.search.errors import InfeasibleBudgetError, SearchError, UnfitTableError
from latency_tables.errors import MissingPieceError
from latency_tables.predictor import Prediction, predict
from latency_tables.table import LatencyTable


class Blocks(Protocol):
    """A network as its number of blocks: a latency table, or what knows as much."""

    @property
    def model(self) -> str: ...

    @property
    def block_count(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Either a latency budget or the number of blocks to keep."""

    budget_ms: float | None
    keep: int | None

    @classmethod
    def of(cls, *, budget_ms: float | None, keep: int | None) -> Goal:
        """Raises SearchError unless exactly one is given and makes sense."""
        if (budget_ms is None) == (keep is None):
            raise SearchError(
                "give either --budget-ms T or --keep K, the number of blocks that stay "
                f"(got budget {budget_ms} ms, keep {keep})"
            )
        if budget_ms is not None and not (math.isfinite(budget_ms) and budget_ms > 0):
            raise SearchError(f"the latency budget must be above 0 ms, got {budget_ms}")
        return cls(budget_ms=budget_ms, keep=keep)

    def check_count(self, network: Blocks, shrinkable: Sequence[int]) -> None:
        """Raise InfeasibleBudgetError unless the network can keep exactly this many blocks."""
        assert self.keep is not None
        least = network.block_count - len(shrinkable)
        if not least <= self.keep <= network.block_count:
            why = f" ({least} of them cannot merge)" if least else ""
            raise InfeasibleBudgetError(
                f"{network.model} cannot keep {self.keep} of its {network.block_count} blocks"
                f"{why}: ask for {least} to {network.block_count}"
            )


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
            f"{table.fit_reason}; measure it again on an idle machine, or allow an unfit table"
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
    """The prediction of the fastest mask: each block the better of original and merged."""
    savings = savings_ms(table, padding)
    keep_mask = "".join(
        "0" if savings.get(block, 0.0) > 0 else "1" for block in range(table.block_count)
    )
    return predict(table, keep_mask, padding)


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
