"""What Kim et al. (ICML 2023) published: their headline results beside their own latency tables.

Their T(i, j) is of the body alone and their speed-ups are of whole networks, so the two need not
agree: each row says by how much they differ. Nothing here was measured by us.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dshrink.search.dp.problem import SpanProblem
from dshrink.search.dp.within import fastest_within
from latency_tables.csv_lines import CsvSource, load_lines
from latency_tables.errors import TableFormatError
from latency_tables.published import find_published

SOURCE = "Kim et al., ICML 2023 (snu-mllab/Efficient-CNN-Depth-Compression)"
#: The latencies, budgets and results are public, the importances and the plans are not.
NOT_REBUILT = (
    "No plan of Kim et al. can be rebuilt: their latency tables and budgets are published, their "
    "importances I(i, j, a, b) and the positions that their plans merge at are not."
)
_HEADLINE = "data/published/kim2023_headline.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSpans:
    """What a published T(i, j) says by itself, for the body alone, in ms.

    ``original_ms`` is the sum over single convolutions, ``smallest_ms`` the fastest way to merge
    the chain, into ``smallest_layers`` convolutions. Residual additions, stem and head are in no
    table of theirs. ``runtime`` and ``batch`` are the table's.
    """

    model: str
    runtime: str
    batch: int
    convolutions: int
    original_ms: float
    smallest_ms: float
    smallest_layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadlineRow:
    """A published result: accuracy, speed-ups of the whole network, and the budget it was made for.

    None is what was not published. ``spans`` is the published table of its network.
    """

    model: str
    method: str
    top1_percent: float
    speedup_tensorrt: float | None
    speedup_pytorch: float | None
    budget_ms: float | None
    spans: PublishedSpans

    @property
    def published_speedup(self) -> float | None:
        """That of the runtime that the table was measured with."""
        measured = {"tensorrt": self.speedup_tensorrt, "pytorch": self.speedup_pytorch}
        return measured[self.spans.runtime]

    @property
    def table_speedup(self) -> float | None:
        """By the table alone: a plan that takes its whole budget against the single layers.

        A plan within its budget has at least this one.
        """
        return None if self.budget_ms is None else self.spans.original_ms / self.budget_ms

    @property
    def difference_percent(self) -> float | None:
        """Of the table's speed-up over the published one."""
        if self.table_speedup is None or self.published_speedup is None:
            return None
        return 100.0 * (self.table_speedup / self.published_speedup - 1.0)

    @property
    def unexplained_ms(self) -> float | None:
        """What original and shrunk network would both take besides, had the plan its budget.

        (original + x) / (budget + x) is the published speed-up. Stem, head and additions can only
        account for a positive x; where it is negative, the network that was timed saved more than
        its table and budget say.
        """
        if self.budget_ms is None or self.published_speedup is None:
            return None
        over = self.spans.original_ms - self.published_speedup * self.budget_ms
        return over / (self.published_speedup - 1.0)

    @property
    def is_feasible(self) -> bool | None:
        """Whether the table has a plan within the budget."""
        return None if self.budget_ms is None else self.spans.smallest_ms <= self.budget_ms


@cache
def headline() -> tuple[HeadlineRow, ...]:
    """The published results in their order. Raises TableFormatError."""
    source = CsvSource(where=_HEADLINE, error=TableFormatError, fix="reinstall dshrink")
    return tuple(
        HeadlineRow(
            model=line.text("model"),
            method=line.text("method"),
            top1_percent=line.number_in("top1_percent", above=0),
            speedup_tensorrt=line.number_if_any("speedup_tensorrt", above=0),
            speedup_pytorch=line.number_if_any("speedup_pytorch", above=0),
            budget_ms=line.number_if_any("budget_ms", above=0),
            spans=published_spans(line.text("model")),
        )
        for line in load_lines(files("latency_tables").joinpath(_HEADLINE), source)
    )


@cache
def published_spans(model: str) -> PublishedSpans:
    """The sums of the table that they published for ``model``. Raises TableFormatError."""
    published = find_published(f"kim2023_{model}")
    times = {
        time.place[1]: time.latency_ms
        for time in published.load_times().times
        if isinstance(time.place[1], tuple)
    }
    length = max(end for _, end in times)
    fastest = fastest_within(
        SpanProblem(
            length=length,
            costs={span: (latency_ms,) for span, latency_ms in times.items()},
            # The fastest plan of all asks for no importance: every span may be one layer.
            importance={(i, j, 1, 1): 0.0 for i, j in times},
        ),
        [math.inf],
    )
    return PublishedSpans(
        model=model,
        runtime=published.conditions.runtime,
        batch=published.conditions.batch,
        convolutions=length,
        original_ms=math.fsum(times[at, at + 1] for at in range(length)),
        smallest_ms=fastest.time_ms,
        smallest_layers=fastest.layers,
    )
