"""Latencies of layers that others published, and the table that they make.

What a key of theirs does not tell is not known: layers of once-for-all and HALP have no activation
and no residual here, and a bias. Entries that are no layer are left out and counted.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latency_tables.errors import TableFormatError
from latency_tables.layers.layer import Layer
from latency_tables.layers.layer_table import LayerRow, LayerTable
from latency_tables.measured import one_line
from latency_tables.origin import Origin
from latency_tables.reading import read_text
from latency_tables.schema import Conditions

#: Of YAML, in characters: once-for-all's own tables have some hundred thousand.
MOST_YAML = 8 << 20
#: An anchor or alias: lists of lists of aliases are small in a file alone.
_ALIAS = re.compile(r"(?:^|[\s,\[{])[*&][^\s*&]", re.MULTILINE)
#: In ms; sums of larger ones overflow.
_LARGEST = 1e15
NO_LAYER = "blocks of several layers, or what follows from the rest of a network"
SAME_LAYER = "the layer of an entry before them: what their keys tell apart is not in a layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLayer:
    """A layer, what it takes in ms, and the standard deviation where the source gives one."""

    layer: Layer
    latency_ms: float
    stdev_ms: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLayers:
    """What a file holds: layers, and how many entries are none, by reason.

    ``batch`` is the batch size that its keys name, None where they name none.
    """

    layers: tuple[PublishedLayer, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    batch: int | None = None

    def warnings(self) -> tuple[str, ...]:
        """A line for each reason."""
        total = len(self.layers) + sum(self.left_out.values())
        return tuple(
            f"{count} of {total} entries are left out: they are {reason}"
            for reason, count in self.left_out.items()
        )


def published_layer_table(
    published: PublishedLayers,
    conditions: Conditions,
    origin: Origin,
    *,
    date: str = "",
    dshrink_version: str = "",
) -> LayerTable:
    """The table of these layers, marked as published."""
    return LayerTable(
        rows=tuple(
            LayerRow(
                layer=one.layer,
                names=one.names,
                digest=one.layer.spec.digest,
                latency_ms=one.latency_ms,
                stdev_ms=one.stdev_ms,
                macs=one.layer.spec.macs,
                parameters=one.layer.spec.parameters,
                peak_activations=one.layer.spec.peak_activations,
                verdict="published",
            )
            for one in published.layers
        ),
        conditions=conditions,
        origin=origin,
        warnings=published.warnings(),
        date=date,
        dshrink_version=dshrink_version,
    )


def collected(
    found: Iterable[PublishedLayer],
    left_out: Mapping[str, int],
    where: str,
    batch: int | None = None,
) -> PublishedLayers:
    """What a file holds. Raises TableFormatError where that is no layer."""
    result = PublishedLayers(layers=tuple(found), left_out=left_out, batch=batch)
    if not result.layers:
        raise TableFormatError(f"{where}: holds no layer ({'; '.join(result.warnings())})")
    return result


def milliseconds(value: Any, what: str, *, least: float | None = None) -> float:
    """A finite number above 0, or from ``least`` on. Raises TableFormatError, which begins so."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    above = is_number and value <= _LARGEST and (value > 0 if least is None else value >= least)
    if not above:
        bound = "above 0" if least is None else f"{least:g} or more"
        raise TableFormatError(f"{what} must be a number of ms {bound}, got {shown(value)}")
    return float(value)


def shown(value: Any) -> str:
    """The beginning of what a file holds, for a message."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "an integer of thousands of digits"


def _require_plain_yaml(text: str, path: Path) -> None:
    """Raise TableFormatError for what would take minutes to read, or gigabytes to hold."""
    if len(text) > MOST_YAML:
        raise TableFormatError(
            f"{path}: above {MOST_YAML >> 20} MiB, and YAML is slow to read: give the table as CSV"
        )
    if _ALIAS.search(text):
        raise TableFormatError(
            f"{path}: holds anchors or aliases, which no table needs: write it without"
        )


def load_mapping(path: Path, *, is_yaml: bool) -> Mapping[str, Any]:
    """The mapping in a YAML or JSON file, whose keys are texts. Raises TableFormatError."""
    import yaml

    # libyaml's reader takes seconds where the one in Python takes minutes.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = read_text(path)
        if is_yaml:
            _require_plain_yaml(text, path)
            data = yaml.load(text, loader)
        else:
            data = json.loads(text)
    except FileNotFoundError:
        raise TableFormatError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise TableFormatError(f"{path}: cannot be read: {one_line(str(error))}") from None
    if isinstance(data, dict) and isinstance(data.get("rows"), list):
        raise TableFormatError(f"{path}: is a table that dshrink exported: import its CSV")
    if not isinstance(data, dict) or not data or not all(isinstance(key, str) for key in data):
        raise TableFormatError(f"{path}: must be a mapping from keys to latencies")
    return data
