"""The errors of planning, each one a line that says what, where and how to fix it.

SearchError (a DshrinkError)
    PlanError               a plan that cannot be read, or that does not fit the network
    UnfitTableError         a latency table whose predictions are not good enough to search on
    InfeasibleBudgetError   a latency budget or keep count that no mask meets
    ImportanceError         importances that cannot be read, or that do not fit the latencies
    NoPlanError             bounds other than a latency budget that no plan meets
"""

from __future__ import annotations

from dshrink.errors import DshrinkError


class SearchError(DshrinkError):
    """Base of all errors of ``dshrink.search``."""


class PlanError(SearchError):
    """A plan that cannot be read, or that does not fit the network."""


class UnfitTableError(SearchError):
    """A latency table whose predictions are not good enough to search on."""


class InfeasibleBudgetError(SearchError):
    """A latency budget or keep count that no mask meets.

    ``smallest_ms`` is the smallest latency that any mask reaches and ``plan`` the text of a plan
    that reaches it; they are None where a keep count was asked for, or one plan for many devices.
    """

    def __init__(
        self, message: str, *, smallest_ms: float | None = None, plan: str | None = None
    ) -> None:
        super().__init__(message)
        self.smallest_ms = smallest_ms
        self.plan = plan


class NoPlanError(SearchError):
    """Bounds other than a latency budget that no plan meets."""


class ImportanceError(SearchError):
    """Importances that cannot be read, or that do not fit the latencies."""
