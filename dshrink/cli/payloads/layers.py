"""JSON output of the commands that write or read tables of layers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.layers.prediction import LayerPrediction
from latency_tables.networks import Level
from latency_tables.origin import Origin
from latency_tables.schema import Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersSummary:
    """A table of layers without its rows; ``origin`` is null for a table measured here."""

    origin: Origin | None
    conditions: Conditions
    target_percent: float
    context: str
    level: Level | None
    within_target: int
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, table: LayerTable, **more: Any) -> Self:
        known = {one.name: getattr(table, one.name) for one in fields(cls) if one.name not in more}
        return cls(**known, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersData(LayersSummary):
    """A table of layers; ``origin`` is null for a table measured here."""

    rows: tuple[LayerRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenLayers(LayersData):
    """A table of layers that was written to ``folder``."""

    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPrediction(LayerPrediction):
    """A predicted layer.

    ``held_out`` is null for a layer that was measured itself: then the latency is what was
    measured.
    """

    name: str

    @classmethod
    def of(cls, found: LayerPrediction) -> NamedPrediction:
        known = {one.name: getattr(found, one.name) for one in fields(LayerPrediction)}
        return cls(**known, name=found.layer.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPredictions:
    """The layers that were asked for, in order."""

    predictions: tuple[NamedPrediction, ...]
