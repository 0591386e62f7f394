"""What every row of a table says of its measurement, and the checks of it.

Rows refuse values that no measurement gives (negative, NaN, an interval that leaves its latency
out), so whatever reads or writes tables need not check again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from latency_tables.errors import TableFormatError

#: The worst last. ``host_bound``: the device waited for the host, so the latency says little about
#: the device. ``bounded``: so slow that it was not measured to the end, if at all; what it has for
#: a latency is in no prediction. ``published``: taken from others, so no verdict of ours.
VERDICTS = ("ok", "host_bound", "noisy", "throttled", "bounded", "failed", "published")


def one_line(text: str) -> str:
    """``text`` on one line without control characters, so that a row of the CSV stays a line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


#: Latencies that every row has unless its measurement failed.
LATENCIES = (
    "latency_ms",
    "low_ms",
    "high_ms",
    "median_ms",
    "min_ms",
    "p90_ms",
    "p99_ms",
    "wall_latency_ms",
)
#: Spreads: as the latencies, but 0 is possible.
SPREADS = ("iqr_ms", "round_spread_percent")
COUNTS = ("macs", "parameters", "peak_activations")
#: What conditions or a source may have or not.
OPTIONAL = ("cpu_latency_ms", "enqueue_ms", "stdev_ms")
MAY_BE_ZERO = (*SPREADS, "enqueue_ms", "stdev_ms")
MILLISECONDS_AND_PERCENT = (*LATENCIES, *SPREADS, *OPTIONAL)
INTEGERS = (*COUNTS, "samples", "rounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a row says of its measurement, whatever was measured.

    ``latency_ms`` is what it takes alone, as the conditions' statistic says, ``low_ms`` and
    ``high_ms`` its 95 % interval, ``median_ms`` the median of all samples. ``board`` names what
    measured it, several boards joined by "+". ``macs``, ``parameters`` and ``peak_activations``
    count for one image. A failed row has no latencies; its ``reason`` says why. ``cpu_latency_ms``
    is None where more than one thread ran. On a GPU ``enqueue_ms`` is what the host takes to hand
    over the work of one run, and ``built_precision`` the precision of what the runtime really
    built; elsewhere they are None and empty. A published row has its latency, the standard
    deviation ``stdev_ms`` where the source gives one, and counts where these are known (0 where
    not).
    """

    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    median_ms: float | None = None
    iqr_ms: float | None = None
    min_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    wall_latency_ms: float | None = None
    cpu_latency_ms: float | None = None
    samples: int = 0
    rounds: int = 0
    round_spread_percent: float | None = None
    macs: int
    parameters: int
    peak_activations: int
    verdict: str
    reason: str = ""
    board: str = ""
    enqueue_ms: float | None = None
    built_precision: str = ""
    stdev_ms: float | None = None


def settle_types(row: Measured, more_decimals: Sequence[str] = ()) -> None:
    """Make a new row's texts one line, and its numbers int and float.

    1 and 1.0, or a numpy number, would be written differently from what is read back.
    """
    for name in ("reason", "board", "built_precision"):
        object.__setattr__(row, name, one_line(getattr(row, name)))
    for names, convert in (((*more_decimals, *MILLISECONDS_AND_PERCENT), float), (INTEGERS, int)):
        for name in names:
            if getattr(row, name) is not None:
                object.__setattr__(row, name, convert(getattr(row, name)))


def check_measured(row: Measured) -> None:
    """Raise TableFormatError where verdict, reason, latencies and counts do not go together."""
    if row.verdict not in VERDICTS:
        raise TableFormatError(f"verdict {row.verdict!r} is not one of {', '.join(VERDICTS)}")
    if row.verdict not in ("ok", "published") and not row.reason:
        raise TableFormatError(f"a row that is {row.verdict} needs a reason")
    for name in COUNTS:
        if getattr(row, name) < 0:
            raise TableFormatError(f"{name} must not be negative, got {getattr(row, name)}")
    if row.verdict == "published":
        _check_latencies(row, ("latency_ms",), ("stdev_ms",))
        if row.samples or row.rounds:
            raise TableFormatError(f"a published row has no samples of ours, got {row.samples}")
    elif row.verdict == "failed" or (row.verdict == "bounded" and row.latency_ms is None):
        _check_latencies(row, (), ())
        if min(row.samples, row.rounds) < 0:
            raise TableFormatError("samples and rounds must not be negative")
    else:
        _check_latencies(row, (*LATENCIES, *SPREADS), ("cpu_latency_ms", "enqueue_ms"))
        if min(row.samples, row.rounds) < 1:
            raise TableFormatError(
                f"{row.samples} samples in {row.rounds} rounds: a measured row needs at least 1"
            )
        check_order(row, "low_ms", "latency_ms", "high_ms")
        check_order(row, "min_ms", "median_ms", "p90_ms", "p99_ms")


def _check_latencies(row: Measured, needed: Sequence[str], optional: Sequence[str]) -> None:
    for name in MILLISECONDS_AND_PERCENT:
        value = getattr(row, name)
        if value is None:
            if name in needed:
                raise TableFormatError(
                    f"{name} is empty; only a row whose verdict is 'failed' may be"
                )
        elif name not in (*needed, *optional):
            raise TableFormatError(f"a {row.verdict} row has no {name}, got {value}")
        elif not math.isfinite(value):
            raise TableFormatError(f"{name} must be a finite number, got {value}")
        elif value < 0 or (value == 0 and name not in MAY_BE_ZERO):
            bound = "0 or more" if name in MAY_BE_ZERO else "above 0"
            raise TableFormatError(f"{name} must be {bound}, got {value}")


def check_order(row: Measured, *names: str) -> None:
    """Raise TableFormatError where these fields do not grow."""
    values = [getattr(row, name) for name in names]
    if values != sorted(values):
        raise TableFormatError(f"expected {' <= '.join(names)}, got {values}")
