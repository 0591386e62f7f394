"""What is common to tables that leave for other projects: which latency, and what finds no key.

Other formats know fewer things of a layer than dshrink does. What they cannot say is left out and
counted by its reason, never squeezed into a key that means something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Protocol

from latency_tables.errors import NoKeyError, TableFormatError
from latency_tables.opspec import OpSpec

#: Which latency of a row is written, and its column: the piece or layer alone, what the piece costs
#: in its network, what the layer adds beside a neighbour.
ALONE, IN_NETWORK, BESIDE = "alone", "in-network", "beside"
COLUMN = {ALONE: "latency_ms", IN_NETWORK: "in_network_ms", BESIDE: "beside_ms"}

FAILED = "their measurement failed or was not finished"
UNKNOWN = "the table has no {} of them"
NOT_ABOVE_0 = "they cost 0 ms or less, fused with others"
SAME_KEY = "a row before them has the same key, which does not tell what differs"

#: The interquartile range of the standard normal distribution.
_NORMAL_IQR = 1.3489795003921634


class TimedRow(Protocol):
    """What the rows of all tables have."""

    @property
    def latency_ms(self) -> float | None: ...
    @property
    def iqr_ms(self) -> float | None: ...
    @property
    def stdev_ms(self) -> float | None: ...
    @property
    def samples(self) -> int: ...
    @property
    def verdict(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedSpec:
    """Operators and what they take in ms; ``samples`` is 0 and ``stdev_ms`` None where unknown."""

    spec: OpSpec
    latency_ms: float
    stdev_ms: float | None = None
    samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The content of a file, how many rows stand in it, and how many do not, by reason."""

    content: str | bytes
    rows: int
    left_out: Mapping[str, int] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        """For each reason, the commonest first, how many rows have no place in ``name``."""
        total = self.rows + sum(self.left_out.values())
        return [
            f"{count} of {total} rows have no place in the format {name}: {reason}"
            for reason, count in Counter(self.left_out).most_common()
        ]


def latency_or_reason(row: TimedRow, which: str) -> float | str:
    """The latency of a row in ms, or why it cannot be written."""
    if row.latency_ms is None or row.verdict == "bounded":
        return FAILED
    column = COLUMN[which]
    latency_ms: float | None = getattr(row, column, None)
    if latency_ms is None:
        return UNKNOWN.format(column)
    return latency_ms if latency_ms > 0 else NOT_ABOVE_0


def stdev_or_none(row: TimedRow, which: str) -> float | None:
    """The standard deviation of a row's samples: as published, or of a normal distribution.

    None for what is no median of samples: costs in the network and beside a neighbour.
    """
    if which != ALONE or row.iqr_ms is None:
        return row.stdev_ms if which == ALONE else None
    return row.iqr_ms / _NORMAL_IQR


def timed(row: TimedRow, spec: OpSpec, which: str) -> TimedSpec | str:
    """A row with its operators, or why it cannot be written."""
    latency = latency_or_reason(row, which)
    if isinstance(latency, str):
        return latency
    stdev_ms = stdev_or_none(row, which)
    return TimedSpec(spec=spec, latency_ms=latency, stdev_ms=stdev_ms, samples=row.samples)


def by_key(
    timed: Iterable[TimedSpec | str], keys_of: Callable[[OpSpec], tuple[str, ...]], name: str
) -> tuple[dict[str, TimedSpec], Counter[str]]:
    """The latencies by the keys of a format, and how many have none, by reason.

    A text stands for a row without latency and says why. Equal operators in several places of a
    network are one row, the mean of what they cost there (alone they cost the same). Raises
    TableFormatError where nothing is left.
    """
    found: dict[str, TimedSpec] = {}
    left_out: Counter[str] = Counter()
    alike: dict[str, list[TimedSpec]] = {}
    for one in timed:
        if isinstance(one, str):
            left_out[one] += 1
        else:
            alike.setdefault(one.spec.digest, []).append(one)
    for first, *more in alike.values():
        try:
            keys = keys_of(first.spec)
        except NoKeyError as error:
            left_out[str(error)] += 1
            continue
        if found.keys() & set(keys):
            left_out[SAME_KEY] += 1
            continue
        mean_ms = fmean([first.latency_ms, *(one.latency_ms for one in more)])
        found |= dict.fromkeys(keys, replace(first, latency_ms=mean_ms))
    check_any(found, left_out, name)
    return found, left_out


def check_any(found: object, left_out: Mapping[str, int], name: str) -> None:
    """Raise TableFormatError, with all reasons, where nothing is found."""
    if not found:
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in left_out.items())
        raise TableFormatError(
            f"no row of this table has a place in the format {name} ({reasons}): export it as csv "
            "or json, or another table"
        )
