"""The table of layers: one row a layer, measured alone and, if asked for, beside a neighbour."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from latency_tables.errors import MissingPieceError, TableFormatError
from latency_tables.layers.layer import LAYER_COLUMNS, Layer
from latency_tables.measured import Measured, check_measured, check_order, one_line, settle_types
from latency_tables.networks import Level
from latency_tables.origin import Origin
from latency_tables.schema import Conditions
from latency_tables.table_rows import digest_of

if TYPE_CHECKING:
    import pandas as pd

BESIDE = ("beside_low_ms", "beside_ms", "beside_high_ms")
#: What a layer is measured in: alone, and in addition behind a neighbour.
CONTEXTS = ("alone", "pair")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow(Measured):
    """What one layer takes, alone in a file.

    ``names`` are what the list of layers calls it. ``beside_ms`` is what it adds behind a pointwise
    convolution of its own input, with its 95 % interval; None where that was not asked for, and it
    may be 0 or below where the runtime fuses the two.
    """

    layer: Layer
    names: tuple[str, ...] = ()
    digest: str
    beside_ms: float | None = None
    beside_low_ms: float | None = None
    beside_high_ms: float | None = None

    def __post_init__(self) -> None:
        settle_types(self, BESIDE)
        object.__setattr__(self, "names", tuple(map(one_line, self.names)))
        if self.digest != self.layer.spec.digest:
            raise TableFormatError(
                f"digest {self.digest!r} is not that of {self.layer.name} "
                f"({self.layer.spec.digest}): the layer was edited, or written by another version"
            )
        if any(";" in name for name in self.names):
            raise TableFormatError(f"a name must not contain ';', got {self.names}")
        check_measured(self)
        given = [getattr(self, name) for name in BESIDE]
        if any(value is None for value in given) and any(value is not None for value in given):
            raise TableFormatError(f"{', '.join(BESIDE)} must all be numbers, or all empty")
        if given[0] is not None:
            check_order(self, *BESIDE)

    @property
    def name(self) -> str:
        """What the list calls it, else its description."""
        return self.names[0] if self.names else self.layer.name

    @property
    def half_width_percent(self) -> float | None:
        """Half of the 95 % interval in per cent of the latency; None where there is none."""
        if self.latency_ms is None or self.low_ms is None or self.high_ms is None:
            return None
        return 50.0 * (self.high_ms - self.low_ms) / self.latency_ms


#: The columns of the CSV: the layer's, the row's, the digest of the conditions.
_FIRST = ("names", "digest", "latency_ms", "low_ms", "high_ms", "beside_ms")
ROW_COLUMNS = tuple(
    dict.fromkeys((*_FIRST, *(one.name for one in fields(LayerRow) if one.name != "layer")))
)
COLUMNS = (*LAYER_COLUMNS, *ROW_COLUMNS, "conditions")


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """Rows of distinct layers under one set of conditions.

    ``target_percent`` is how well each was to be known: half of its 95 % interval. ``origin`` says
    who published the rows, None for our own. The rest is as in ``LatencyTable``.
    """

    rows: tuple[LayerRow, ...]
    conditions: Conditions
    target_percent: float = 2.0
    context: str = "alone"
    level: Level | None = None
    origin: Origin | None = None
    warnings: tuple[str, ...] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    boards: tuple[Mapping[str, Any], ...] = ()
    seed: int = 0
    date: str = ""
    dshrink_version: str = ""

    def __post_init__(self) -> None:
        if not self.rows:
            raise TableFormatError("a table of layers needs at least one layer")
        if self.context not in CONTEXTS:
            raise TableFormatError(f"context {self.context!r} is not one of {', '.join(CONTEXTS)}")
        twice = [one for one, count in Counter(row.layer for row in self.rows).items() if count > 1]
        if twice:
            raise TableFormatError(f"{twice[0].name} is there twice")
        for row in self.rows:
            if (row.verdict == "published") != (self.origin is not None):
                raise TableFormatError(
                    f"{row.name}: published rows, and only these, need an origin"
                )
        for name in ("fingerprint", "boards"):
            # Tuples inside of free-form data would come back from a file as lists.
            value = json.loads(json.dumps(getattr(self, name)))
            object.__setattr__(self, name, tuple(value) if name == "boards" else value)

    @cached_property
    def by_layer(self) -> Mapping[Layer, LayerRow]:
        """The rows by their layer."""
        return {row.layer: row for row in self.rows}

    def row(self, layer: Layer) -> LayerRow:
        """Raises MissingPieceError."""
        found = self.by_layer.get(layer)
        if found is None:
            raise MissingPieceError(
                f"the table has no {layer.name}: `dshrink table predict --layer` estimates layers "
                "between measured ones"
            )
        return found

    def to_frame(self) -> pd.DataFrame:
        """A line a row: the conditions, what the layer is, and what it takes.

        Latencies are in ms, NaN where a measurement failed.
        """
        import pandas as pd

        about = self.conditions.to_json()
        return pd.DataFrame(
            {**about, **asdict(row.layer), **{name: getattr(row, name) for name in ROW_COLUMNS}}
            for row in self.rows
        )

    @cached_property
    def measured(self) -> tuple[LayerRow, ...]:
        """Those that have a latency."""
        return tuple(row for row in self.rows if row.latency_ms is not None)

    @property
    def within_target(self) -> int:
        """How many rows are known as well as was asked for, whatever else is to be said of them."""
        widths = [row.half_width_percent for row in self.rows]
        return sum(width is not None and width <= self.target_percent for width in widths)

    @property
    def is_fit(self) -> bool:
        """Whether every row is known as well as was asked for, and has no other fault."""
        return all(row.verdict in ("ok", "published") for row in self.rows)

    @cached_property
    def rows_digest(self) -> str:
        """16 hex digits of all that the CSV holds."""
        return digest_of([self._plain(row) for row in self.rows])

    @staticmethod
    def _plain(row: LayerRow) -> list[Any]:
        return [row.layer.to_texts(), *(getattr(row, name) for name in ROW_COLUMNS)]
