"""Tables as a line, or an object, a row, with all that dshrink knows: CSV and JSON.

The conditions stand in every line of the CSV and once in the JSON. A CSV of layers is read, too:
the fields of a layer by their long or short names, ``latency_ms``, and ``stdev_ms`` and ``name``
where these are known.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latency_tables.csv_lines import CsvLine, CsvSource, format_csv, load_lines
from latency_tables.errors import PieceError, TableFormatError
from latency_tables.formats.exporting import Export
from latency_tables.formats.published_layers import PublishedLayer, PublishedLayers, collected
from latency_tables.layers.layer import LAYER_COLUMNS, Layer
from latency_tables.layers.layer_table import ROW_COLUMNS, LayerRow, LayerTable
from latency_tables.layers.texts import SHORT, layer_of
from latency_tables.records import plain
from latency_tables.schema import Conditions, Row
from latency_tables.table import LatencyTable
from latency_tables.wording import noun

_FIELDS = frozenset((*LAYER_COLUMNS, *SHORT, "hw"))
#: Verdicts of rows without a latency to trust.
UNFINISHED = ("failed", "bounded")
NOT_MEASURED = "layers whose measurement failed or was not finished"
#: What our own exports hold besides: how a layer was measured, and on what.
_OURS = frozenset((*ROW_COLUMNS, *Conditions.__dataclass_fields__, "name", "conditions"))


def write_csv_rows(table: LatencyTable | LayerTable) -> Export:
    """A line a row: what it is, what it takes, and behind these the conditions."""
    about = table.conditions.to_json()
    lines = [{**_cells(row), **about} for row in table.rows]
    if isinstance(table, LatencyTable):
        lines = [{"model": table.model, **line} for line in lines]
    return Export(content=format_csv(list(lines[0]), lines), rows=len(lines))


def _cells(row: Row | LayerRow) -> dict[str, Any]:
    if isinstance(row, Row):
        return asdict(row)
    values = {name: getattr(row, name) for name in ROW_COLUMNS}
    return {**row.layer.to_texts(), **values, "names": "; ".join(row.names)}


def write_json_rows(table: LatencyTable | LayerTable) -> Export:
    """An object with the conditions, the origin of what was published, and the rows."""
    data = {
        "unit": "ms",
        "conditions": table.conditions.to_json(),
        "origin": plain(table.origin),
    }
    if isinstance(table, LatencyTable):
        data |= {"model": table.model, "resolution": table.resolution}
    data["rows"] = plain(table.rows)
    text = json.dumps(data, indent=1, allow_nan=False)
    return Export(content=text + "\n", rows=len(table.rows))


def read_layer_csv(path: Path) -> PublishedLayers:
    """The layers of a CSV, one a line. Raises TableFormatError, which names the line."""
    fix = f"give a line a layer, with the columns {', '.join(LAYER_COLUMNS)} and latency_ms"
    source = CsvSource(where=str(path), error=TableFormatError, fix=fix)
    lines = load_lines(path, source, ("latency_ms",))
    if unknown := [name for name in lines[0].values if name not in _FIELDS | _OURS]:
        raise source.bad(f"unknown {noun(len(unknown), 'column')} {', '.join(unknown)}", 1)
    first: dict[Layer, int] = {}
    found = []
    left_out: Counter[str] = Counter()
    for line in lines:
        if line.values.get("verdict", "").strip() in UNFINISHED:
            left_out[NOT_MEASURED] += 1
            continue
        try:
            layer = layer_of({name: text for name, text in line.values.items() if name in _FIELDS})
        except PieceError as error:
            raise line.error(str(error)) from None
        if layer in first:
            raise line.error(f"{layer.name} is on line {first[layer]} already")
        first[layer] = line.number
        found.append(
            PublishedLayer(
                layer=layer,
                latency_ms=line.number_in("latency_ms", above=0),
                stdev_ms=line.number_if_any("stdev_ms"),
                names=tuple(_names(line)),
            )
        )
    return collected(found, left_out, str(path))


def _names(line: CsvLine) -> Iterator[str]:
    for column in ("name", "names"):
        for name in line.values.get(column, "").split(";"):
            if name.strip():
                yield name.strip()
