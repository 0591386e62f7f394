"""The JSON next to a table's CSV: conditions, machine, whole networks.

Statistics are written for whoever opens the file, and computed again when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from latency_tables.errors import LatencyTableError, TableFormatError
from latency_tables.networks import Level, MeasuredNetwork
from latency_tables.origin import Origin
from latency_tables.priors import Estimate
from latency_tables.records import format_record, parse_record, plain
from latency_tables.schema import SCHEMA, SCHEMA_VERSION, Conditions, Row
from latency_tables.span_masks import Span, SpanChain, SpanChoice
from latency_tables.table import LatencyTable

FIX = "restore the file, or write the table again with `dshrink profile`"


@dataclass(frozen=True, kw_only=True)
class CommonSidecar:
    """What files of every version hold; ``unmergeable`` names a block "3", a span "3-6"."""

    unit: Literal["ms"] = "ms"
    model: str
    resolution: tuple[int, int]
    in_channels: int
    block_names: tuple[str, ...]
    chain: SpanChain | None
    spans: SpanChoice | None
    unmergeable: Mapping[str, str]
    origin: Origin | None
    conditions: Conditions
    conditions_digest: str
    row_count: int
    rows_digest: str
    fit_for_search: bool
    fit_reason: str
    warnings: tuple[str, ...]
    seed: int
    date: str
    dshrink_version: str
    boards: tuple[Mapping[str, Any], ...]
    fingerprint: Mapping[str, Any]

    def __post_init__(self) -> None:
        for key in self.unmergeable:
            _place_of(key)


@dataclass(frozen=True, kw_only=True)
class Sidecar(CommonSidecar):
    """The file of this version; ``hold_out`` is for who opens it, and not read back."""

    data_note: str = ""
    level: Level | None
    estimate: Estimate | None
    hold_out: Mapping[str, Any] | None = None
    networks: tuple[MeasuredNetwork, ...]

    def table(self, rows: tuple[Row, ...]) -> LatencyTable:
        """The table of these rows. Raises LatencyTableError."""
        values = {name: getattr(self, name) for name in _SHARED}
        unmergeable = {_place_of(key): reason for key, reason in self.unmergeable.items()}
        return LatencyTable(rows=rows, unmergeable=unmergeable, **values)


#: What a table and its sidecar call alike.
_SHARED = tuple(
    {field.name for field in fields(Sidecar)}
    & {field.name for field in fields(LatencyTable)} - {"unmergeable"}
)


def format_sidecar(table: LatencyTable) -> str:
    """The sidecar's text."""
    sidecar = Sidecar(
        unmergeable=_unmergeable(table),
        conditions_digest=table.conditions.digest,
        row_count=len(table.rows),
        rows_digest=table.rows_digest,
        fit_for_search=table.fit_for_search,
        fit_reason=table.fit_reason,
        data_note=table.data_note,
        hold_out=plain(table.hold_out),
        **{name: getattr(table, name) for name in _SHARED},
    )
    return format_record(sidecar, SCHEMA, SCHEMA_VERSION)


def parse_sidecar(text: str, where: str) -> Sidecar:
    """Read ``format_sidecar``'s form. Raises LatencyTableError, which names ``where``."""
    return parse_record(
        text,
        Sidecar,
        where=where,
        error=TableFormatError,
        fix=FIX,
        schema=SCHEMA,
        version=SCHEMA_VERSION,
    )


def build_table(sidecar: Sidecar, rows: tuple[Row, ...], where: str) -> LatencyTable:
    """The table of these rows. Raises LatencyTableError, which names ``where``."""
    try:
        return sidecar.table(rows)
    except LatencyTableError as error:
        raise type(error)(f"{where}: {error}: {FIX}") from None


def _unmergeable(table: LatencyTable) -> dict[str, str]:
    ordered = sorted(table.unmergeable, key=lambda at: at if isinstance(at, tuple) else (at, at))
    return {
        f"{at[0]}-{at[1]}" if isinstance(at, tuple) else f"{at}": table.unmergeable[at]
        for at in ordered
    }


def _place_of(key: str) -> int | Span:
    if not re.fullmatch("(0|[1-9][0-9]*)(-(0|[1-9][0-9]*))?", key):
        raise TableFormatError(
            f"unmergeable: {key!r} is not the number of a block, nor a span like 3-6"
        )
    first, *last = map(int, key.split("-"))
    return (first, last[0]) if last else first
