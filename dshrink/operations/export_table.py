"""Latency tables in the formats of other projects (``latency_tables.formats``).

A table of a network says what each piece costs, not what it computes. Formats whose keys are shapes
need that: the network is made again, and a row is written only where its piece is still the same.
"""

from __future__ import annotations

import shlex

from dshrink.operations.given import AnyTable, opened_any
from latency_tables.formats.exporting import ALONE, Export, TimedSpec, timed
from latency_tables.formats.registry import KEYED_BY_SHAPE, check_format, write_format
from latency_tables.layers.layer_table import LayerTable
from latency_tables.pieces import NetworkPieces
from latency_tables.table import LatencyTable

OTHER = "the network that its name stands for now has another piece there"


def export_table(table: AnyTable | LayerTable, name: str, which: str = ALONE) -> Export:
    """A table of a network or of layers in the format ``name``.

    ``which`` is the latency of each row: "alone", "in-network" or "beside" (a neighbour). Raises
    DshrinkError or LatencyTableError where the table cannot be read or has no row for the format.
    """
    check_format(name, which)
    known = opened_any(table)
    if isinstance(known, LayerTable):
        return write_format(name, known, which=which)
    rows = _with_specs(known, which) if name in KEYED_BY_SHAPE else None
    return write_format(name, known, which=which, rows=rows)


def _with_specs(table: LatencyTable, which: str) -> list[TimedSpec | str]:
    """The rows with what their pieces compute, or why a row has none."""
    pieces = _pieces(table).by_place
    found: list[TimedSpec | str] = []
    for row in table.rows:
        piece = pieces.get(row.place)
        same = piece is not None and piece.spec.digest == row.digest
        found.append(timed(row, piece.spec, which) if piece is not None and same else OTHER)
    return found


def _pieces(table: LatencyTable) -> NetworkPieces:
    from dshrink.network.models import load_network
    from dshrink.pieces.block_pieces import network_pieces
    from dshrink.pieces.span_pieces import span_pieces

    # Arguments of a network of one's own are part of its name: net.py:make width=0.5
    model, *arguments = shlex.split(table.model) if "=" in table.model else [table.model]
    network = load_network(
        model,
        model_args=arguments,
        resolution=table.resolution,
        in_channels=table.in_channels,
    )
    return network_pieces(network) if table.chain is None else span_pieces(network, mode="exact")
