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
from latency_tables.two_files import TwoFiles

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
    files = TwoFiles.of(Path(path), name=CSV_NAME, what="a table", command="dshrink profile")
    csv_path, sidecar_path = files.csv, files.sidecar
    if is_layer_table(csv_path.parent) and not csv_path.exists():
        raise TableFormatError(
            f"{csv_path.parent} holds a table of layers, and a network's is needed: measure one "
            "with `dshrink profile MODEL`"
        )
    csv_text, sidecar_text = files.read()
    old = is_version_1(sidecar_text)
    entries = parse_rows(csv_text, str(csv_path), COLUMNS_1 if old else COLUMNS)
    sidecar = (parse_sidecar_1 if old else parse_sidecar)(sidecar_text, str(sidecar_path))
    _check_conditions(entries, sidecar.conditions, csv_path, sidecar_path)
    _check_blocks(entries, sidecar, csv_path)
    table = build_table(sidecar, tuple(entry.row for entry in entries), str(sidecar_path))
    digest = table.digest_without(NEW_COLUMNS) if old else table.rows_digest
    files.require_pair(len(table.rows), digest, told=(sidecar.row_count, sidecar.rows_digest))
    if old:
        conditions = conditions_of_today(table.conditions)
        return with_network_costs(replace(table, conditions=conditions))
    try:
        check_consistency(table)
    except LatencyTableError as error:
        raise type(error)(f"{sidecar_path}: {error}") from None
    return table


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
