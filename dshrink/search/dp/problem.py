"""What the dynamic program is about: costs a span, importances a key, as plain numbers.

Positions 0..L are the places between the convolutions of a chain, 0 the input. A key (i, j, a, b)
is the span (i, j] with the flags of its ends: 1 where an activation follows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dshrink.search.errors import SearchError
from latency_tables.span_masks import Span

#: (i, j, a, b): the span (i, j] and whether an activation follows i and j.
Key = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class SpanProblem:
    """The chain's length L, what each span costs, and what each key is worth.

    ``costs`` maps a span that may be one layer to its costs: the latency in ms first, then what
    else is bounded, each of which adds up over the layers. ``importance`` maps keys to
    normalised importances. ``forced`` are positions whose flag is given: it is a plan's flag there,
    and an activation that must stay is removed by no key. ``fixed`` is what every plan
    costs in addition, where that is known: bounds exclude it, messages include it.
    """

    length: int
    costs: Mapping[Span, tuple[float, ...]]
    importance: Mapping[Key, float]
    names: tuple[str, ...] = ("latency in ms",)
    forced: Mapping[int, int] = field(default_factory=dict)
    fixed: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if {len(costs) for costs in self.costs.values()} != {self.width} or not self.width:
            raise SearchError(f"every span needs its costs: {', '.join(self.names)}")

    @property
    def width(self) -> int:
        """How many costs a span has."""
        return len(self.names)

    def allows(self, key: Key) -> bool:
        """Whether the forced flags leave a plan this key."""
        if not self.forced:
            return True
        i, j, a, b = key
        return (
            self.forced.get(i, a) == a
            and self.forced.get(j, b) == b
            and not any(flag and i < at < j for at, flag in self.forced.items())
        )


def key_name(key: tuple[int, ...]) -> str:
    """ "(3, 5, 1, 0)", as the errors and the published files' columns name it."""
    return f"({', '.join(map(str, key))})"


def key_names(keys: Collection[tuple[int, ...]], at_most: int = 6) -> str:
    """The first of them in order, and how many more there are."""
    ordered = sorted(keys)
    more = f" and {len(ordered) - at_most} more" if len(ordered) > at_most else ""
    return ", ".join(map(key_name, ordered[:at_most])) + more


def block_ends_of(keys: Collection[Key]) -> tuple[int, ...]:
    """The positions that appear without an activation: what a table of keys says of block ends.

    The input is none, and no plan starts without an activation there.
    """
    ends = {i for i, _, a, _ in keys if i and not a} | {j for _, j, _, b in keys if not b}
    return tuple(sorted(ends))
