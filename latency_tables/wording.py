"""Words of messages: counted nouns ("1 thread", never "1 thread(s)"), and equal warnings once.

Every package above has messages with counts, and this is the lowest one that all of them import.
The device agent, which imports nothing of ours, spells out its three.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def noun(number: int, singular: str, plural: str = "") -> str:
    """The form of a noun that follows a number; ``plural`` where it is not made by an "s"."""
    return singular if number == 1 else plural or f"{singular}s"


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number and its noun: "1 epoch", "0 epochs", "2 classes"."""
    return f"{number} {noun(number, singular, plural)}"


_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_PERCENT = re.compile(rf"({_NUMBER.pattern}) %")


def once_each(warnings: Iterable[str]) -> tuple[str, ...]:
    """Each kind of warning once: of those that differ in numbers only, the worst.

    That is the one with the largest percentage, where there is none the one with the largest
    number.
    """
    kinds: dict[str, list[str]] = {}
    for warning in dict.fromkeys(warnings):
        kinds.setdefault(_NUMBER.sub("0", warning), []).append(warning)
    return tuple(
        alike[0] if len(alike) == 1 else f"{max(alike, key=_size)} (the worst of {len(alike)} such)"
        for alike in kinds.values()
    )


def _size(warning: str) -> tuple[float, float]:
    percents, numbers = _PERCENT.findall(warning), _NUMBER.findall(warning)
    return _largest(percents), _largest(numbers)


def _largest(numbers: Iterable[str]) -> float:
    return max((abs(float(one)) for one in numbers), default=0.0)
