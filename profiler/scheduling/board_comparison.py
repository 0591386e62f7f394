"""Whether boards of one kind are alike enough for their rows to share a table.

All boards measure the plan's shared jobs. A board's ratio is the median over these pieces of its
latency divided by the reference board's; the reference is the board that most others agree with.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from latency_tables.schema import STATISTICS, Conditions
from profiler.journal import JournalState
from profiler.statistics import latency, latency_interval, median

#: Percent by which a board may differ from the reference before its rows are kept out.
BOARD_LIMIT_PERCENT = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardComparison:
    """One board against the reference: percent by which it is slower, and the pieces compared."""

    DERIVED: ClassVar = ("agrees",)

    board: str
    reference: str
    slower_percent: float
    least_percent: float
    most_percent: float
    pieces: int

    @property
    def agrees(self) -> bool:
        """Within the limit, or not known to be beyond it: the 95 % interval contains 0."""
        is_close = abs(self.slower_percent) <= BOARD_LIMIT_PERCENT
        return is_close or self.least_percent <= 0.0 <= self.most_percent

    @property
    def reason(self) -> str:
        """One line: the warning about a board that does not agree."""
        return (
            f"{self.board} is {self.slower_percent:+.1f} % off {self.reference} on {self.pieces} "
            f"pieces that both measured (limit {BOARD_LIMIT_PERCENT:g} %): its measurements "
            "are discarded; compare the two boards' power modes and cooling, or profile each into "
            "a folder of its own"
        )


#: The samples of each shared job on a board, a list a reply.
_Parts = Mapping[str, Sequence[Sequence[int]]]


def compare_boards(
    state: JournalState,
    conditions: Conditions,
    shared: Collection[str],
    *,
    number: int | None = None,
    without: Collection[str] = (),
) -> tuple[BoardComparison, ...]:
    """Compare the boards that measured ``shared`` jobs in a round (in all where not given).

    Empty where fewer than two boards did. The reference board is not among the results.
    """
    boards = {
        board: parts
        for board, parts in _samples(state, conditions.clock, shared, number).items()
        if board not in without and parts
    }
    if len(boards) < 2:
        return ()
    shares = STATISTICS[conditions.statistic]
    typical = {
        board: {piece: latency(samples, shares) for piece, samples in parts.items()}
        for board, parts in boards.items()
    }

    def alike(board: str) -> int:
        ratios = (_ratio(typical[other], typical[board]) for other in typical)
        return sum(abs(ratio - 1.0) <= BOARD_LIMIT_PERCENT / 100.0 for ratio in ratios)

    reference = max(sorted(boards), key=alike)
    return tuple(
        BoardComparison(
            board=board,
            reference=reference,
            slower_percent=_percent(_ratio(typical[board], typical[reference])),
            pieces=len(typical[board].keys() & typical[reference].keys()),
            **_interval(boards[board], boards[reference], shares),
        )
        for board in sorted(boards)
        if board != reference and typical[board].keys() & typical[reference].keys()
    )


def _samples(
    state: JournalState, clock: str, shared: Collection[str], number: int | None
) -> dict[str, dict[str, list[tuple[int, ...]]]]:
    """By board and job: what a board measured to be compared, and what it measured anyway."""
    anyway = (reply for reply in state.accepted.values() if reply.job_id in shared)
    found: dict[str, dict[str, list[tuple[int, ...]]]] = {}
    for reply in (*state.shared.values(), *anyway):
        if reply.samples is not None and number in (None, reply.round):
            parts = found.setdefault(reply.board, {})
            parts.setdefault(reply.job_id, []).append(reply.samples.times_ns(clock))
    return found


def _ratio(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    both = one.keys() & other.keys()
    return median([one[piece] / other[piece] for piece in both]) if both else math.inf


def _interval(parts: _Parts, known: _Parts, shares: tuple[float, float]) -> dict[str, float]:
    """Medians over the pieces of what the ends of both boards' 95 % intervals give."""
    least, most = [], []
    for piece in parts.keys() & known.keys():
        low, high = latency_interval(parts[piece], shares)
        known_low, known_high = latency_interval(known[piece], shares)
        least.append(low / known_high)
        most.append(high / known_low)
    return {"least_percent": _percent(median(least)), "most_percent": _percent(median(most))}


def _percent(ratio: float) -> float:
    return round(100.0 * (ratio - 1.0), 3)
