"""Tables of layers on disk: ``layers.csv`` with the rows, ``layers.json`` with everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from latency_tables.csv_lines import CsvLine, CsvSource, format_csv, read_lines
from latency_tables.errors import ConditionsError, LatencyTableError, TableFormatError
from latency_tables.files import write_atomically
from latency_tables.layers.layer import LAYER_COLUMNS
from latency_tables.layers.layer_table import COLUMNS, ROW_COLUMNS, LayerRow, LayerTable
from latency_tables.layers.texts import layer_of
from latency_tables.networks import Level
from latency_tables.origin import Origin
from latency_tables.records import convert_record, format_record, parse_record
from latency_tables.schema import Conditions
from latency_tables.two_files import TwoFiles
from latency_tables.wording import noun

CSV_NAME, SIDECAR_NAME = "layers.csv", "layers.json"
SCHEMA = "dshrink.layer_table"
SCHEMA_VERSION = 1
FIX = "restore the file, or write the table again with `dshrink profile --layers`"

_OPTIONAL = {one.name for one in fields(LayerRow) if "None" in str(one.type)}


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The JSON next to the rows."""

    unit: Literal["ms"] = "ms"
    conditions: Conditions
    conditions_digest: str
    row_count: int
    rows_digest: str
    target_percent: float
    context: str
    level: Level | None
    origin: Origin | None
    warnings: tuple[str, ...]
    seed: int
    date: str
    dshrink_version: str
    boards: tuple[Mapping[str, Any], ...]
    fingerprint: Mapping[str, Any]


#: What a table and its sidecar call alike.
_SHARED = tuple({one.name for one in fields(Sidecar)} & {one.name for one in fields(LayerTable)})


def save_layer_table(table: LayerTable, folder: Path) -> Path:
    """Write both files into ``folder`` (made if missing); returns the path of the CSV."""
    path = folder / CSV_NAME
    write_atomically(path, format_layer_rows(table))
    sidecar = Sidecar(
        conditions_digest=table.conditions.digest,
        row_count=len(table.rows),
        rows_digest=table.rows_digest,
        **{name: getattr(table, name) for name in _SHARED},
    )
    text = format_record(sidecar, SCHEMA, SCHEMA_VERSION)
    write_atomically(path.with_suffix(".json"), text)
    return path


def is_layer_table(path: Path) -> bool:
    """Whether the folder, or one of the two files, is a table of layers."""
    return path.name in (CSV_NAME, SIDECAR_NAME) or (path / CSV_NAME).exists()


def format_layer_rows(table: LayerTable) -> str:
    """The CSV of a table's rows."""
    return format_csv(COLUMNS, [_cells(row, table.conditions.digest) for row in table.rows])


def load_layer_table(folder: Path | str) -> LayerTable:
    """Read and check a table; ``folder`` is its folder or one of its two files.

    Raises LatencyTableError: one line that says which file, which line and how to fix it.
    """
    files = TwoFiles.of(
        Path(folder),
        name=CSV_NAME,
        what="a table of layers",
        command="dshrink profile --layers",
    )
    path, beside = files.csv, files.sidecar
    csv_text, json_text = files.read()
    source = CsvSource(where=str(path), error=TableFormatError, fix=FIX)
    lines = read_lines(csv_text, source, COLUMNS)
    if unknown := [name for name in lines[0].values if name not in COLUMNS]:
        raise source.bad(f"unknown {noun(len(unknown), 'column')} {', '.join(unknown)}", 1)
    sidecar = parse_record(
        json_text,
        Sidecar,
        where=str(beside),
        error=TableFormatError,
        fix=FIX,
        schema=SCHEMA,
        version=SCHEMA_VERSION,
    )
    rows = tuple(map(_row, lines))
    for line in lines:
        if line.text("conditions") != sidecar.conditions.digest:
            raise ConditionsError(
                f"{path}: line {line.number} was measured under other conditions than {beside} "
                "describes: copy both files of one table"
            )
    try:
        table = LayerTable(rows=rows, **{name: getattr(sidecar, name) for name in _SHARED})
    except LatencyTableError as error:
        raise type(error)(f"{path}: {error}: {FIX}") from None
    files.require_pair(len(rows), table.rows_digest, told=(sidecar.row_count, sidecar.rows_digest))
    return table


def _cells(row: LayerRow, conditions: str) -> list[Any]:
    values = {name: getattr(row, name) for name in ROW_COLUMNS}
    values["names"] = "; ".join(row.names)
    return [*row.layer.to_texts().values(), *values.values(), conditions]


def _row(line: CsvLine) -> LayerRow:
    texts = {name: line.text(name) for name in LAYER_COLUMNS}
    values: dict[str, Any] = {
        name: None if name in _OPTIONAL and not text else text
        for name in ROW_COLUMNS
        for text in (line.text(name),)
    }
    values["names"] = [name.strip() for name in line.text("names").split(";") if name.strip()]
    try:
        values["layer"] = layer_of(texts)
    except LatencyTableError as error:
        raise line.error(str(error)) from None
    where = f"{line.source.where}: line {line.number}"
    return convert_record(
        values, LayerRow, where=where, error=line.source.error, fix=FIX, strict=False
    )
