"""What a demo has found, as one record: what the network costs, and what each budget buys.

A machine runs at one level while its table is measured and, if it is restless, at another one while
the networks are. That moves all latencies by one factor, which the original shows: it is told apart
from an error of a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

from dshrink.refit.agreement import Closeness
from dshrink.results import BenchmarkResult


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoNetwork:
    """A measured network; the original has neither a budget nor the files of a plan.

    ``certificate`` is the largest relative error of its merge in float64.
    """

    result: BenchmarkResult
    blocks: int
    budget_ms: float | None = None
    plan: str | None = None
    file: str | None = None
    certificate: float | None = None

    @property
    def off_percent(self) -> float | None:
        """How much slower it is than predicted; None where either is not known."""
        one = self.result
        if one.latency_ms is None or one.predicted_ms is None:
            return None
        return 100.0 * (one.latency_ms / one.predicted_ms - 1.0)

    @property
    def meets_prediction(self) -> bool | None:
        """Whether measured and predicted interval meet; None where one is not known."""
        one = self.result
        bounds = (one.low_ms, one.high_ms, one.predicted_low_ms, one.predicted_high_ms)
        low, high, predicted_low, predicted_high = bounds
        if low is None or high is None or predicted_low is None or predicted_high is None:
            return None
        return low <= predicted_high and predicted_low <= high


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoAgreement:
    """How often a merged network says what the original says, before and after its refit.

    On crops of images that were not fitted; ``merged`` blocks are merged, which should make it
    ``predicted_speedup`` times as fast as the original.
    """

    merged: int
    predicted_speedup: float
    closeness: Closeness


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """``networks`` begin with the original; ``agreement`` is None for weights that say nothing.

    ``table`` is its folder, ``usable`` its verdict in a line, ``notes`` are doubts about what was
    measured, ``report`` the page of it all, ``pictures`` the folder of the figures.
    """

    model: str
    resolution: tuple[int, int]
    weights: str
    table: str
    fit_for_search: bool
    usable: str
    networks: tuple[DemoNetwork, ...]
    agreement: DemoAgreement | None
    notes: tuple[str, ...]
    report: str
    pictures: str

    @property
    def original(self) -> DemoNetwork:
        return self.networks[0]

    @property
    def drift_percent(self) -> float | None:
        """How much slower the original ran than its table has it; None where that is not known."""
        return self.original.off_percent

    def predicted_speedup(self, network: DemoNetwork) -> float | None:
        """The table's ratio of the original to the network, in which the level cancels."""
        whole_ms, its_ms = self.original.result.predicted_ms, network.result.predicted_ms
        return None if whole_ms is None or its_ms is None else whole_ms / its_ms
