"""The JSON beside a table's CSV: conditions, machine, calibration, hold-out check.

Statistics are written for whoever opens the file, and computed again when it is read.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from latency_tables.calibration import Calibration
from latency_tables.contexts import CONTEXTS, ContextCheck
from latency_tables.errors import ConditionsError, LatencyTableError, TableFormatError
from latency_tables.hold_out import HoldOut
from latency_tables.json_fields import JsonObject, parse_document
from latency_tables.origin import Origin
from latency_tables.schema import SCHEMA, SCHEMA_VERSION, UNIT, Conditions, Row
from latency_tables.span_masks import Span, SpanChain, SpanChoice
from latency_tables.table import LatencyTable

MEND = "restore the file, or write the table again with `dshrink profile`"

FIELDS = (
    "schema",
    "schema_version",
    "unit",
    "model",
    "resolution",
    "in_channels",
    "block_names",
    "chain",
    "spans",
    "unmergeable",
    "origin",
    "conditions",
    "conditions_digest",
    "context",
    "row_count",
    "rows_digest",
    "fit_for_search",
    "fit_reason",
    "calibration",
    "hold_out",
    "contexts",
    "twins",
    "boards",
    "warnings",
    "fingerprint",
    "seed",
    "date",
    "dshrink_version",
)


def format_sidecar(table: LatencyTable) -> str:
    """The sidecar's text."""
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "unit": UNIT,
        "resolution": list(table.resolution),
        "block_names": list(table.block_names),
        "chain": asdict(table.chain) if table.chain else None,
        "spans": asdict(table.spans) if table.spans else None,
        "unmergeable": _unmergeable_json(table),
        "origin": asdict(table.origin) if table.origin else None,
        "conditions": table.conditions.to_json(),
        "conditions_digest": table.conditions.digest,
        "row_count": len(table.rows),
        "rows_digest": table.digest,
        "calibration": table.calibration.to_json() if table.calibration else None,
        "hold_out": table.hold_out.to_json() if table.hold_out else None,
        "contexts": {name: check.to_json() for name, check in table.contexts.items()},
        "twins": list(table.twins),
        "boards": list(table.boards),
        "warnings": list(table.warnings),
    }
    document = {name: values[name] if name in values else getattr(table, name) for name in FIELDS}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def parse_header(text: str, where: str) -> tuple[JsonObject, Conditions]:
    """The sidecar's fields and its conditions, before the rows are known.

    Raises TableFormatError or ConditionsError, which name ``where`` and the field.
    """
    source = parse_document(text, where, TableFormatError, MEND)
    source.check_schema(SCHEMA, SCHEMA_VERSION)
    if source.text("unit") != UNIT:
        source.refuse("unit", f"{UNIT!r}, the only unit of this version: convert the latencies")
    source.check_fields(FIELDS)
    conditions = source.mapping("conditions")
    try:
        return source, Conditions.from_json(conditions.data)
    except ConditionsError as error:
        raise ConditionsError(f"{where}: {error}: {MEND}") from None


def build_table(source: JsonObject, conditions: Conditions, rows: tuple[Row, ...]) -> LatencyTable:
    """The table of these rows and the sidecar's fields. Raises LatencyTableError."""
    resolution = source.integers("resolution")
    if len(resolution) != 2:
        source.refuse("resolution", "[height, width]")
    calibration = source.optional_mapping("calibration")
    hold_out = source.optional_mapping("hold_out")
    try:
        table = LatencyTable(
            model=source.text("model"),
            resolution=(resolution[0], resolution[1]),
            in_channels=source.integer("in_channels"),
            block_names=source.texts("block_names"),
            rows=rows,
            conditions=conditions,
            unmergeable=_unmergeable(source),
            calibration=Calibration.from_json(calibration) if calibration else None,
            hold_out=HoldOut.from_json(hold_out) if hold_out else None,
            fingerprint=source.mapping("fingerprint").data,
            seed=source.integer("seed"),
            date=source.text("date"),
            dshrink_version=source.text("dshrink_version"),
            twins=tuple(twin.data for twin in source.mappings("twins")),
            # Version 1 did not know more than one board.
            boards=tuple(one.data for one in source.mappings("boards"))
            if "boards" in source.data
            else (),
            warnings=source.texts("warnings"),
            # Before version 3 pieces were measured alone.
            context=source.text("context") if "context" in source.data else CONTEXTS[0],
            contexts=_contexts(source) if "contexts" in source.data else {},
            # Before version 4 all tables were of blocks, and measured by us.
            chain=_chain(source) if "chain" in source.data else None,
            origin=_origin(source) if "origin" in source.data else None,
            spans=_spans(source) if "spans" in source.data else None,
        )
        _check_own_context(table)
        return table
    except LatencyTableError as error:
        if str(error).startswith(source.where):
            raise
        raise type(error)(f"{source.where}: {error}: {MEND}") from None


def _check_own_context(table: LatencyTable) -> None:
    """What is said of the table's own context must be what its own networks show."""
    said = table.contexts.get(table.context)
    if said is not None and said != ContextCheck.of(table.hold_out, said.unnamed_percent):
        raise TableFormatError(
            f"contexts: what is said of {table.context!r}, the table's own, is not what its "
            "hold-out networks show"
        )


def _contexts(source: JsonObject) -> dict[str, ContextCheck]:
    found = source.mapping("contexts")
    return {name: ContextCheck.from_json(found.mapping(name)) for name in found.data}


def _chain(source: JsonObject) -> SpanChain | None:
    found = source.optional_mapping("chain")
    if found is None:
        return None
    found.check_fields(tuple(SpanChain.__dataclass_fields__))
    return SpanChain(
        convolutions=found.texts("convolutions"),
        mask=found.text("mask"),
        skips=_pairs(found, "skips"),
        block_ends=found.integers("block_ends"),
    )


def _spans(source: JsonObject) -> SpanChoice | None:
    found = source.optional_mapping("spans")
    if found is None:
        return None
    found.check_fields(tuple(SpanChoice.__dataclass_fields__))
    return SpanChoice(mode=found.text("mode"), max_kernel=found.optional_integer("max_kernel"))


def _pairs(source: JsonObject, key: str) -> tuple[Span, ...]:
    pairs = source.items(key)
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)):
            source.refuse(key, "a list of [p, q]")
    return tuple((pair[0], pair[1]) for pair in pairs)


def _origin(source: JsonObject) -> Origin | None:
    found = source.optional_mapping("origin")
    return None if found is None else Origin.from_json(found)


def _unmergeable_json(table: LatencyTable) -> dict[str, str]:
    """A block is "3", a span "3-6"."""
    keys = {
        at: f"{at[0]}-{at[1]}" if isinstance(at, tuple) else f"{at}" for at in table.unmergeable
    }
    ordered = sorted(keys, key=lambda at: at if isinstance(at, tuple) else (at, at))
    return {keys[at]: table.unmergeable[at] for at in ordered}


def _unmergeable(source: JsonObject) -> dict[int | Span, str]:
    found = source.mapping("unmergeable")
    return {_place_of(key, found.where): found.text(key) for key in found.data}


def _place_of(key: str, where: str) -> int | Span:
    numbers = key.split("-")
    if len(numbers) > 2 or not all(
        text.isascii() and text.isdigit() and str(int(text)) == text for text in numbers
    ):
        raise TableFormatError(
            f"{where}: {key!r} is not the number of a block, nor a span like 3-6: {MEND}"
        )
    first, *last = map(int, numbers)
    return (first, last[0]) if last else first
