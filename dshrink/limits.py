"""Numbers that may be asked for, from the least to the most.

Whoever uses a number checks it before anything else is done, so that commands and Python have the
same limits: an option adds none of its own. Above them nobody waits for the end.
"""

from __future__ import annotations

from dshrink.errors import DshrinkError

MOST_HOLD_OUT = 1000
MOST_IMAGES = 10_000_000
MOST_JOBS = 256
MOST_KERNEL = 1000
#: Processes that read images; each takes some 200 MB, and a second to start.
MOST_LOADERS = 256
#: A year.
MOST_SECONDS = 3.2e7


def require_within(option: str, value: float | None, least: float, most: float) -> None:
    """Raise DshrinkError for a value outside, or NaN; None asks for nothing."""
    if value is None or least <= value <= most:
        return
    # Python writes no integer of thousands of digits.
    is_short = isinstance(value, float) or abs(value) < 1 << 99
    shown = repr(value) if is_short else "so large a number"
    raise DshrinkError(f"--{option} {shown}: give a number from {least:g} to {most:.12g}")
