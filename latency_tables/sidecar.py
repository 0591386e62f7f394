"""The JSON next to a table's CSV: conditions, machine, calibration, hold-out check.

Statistics are written for whoever opens the file, and computed again when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from latency_tables.calibration import Calibration
from latency_tables.contexts import ContextCheck
from latency_tables.errors import LatencyTableError, TableFormatError
from latency_tables.hold_out import HoldOut
from latency_tables.origin import Origin
from latency_tables.records import format_record, parse_record
from latency_tables.schema import SCHEMA, SCHEMA_VERSION, Conditions, Row
from latency_tables.span_masks import Span, SpanChain, SpanChoice
from latency_tables.table import LatencyTable

FIX = "restore the file, or write the table again with `dshrink profile`"


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The fields of the file, in its order; ``unmergeable`` names a block "3", a span "3-6"."""

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
    context: str
    row_count: int
    rows_digest: str
    fit_for_search: bool
    fit_reason: str
    calibration: Calibration | None
    hold_out: HoldOut | None
    contexts: Mapping[str, ContextCheck]
    twins: tuple[Mapping[str, Any], ...]
    boards: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    fingerprint: Mapping[str, Any]
    seed: int
    date: str
    dshrink_version: str

    def __post_init__(self) -> None:
        for key in self.unmergeable:
            _place_of(key)

    def table(self, rows: tuple[Row, ...]) -> LatencyTable:
        """The table of these rows. Raises LatencyTableError."""
        values = {name: getattr(self, name) for name in _SHARED}
        unmergeable = {_place_of(key): reason for key, reason in self.unmergeable.items()}
        table = LatencyTable(rows=rows, unmergeable=unmergeable, **values)
        _check_own_context(table)
        return table


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
        rows_digest=table.digest,
        fit_for_search=table.fit_for_search,
        fit_reason=table.fit_reason,
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


def _check_own_context(table: LatencyTable) -> None:
    """What is said of the table's own context must be what its own networks show."""
    said = table.contexts.get(table.context)
    if said is not None and said != ContextCheck.of(table.hold_out, said.unnamed_percent):
        raise TableFormatError(
            f"contexts: what is said of {table.context!r}, the table's own, is not what its "
            "hold-out networks show"
        )


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
