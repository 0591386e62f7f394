"""What a latency table holds: the conditions of a measurement and one row a piece.

Records refuse values that no measurement gives (negative, NaN, an interval that leaves its median
out), so whatever reads or writes tables need not check again.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from latency_tables.errors import ConditionsError, PieceError, TableFormatError
from latency_tables.measured import (
    Measured,
    check_measured,
    check_order,
    one_line,
    settle_types,
)
from latency_tables.places import Place, check_place, piece_name
from latency_tables.span_masks import Span

SCHEMA = "dshrink.latency_table"
SCHEMA_VERSION = 2

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
CACHE_MODES = ("hot", "cold")
#: What the reported latency was read from: the CPU time of the one running thread, the clock, or
#: events that the GPU itself stamps.
CLOCKS = ("thread_cpu", "wall", "cuda_events")
#: How the host gives the device its work: operator by operator, as one recorded CUDA graph, or as
#: code that the framework compiled.
LAUNCHES = ("plain", "cuda_graph", "compiled")
#: What the latency is: (quantile of the samples within a visit, quantile over the visits, each in a
#: process of its own). ``quiet`` is the latency to expect of a process while nothing else slows its
#: core, whatever share of the time that is: the lower quartile within a visit leaves out what
#: disturbs a part of it, and the median over processes is amid what luck with their memory makes of
#: them. On a machine of one's own both are nearly equal.
STATISTICS = {"quiet": (0.25, 0.5), "median": (0.5, 0.5)}
#: Those that only tables of schema version 1 have; nothing is measured by them.
OLD_STATISTICS = ("quiet-1",)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What was measured on and how; rows of different conditions never mix."""

    device: str
    runtime: str
    runtime_version: str
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    power_mode: str = "default"
    cache_mode: str = "hot"
    clock: str = "wall"
    statistic: str = "median"
    launch: str = "plain"

    def __post_init__(self) -> None:
        for name in ("device", "runtime", "runtime_version", "power_mode"):
            value = getattr(self, name)
            if not value or value != one_line(value):
                raise ConditionsError(f"{name} must be one line of text, got {value!r}")
        for name, known in (
            ("precision", PRECISIONS),
            ("cache_mode", CACHE_MODES),
            ("clock", CLOCKS),
            ("statistic", (*STATISTICS, *OLD_STATISTICS)),
            ("launch", LAUNCHES),
        ):
            if getattr(self, name) not in known:
                raise ConditionsError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}"
                )
        for name in ("batch", "threads"):
            if getattr(self, name) < 1:
                raise ConditionsError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.clock == "thread_cpu" and self.threads != 1:
            raise ConditionsError(
                f"clock 'thread_cpu' sees one thread only, got {self.threads} threads: "
                "use clock 'wall'"
            )

    @cached_property
    def digest(self) -> str:
        """8 hex digits that equal conditions share; each row of a table carries them."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def differences(self, other: Conditions) -> tuple[str, ...]:
        """One text a condition that differs: "batch: 1 / 8"."""
        mine, theirs = asdict(self), asdict(other)
        return tuple(
            f"{key}: {mine[key]} / {theirs[key]}" for key in mine if mine[key] != theirs[key]
        )

    def to_json(self) -> dict[str, Any]:
        """The conditions as JSON data."""
        return asdict(self)


#: What whole networks say of a piece, and in which order these three are.
IN_NETWORK = ("in_network_low_ms", "in_network_ms", "in_network_high_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Measured):
    """What one piece costs, at one place of the network.

    ``start`` and ``end`` are the i and j of a span (i, j], in a table cut into blocks None.
    ``in_network_ms`` is what the piece costs in a network, with its 95 % interval; it is 0 or below
    where the runtime fuses the piece with others. They are None for rows of which no network says
    anything: those that are in none, and those without latency. ``profiled_ms`` is what the
    runtime's own profile of whole networks says, None where it is not known.
    Of a published row the digest is empty where what it computes is not known.
    """

    piece: str
    kind: str
    block: int | None
    first_layer: str
    last_layer: str
    digest: str
    in_network_ms: float | None = None
    in_network_low_ms: float | None = None
    in_network_high_ms: float | None = None
    profiled_ms: float | None = None
    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        settle_types(self, (*IN_NETWORK, "profiled_ms"))
        self._check_names()
        check_measured(self)
        self._check_in_network()

    def _check_names(self) -> None:
        if (self.start is None) != (self.end is None) or None not in (self.block, self.start):
            raise TableFormatError(
                f"start {self.start} and end {self.end} belong together, and a row has either "
                f"them or a block (here {self.block})"
            )
        try:
            check_place(self.place)
        except PieceError as error:
            raise TableFormatError(str(error)) from None
        if self.piece != piece_name(self.place):
            where = "block" if self.span is None else "span"
            raise TableFormatError(
                f"piece {self.piece!r} should be named {piece_name(self.place)!r} for its kind and "
                f"{where}"
            )
        unknown = self.verdict == "published" and not self.digest
        if not unknown and (len(self.digest) != 16 or set(self.digest) - set("0123456789abcdef")):
            raise TableFormatError(f"digest {self.digest!r} is not 16 hex digits")
        for name in ("first_layer", "last_layer"):
            if getattr(self, name) != one_line(getattr(self, name)):
                raise TableFormatError(f"{name} {getattr(self, name)!r} is not one line of text")

    def _check_in_network(self) -> None:
        if self.profiled_ms is not None and not 0 <= self.profiled_ms < math.inf:
            raise TableFormatError(f"profiled_ms must be 0 or more, got {self.profiled_ms}")
        given = {name: value for name in IN_NETWORK if (value := getattr(self, name)) is not None}
        if not given:
            return
        if len(given) != len(IN_NETWORK) or not all(map(math.isfinite, given.values())):
            raise TableFormatError(f"{', '.join(IN_NETWORK)} must all be finite numbers, or empty")
        if not self.in_networks:
            raise TableFormatError(
                f"no network says what this row ({self.kind}, {self.verdict}) costs in it: leave "
                f"{', '.join(IN_NETWORK)} empty"
            )
        check_order(self, *IN_NETWORK)

    @property
    def span(self) -> Span | None:
        """(i, j), or None for a row without."""
        return None if self.start is None or self.end is None else (self.start, self.end)

    @property
    def place(self) -> Place:
        return self.kind, self.block if self.span is None else self.span

    @property
    def is_measured(self) -> bool:
        """Whether the row has a latency to predict with; noisy and throttled rows do."""
        return self.latency_ms is not None and self.verdict != "bounded"

    @property
    def cost_ms(self) -> float | None:
        """What the piece costs: in a network where that is known, else alone."""
        return self.latency_ms if self.in_network_ms is None else self.in_network_ms

    @property
    def cost_interval_ms(self) -> tuple[float | None, float | None]:
        """The 95 % interval of that."""
        if self.in_network_ms is None:
            return self.low_ms, self.high_ms
        return self.in_network_low_ms, self.in_network_high_ms

    @property
    def in_networks(self) -> bool:
        """Whether networks that we measure may contain the row, so that they say what it costs."""
        return self.is_measured and self.kind != "dense" and self.verdict != "published"


#: The columns of the CSV, in order: a row's fields, then the digest of the conditions.
COLUMNS = (
    *("piece", "kind", "block", "first_layer", "last_layer", "digest"),
    *("in_network_ms", "in_network_low_ms", "in_network_high_ms", "profiled_ms"),
    *(one.name for one in fields(Measured) if one.name != "stdev_ms"),
    *("start", "end", "stdev_ms", "conditions"),
)
