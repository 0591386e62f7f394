"""The contexts in which the pieces of a table were measured, and which one predicts best.

A piece alone pays at its ends what it does not pay in a network, and how much depends on the
runtime. So a profile may cost its pieces in several contexts. Each gives a whole table, and the
networks that took no part in any of them decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from latency_tables.errors import TableFormatError
from latency_tables.hold_out import HoldOut

#: The simplest first. ``isolated``: each piece alone. ``pair``: what a piece adds to the one before
#: it. ``layers``: the runtime's own profile of whole networks, shared out to their pieces.
CONTEXTS = ("isolated", "pair", "layers")

#: Contexts whose errors differ by no more are equally good, and the simplest of them is taken.
TIE_PERCENT = 0.1


def check_context(name: str) -> None:
    """Raise TableFormatError for a context that this version does not know."""
    if name not in CONTEXTS:
        raise TableFormatError(f"context {name!r} is not one of {', '.join(CONTEXTS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextCheck:
    """The prediction errors of a context on the held-out networks.

    All are None where the context gave no prediction to check. ``unnamed_percent`` is for
    ``layers``: the share of the profiled time in layers that name no operator of ours.
    """

    mape_percent: float | None
    plain_sum_mape_percent: float | None
    max_error_percent: float | None
    unnamed_percent: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise TableFormatError(f"{name} must be 0 or more, got {value}")

    @classmethod
    def of(cls, hold_out: HoldOut | None, unnamed_percent: float | None = None) -> Self:
        """What the hold-out networks of a context's table say."""
        return cls(
            mape_percent=hold_out.mape_percent if hold_out else None,
            plain_sum_mape_percent=hold_out.plain_sum_mape_percent if hold_out else None,
            max_error_percent=hold_out.max_error_percent if hold_out else None,
            unnamed_percent=unnamed_percent,
        )


def best_context(mape_percent: Mapping[str, float | None]) -> str:
    """The context with the smallest mean error; the simplest of those within ``TIE_PERCENT`` of it.

    Where no error is known it is the simplest. Raises TableFormatError for none at all.
    """
    known = [name for name in CONTEXTS if name in mape_percent]
    if not known:
        raise TableFormatError("no context to choose from")
    errors = {name: e for name in known if (e := mape_percent[name]) is not None}
    if not errors:
        return known[0]
    # Differences of decimal numbers miss their bound by a hair; that hair must not decide either.
    bound = min(errors.values()) + TIE_PERCENT + 1e-9
    return next(name for name, error in errors.items() if error <= bound)
