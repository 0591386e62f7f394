"""The formats that tables are exported to and layers imported from, by name and by file.

A format is written from the rows alone or, where its keys are shapes, from the operators of each
row, which a table of a network does not hold: whoever exports one makes the network again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from latency_tables.csv_lines import CsvSource, load_lines
from latency_tables.errors import TableFormatError
from latency_tables.formats.exporting import ALONE, COLUMN, Export, TimedSpec, timed
from latency_tables.formats.flat import read_layer_csv, write_csv_rows, write_json_rows
from latency_tables.formats.halp import read_halp, write_halp
from latency_tables.formats.kim import write_kim
from latency_tables.formats.ofa import read_ofa, write_ofa
from latency_tables.formats.published_layers import PublishedLayers, load_mapping
from latency_tables.layers.layer_table import LayerTable
from latency_tables.layers.texts import SHORT
from latency_tables.table import LatencyTable

#: Those that hold every column of a row, and those whose keys are shapes.
FLAT, KEYED_BY_SHAPE = ("csv", "json"), ("ofa", "halp", "halp-pickle")
FORMATS = (*FLAT, *KEYED_BY_SHAPE, "kim")

YAML, JSON, PICKLE = (".yaml", ".yml"), (".json",), (".pkl", ".pickle")
#: What a pickle of protocol 2 or later begins with.
_PICKLE_MARK = b"\x80"


def write_format(
    name: str,
    table: LatencyTable | LayerTable,
    *,
    which: str = ALONE,
    rows: Iterable[TimedSpec | str] | None = None,
) -> Export:
    """A table in a format; ``which`` latency of its rows is a key of ``exporting.COLUMN``.

    ``rows`` are the table's with their operators, or why they have none; they may be left out for a
    table of layers, which has them. Raises TableFormatError where no row has a place in the format.
    """
    check_format(name, which)
    if name == "csv":
        return write_csv_rows(table)
    if name == "json":
        return write_json_rows(table)
    if name == "kim":
        if isinstance(table, LayerTable):
            raise TableFormatError(
                "the format kim holds spans of a network, and this is a table of layers: export it "
                "as ofa, halp, csv or json"
            )
        return write_kim(table, which)
    if rows is None:
        if not isinstance(table, LayerTable):
            raise TableFormatError(f"the format {name} needs the operators of {table.model}")
        rows = [timed(row, row.layer.spec, which) for row in table.rows]
    if name == "ofa":
        return write_ofa(rows)
    return write_halp(rows, table.conditions.batch, as_pickle=name == "halp-pickle")


def check_format(name: str, which: str = ALONE) -> None:
    """Raise TableFormatError for an unknown format, or a latency that it has no choice of."""
    if name not in FORMATS:
        raise TableFormatError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    if which not in COLUMN:
        raise TableFormatError(f"unknown latency {which!r}; known: {', '.join(COLUMN)}")
    if which != ALONE and name in FLAT:
        raise TableFormatError(f"the format {name} holds all latencies: leave out {which}")


def holds_layers(path: Path) -> bool:
    """Whether a file is one of layers: by its name and, of a CSV, by its columns.

    Raises TableFormatError for a pickle, and for a file that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in PICKLE or _begins_as_pickle(path):
        raise TableFormatError(
            f"{path}: a pickle runs whatever it holds, so it is not read: where you trust it, "
            "write its mapping as JSON (json.dump(pickle.load(file), out)) and import that"
        )
    if suffix in (*YAML, *JSON) or not path.is_file():
        return suffix in (*YAML, *JSON)
    fix = "give a CSV of layers, spans or blocks, YAML of once-for-all or JSON of HALP"
    source = CsvSource(where=str(path), error=TableFormatError, fix=fix)
    columns = load_lines(path, source)[0].values
    return any(SHORT.get(column, column) == "in_channels" for column in columns)


def _begins_as_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(1) == _PICKLE_MARK
    except OSError:
        return False


def load_published_layers(path: Path, batch: int | None = None) -> PublishedLayers:
    """The layers of a file; where its keys name batch sizes, those of ``batch``.

    Raises TableFormatError, which names the file and the entry.
    """
    suffix = path.suffix.lower()
    if suffix in YAML:
        return read_ofa(load_mapping(path, is_yaml=True), str(path))
    if suffix in JSON:
        return read_halp(load_mapping(path, is_yaml=False), str(path), batch)
    return read_layer_csv(path)
