"""JSON output of the commands that write or read latency tables: with what is derived of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from latency_tables.hold_out import HoldOut
from latency_tables.networks import Level, MeasuredNetwork
from latency_tables.origin import Origin
from latency_tables.priors import Estimate
from latency_tables.schema import Conditions, Row
from latency_tables.span_masks import SpanChain
from latency_tables.table import LatencyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSummary:
    """A latency table without its rows.

    ``origin`` is null for a table measured here; ``estimate``, ``level`` and ``hold_out`` are null
    where no whole networks were measured.
    """

    model: str
    resolution: tuple[int, int]
    chain: SpanChain | None
    origin: Origin | None
    conditions: Conditions
    networks: tuple[MeasuredNetwork, ...]
    estimate: Estimate | None
    level: Level | None
    hold_out: HoldOut | None
    data_note: str
    warnings: tuple[str, ...]
    fit_for_search: bool
    fit_reason: str

    @classmethod
    def of(cls, table: LatencyTable, **more: Any) -> Self:
        known = {one.name: getattr(table, one.name) for one in fields(cls) if one.name not in more}
        return cls(**known, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableData(TableSummary):
    """A latency table.

    ``origin`` is null for a table measured here; ``estimate``, ``level`` and ``hold_out`` are null
    where no whole networks were measured.
    """

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTable(TableData):
    """A latency table that was written to ``folder``; see ``dshrink table show``."""

    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows that a format has no key for."""

    reason: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedTable:
    """A table that was written to ``file`` in a format of another project."""

    file: str
    format: str
    latency: str
    rows: int
    left_out: tuple[LeftOut, ...]
