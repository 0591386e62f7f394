"""Latency tables on disk: ``table.csv`` with the rows, ``table.json`` with everything else.

The sidecar names the digest of the rows it was written with, so a pair of which only one half was
written, or copied, is found. Each half is replaced in one step.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from latency_tables.consistency import check_consistency
from latency_tables.csv_rows import CsvRow, format_rows, parse_rows
from latency_tables.errors import ConditionsError, LatencyTableError, TableFormatError
from latency_tables.files import write_atomically
from latency_tables.in_network import with_network_costs
from latency_tables.layers.io import is_layer_table
from latency_tables.reading import read_text
from latency_tables.schema import COLUMNS, Conditions
from latency_tables.schema_1 import (
    COLUMNS_1,
    NEW_COLUMNS,
    conditions_of_today,
    is_version_1,
    parse_sidecar_1,
)
from latency_tables.sidecar import Sidecar, build_table, format_sidecar, parse_sidecar
from latency_tables.table import LatencyTable

CSV_NAME = "table.csv"


def save_table(table: LatencyTable, directory: Path | str) -> Path:
    """Write both files into ``directory`` (made if missing); returns the path of the CSV."""
    path = Path(directory) / CSV_NAME
    write_atomically(path, format_rows(table.rows, table.conditions.digest))
    write_atomically(path.with_suffix(".json"), format_sidecar(table))
    return path


def load_table(path: Path | str) -> LatencyTable:
    """Read and check a table; ``path`` is its directory or one of its two files.

    Raises LatencyTableError: one line that says which file, which line and how to fix it.
    """
    path = Path(path)
    is_file = path.suffix in (".csv", ".json") and not path.is_dir()
    csv_path = path.with_suffix(".csv") if is_file else path / CSV_NAME
    sidecar_path = csv_path.with_suffix(".json")
    csv_text = _read(csv_path)
    sidecar_text = _read(sidecar_path)
    old = is_version_1(sidecar_text)
    entries = parse_rows(csv_text, str(csv_path), COLUMNS_1 if old else COLUMNS)
    sidecar = (parse_sidecar_1 if old else parse_sidecar)(sidecar_text, str(sidecar_path))
    _check_conditions(entries, sidecar.conditions, csv_path, sidecar_path)
    _check_blocks(entries, sidecar, csv_path)
    table = build_table(sidecar, tuple(entry.row for entry in entries), str(sidecar_path))
    digest = table.digest_without(NEW_COLUMNS) if old else table.rows_digest
    _check_pair(table, digest, sidecar, csv_path, sidecar_path)
    if old:
        conditions = conditions_of_today(table.conditions)
        return with_network_costs(replace(table, conditions=conditions))
    try:
        check_consistency(table)
    except LatencyTableError as error:
        raise type(error)(f"{sidecar_path}: {error}") from None
    return table


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        if is_layer_table(path.parent):
            raise TableFormatError(
                f"{path.parent} holds a table of layers, and a network's is needed: measure one "
                "with `dshrink profile MODEL`"
            ) from None
        raise TableFormatError(
            f"{path}: no such file; a table is {CSV_NAME} with {path.stem}.json next to it: copy "
            "both, or measure one with `dshrink profile`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TableFormatError(
            f"{path}: cannot be read as text ({error}): restore the file"
        ) from None


def _check_conditions(
    entries: tuple[CsvRow, ...], conditions: Conditions, csv_path: Path, sidecar_path: Path
) -> None:
    digests = {entry.conditions for entry in entries}
    if digests == {conditions.digest}:
        return
    if len(digests) == 1:
        raise ConditionsError(
            f"{csv_path}: its rows were measured under conditions {entries[0].conditions}, but "
            f"{sidecar_path} describes {conditions.digest}: copy both files of one table"
        )
    other = next(entry for entry in entries if entry.conditions != entries[0].conditions)
    raise ConditionsError(
        f"{csv_path}: line {other.line} ({other.row.piece}): rows of mixed conditions "
        f"({other.conditions!r} here, {entries[0].conditions!r} above): keep each set of "
        "conditions in a table of its own"
    )


def _check_blocks(entries: tuple[CsvRow, ...], sidecar: Sidecar, csv_path: Path) -> None:
    count = len(sidecar.block_names)
    for entry in entries:
        if entry.row.block is not None and entry.row.block >= count:
            raise TableFormatError(
                f"{csv_path}: line {entry.line} ({entry.row.piece}): block {entry.row.block} does "
                f"not exist, {sidecar.model} has {count} blocks numbered from 0: delete "
                "the line"
            )


def _check_pair(
    table: LatencyTable, digest: str, sidecar: Sidecar, csv_path: Path, sidecar_path: Path
) -> None:
    count = sidecar.row_count
    if count == len(table.rows) and sidecar.rows_digest == digest:
        return
    raise TableFormatError(
        f"{csv_path}: its {len(table.rows)} rows are not the {count} rows that {sidecar_path} was "
        "written with (edited, or only one of the two files written): restore both files, or "
        "run `dshrink profile` again, which reuses what it has measured"
    )
